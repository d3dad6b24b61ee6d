import io
import json
import warnings

import keras
import numpy as np
import PIL.Image
import pytest
from harness import counts_only, slow_after

import keras_sharenets as ksn
from benchmarks import scaling
from benchmarks.cli import main
from benchmarks.scaling import AXES, Axis
from benchmarks.table import Table

BY_NAME = {axis.name: axis for axis in AXES}


def hscnet_counts(width, groups, repeats, arrangements):
    """`(trainable weights, moving statistics)` of an HSC-Net with one transition module per stage, from its paper."""
    channels, weights, normalized = 16, 9 * 3 * 16, 4 * width
    for wide in (width, 2 * width, 4 * width):
        hidden = wide // 2
        weights += (channels + wide) * hidden + wide * hidden // arrangements + wide * hidden + channels * wide
        weights += 9 * hidden**2 // (groups * repeats * arrangements) + hidden**2 // groups
        normalized += channels + wide + 4 * hidden
        channels = wide
    return weights + 2 * normalized + (4 * width + 1) * 10, 2 * normalized


def test_exact_power_law():
    law = scaling.fit_power_law([1, 2, 5, 30], [7 * x**-1.5 for x in (1, 2, 5, 30)])
    assert (law.exponent, law.factor) == pytest.approx((-1.5, 7))
    assert law.deviation == pytest.approx(0, abs=1e-9)
    assert law(4) == pytest.approx(7 / 8)
    assert str(law) == "-1.50"


def test_deviation_is_the_maximum():
    """The fit moves by a third of the logarithmic distance of the middle point, so two thirds remain."""
    law = scaling.fit_power_law([1, 2, 4], [10, 20 * 1.331, 40])
    assert (law.exponent, law.factor, law.deviation) == pytest.approx((1, 11, 0.21))


def test_constant_has_exponent_0():
    law = scaling.fit_power_law([1, 2, 4], [5e7, 5e7, 5e7])
    assert str(law) == "0.00"
    assert law.deviation < 1e-9


# By default, one axis for each branch of the test.
FEW = ("hscnet, R", "igcv2, width", "hgcnet, batch")


@counts_only
@pytest.mark.parametrize(
    "axis", [pytest.param(axis, marks=[] if axis.name in FEW else pytest.mark.slow, id=axis.name) for axis in AXES]
)
def test_axis(axis):
    """The first and the last network can be built without warnings and differ in the argument only."""
    assert len(axis.values) >= 3
    assert list(axis.values) == sorted(set(axis.values))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ends = [axis.build(value) for value in (axis.values[0], axis.values[-1])]
    counts = [model.count_params() for model in ends]
    if axis.letter in ("G", "R", "T"):
        assert counts[0] > counts[1]
    elif axis.letter == "batch":
        assert counts[0] == counts[1]
        assert [axis.batch_size(value, 7) for value in axis.values] == list(axis.values)
    else:
        assert counts[0] < counts[1]
    if axis.letter != "batch":
        assert {axis.batch_size(value, 7) for value in axis.values} == {7}


@counts_only
@pytest.mark.parametrize("name", slow_after(1, ["hscnet, G", "hscnet, R", "hscnet, T"]))
def test_stored_parameters_match_formula(name):
    axis = BY_NAME[name]
    for value in axis.values:
        given = {**axis.fixed, axis.argument: value}
        sharing = [given[argument] for argument in ("width", "groups", "channel_repeats", "arrangements")]
        assert ksn.profile(axis.build(value)).stored_parameters == hscnet_counts(*sharing)[0]


def test_axes_cover_every_argument():
    """G, R, T, depth, width, and batch of HSC-Net; depth, width, and batch of IGC-V2."""
    letters = {family: {axis.letter for axis in AXES if axis.family == family} for family in ("hscnet", "igcv2")}
    assert letters == {"hscnet": {"G", "R", "T", "depth", "width", "batch"}, "igcv2": {"depth", "width", "batch"}}
    assert len(BY_NAME) == len(AXES)


@pytest.mark.slow
def test_quick_table(tmp_path, capsys):
    assert main(["scaling", "--quick", "--output", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    assert (row["family"], row["letter"]) == ("hscnet", "T")
    products = ksn.profile(scaling.QUICK[0].build(1)).multiply_adds
    for point, arrangements in zip(row["points"], (1, 2, 4), strict=True):
        assert point["value"] == arrangements
        assert point["milliseconds"] > 0
        # Training takes three times the multiply-adds of two images.
        assert point["multiply_adds"] == 6 * products
        weights, statistics = hscnet_counts(64, 2, 2, arrangements)
        assert 0 <= point["kept_bytes"] - 4 * (2 * weights + statistics) < 32
        assert point["peak_memory_bytes"] is None
    assert row["points"][0]["ratio"] == 1
    assert row["ratio"] == row["points"][-1]["ratio"]
    laws = row["laws"]
    slope = np.polyfit(np.log([1, 2, 4]), np.log([sum(hscnet_counts(64, 2, 2, t)) for t in (1, 2, 4)]), 1)[0]
    assert laws["kept_bytes"]["exponent"] == pytest.approx(slope, abs=0.03)
    assert laws["multiply_adds"]["exponent"] == pytest.approx(0, abs=1e-9)
    assert laws["activation_bytes"]["exponent"] == pytest.approx(0, abs=1e-9)
    assert laws["peak_memory_bytes"] is row["peak_memory_bytes_law"] is None
    assert (tmp_path / "scaling.md").read_text() == capsys.readouterr().out
    assert PIL.Image.open(io.BytesIO((tmp_path / "scaling.png").read_bytes())).size[0] > 600


def classifier(width, include_preprocessing):
    assert not include_preprocessing
    inputs = keras.Input((2, 2, 3))
    x = keras.layers.Conv2D(width, 1, use_bias=False)(inputs)
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(keras.layers.Flatten()(x)))


def test_table(tmp_path, capsys, monkeypatch):
    axis = Axis("made up", "width", "width", (1, 2, 4), classifier, {})
    monkeypatch.setattr(scaling, "QUICK", (axis,))
    assert main(["scaling", "--quick", "--output", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "scaling.json").read_text())["rows"]
    for point, width in zip(row["points"], (1, 2, 4), strict=True):
        assert point["milliseconds"] > 0
        # Three times the multiply-adds of two images; weights, momenta, and a few values such as the learning rate.
        assert point["multiply_adds"] == 6 * (4 * 3 + 16) * width
        assert 0 <= point["kept_bytes"] - 8 * ((3 + 16) * width + 4) < 32
        assert point["peak_memory_bytes"] is None
    assert row["points"][0]["ratio"] == 1
    assert row["ratio"] == row["points"][-1]["ratio"]
    assert row["laws"]["multiply_adds"]["exponent"] == pytest.approx(1)
    assert row["laws"]["peak_memory_bytes"] is row["peak_memory_bytes_law"] is None
    assert (tmp_path / "scaling.md").read_text() == capsys.readouterr().out
    assert PIL.Image.open(io.BytesIO((tmp_path / "scaling.png").read_bytes())).size[0] > 600


def test_batch_size_affects_only_multiply_adds_and_activations(monkeypatch):
    """Peak memory is computed in this process instead of a new one."""
    monkeypatch.setattr(scaling.timing, "peak_memory", lambda function, *given: function(*given) or 100 * given[2] ** 2)
    axis = Axis("made up", "batch", "batch_size", (1, 2, 4, 8), classifier, {"width": 5})
    points = scaling.measure(axis, batch_size=3, repetitions=1, memory=True)
    # Outputs: 2x2x5 values of the convolution, the same flattened, and 4 classes.
    assert [point["activation_bytes"] for point in points] == [4 * (20 + 20 + 4) * size for size in (1, 2, 4, 8)]
    assert [point["multiply_adds"] for point in points] == [3 * (4 * 3 * 5 + 20 * 4) * size for size in (1, 2, 4, 8)]
    assert len({point["kept_bytes"] for point in points}) == 1
    row = scaling.make_row(axis, points, peak=1e9)
    exponents = [row["laws"][name]["exponent"] for name in scaling.LAWS[1:]]
    assert exponents == pytest.approx([1, 0, 1, 2], abs=1e-9)


def make_points(*milliseconds):
    """Points at 1, 2, 4, ... with a billion multiply-adds each."""
    shared = {"multiply_adds": 10**9, "kept_bytes": 100, "activation_bytes": 100, "peak_memory_bytes": None}
    return [
        {"value": 2**place, "milliseconds": time, "ratio": time / milliseconds[0], **shared}
        for place, time in enumerate(milliseconds)
    ]


def test_row():
    row = scaling.make_row(BY_NAME["hscnet, G"], make_points(100.0, 50.0, 25.0), peak=100e9)
    assert row["milliseconds_law"] == "-1.00 (+-0%)"
    assert row["kept_bytes_law"] == "0.00 (+-0%)"
    assert row["values_text"] == "1, 2, 4"
    assert row["milliseconds_text"] == "100, 50, 25"
    assert row["speed_text"] == "10, 20, 40"
    assert row["share_text"] == "10%, 20%, 40%"
    assert (row["ratio"], row["milliseconds"]) == (0.25, 25.0)


def line_correlation(row):
    """Correlation of the blue pixels with a line in the figure of a row: 1 rising, -1 falling, up to the legend."""
    table = Table("scaling", "A title", "", "", "", "", {}, (row,))
    image = PIL.Image.open(io.BytesIO(scaling.draw_growth(table, "a machine"))).convert("RGB")
    blue = np.abs(np.asarray(image).astype(int) - (0x1F, 0x5F, 0xBF)).max(-1) < 30
    # Rows of pixels are counted from the top.
    return -np.corrcoef(*np.nonzero(blue))[0, 1]


def test_figure_shows_rising_and_falling_times():
    rows = [
        scaling.make_row(BY_NAME["hscnet, G"], make_points(*times), 1e9) for times in ((1.0, 2.0, 4.0), (4.0, 2.0, 1.0))
    ]
    assert line_correlation(rows[0]) > 0.6
    assert line_correlation(rows[1]) < -0.6
