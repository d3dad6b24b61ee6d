"""README: its examples run with the documented output, and its figures are those of the records."""

import functools
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_sharenets as ksn
from keras_sharenets.training.reports.results import read_times
from tools import draw_sharing

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
NETWORKS = (ROOT / "docs" / "networks.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
# Limit, network, kB, percent, millions of multiply-adds and milliseconds of a row of the first table.
CHOICES = re.findall(r"^\| (.*?) \| (`.*?`.*?) \| (\d+) kB \| ([\d.]+) % \| ([\d.]+) M \| ([\d.]+) \|$", README, re.M)
TIMES = read_times(ROOT / "saved_models" / "times.json").timings


@pytest.mark.parametrize("quickly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_python_examples_run_with_the_documented_output(quickly, tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 2
    if quickly:  # With few images, and eager, since one step takes less time than compiling it.
        eager = functools.partialmethod(keras.Model.compile, run_eagerly=True, jit_compile=False)
        monkeypatch.setattr(keras.Model, "compile", eager)
        few = re.sub(r"\b64\b(?=, 16, 16, 3|\) % 3)", "6", blocks[0])
        assert few.count("6, 16, 16, 3") == few.count("arange(6)") == 1
        blocks[0] = few
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "net.tflite").is_file()
    claims = re.findall(r"^(profile\.\w+|layer\.count_params\(\)|tuple\(.*?\)) +# ([\d(), ]+)", "\n".join(blocks), re.M)
    assert len(claims) == 5
    for expression, claim in claims:
        assert eval(expression, names) == eval(claim.strip().rstrip(",")), expression
    assert eval('ksn.list_models("hscnet_m128*")', names) == eval(re.search(r"^# (\['hscnet.*)$", README, re.M)[1])


def _label(network: str) -> str:
    """``"resnet_8 width=8 name=a"`` for a cell with ``"`resnet_8` with `width=8` and `name="a"`"``."""
    return " ".join(re.findall(r"`(.*?)`", network)).replace('"', "")


def test_networks_to_choose_from_are_the_pretrained_ones():
    assert len(CHOICES) == 6
    for _, network, kilobytes, percent, millions, milliseconds in CHOICES:
        label = _label(network)
        name, *options = label.split(" ")
        (trained,) = (each for each in ksn.models.list_trained(name) if each.label == label)
        assert f"{trained.int8_bytes / 1000:.0f}" == kilobytes, label
        assert f"{100 * trained.int8_test_accuracy:.1f}" == percent, label
        assert f"{TIMES[trained.run, 'export', 'int8.tflite'].median_ms:.2f}" == milliseconds, label
        cell = re.escape(" ".join([f"`{name}`", *options]))
        assert re.search(rf"^\| {cell} \| .* \| one-cycle-60.* \| {re.escape(millions)} M \|", RESULTS, re.M)


def test_choice_for_100_kb_is_the_best_below():
    chosen = {limit: _label(network) for limit, network, *_ in CHOICES}
    fitting = [each for each in ksn.models.list_trained() if each.int8_bytes <= 100_000]
    best = max(fitting, key=lambda each: each.int8_test_accuracy)
    assert chosen["100 kB"] == best.label
    counts = dict(re.findall(r"^\| `(\w+)` \| [\dx]+ \| \d+ \| ([\d,]+ \| [\d,]+) \|", NETWORKS, re.M))
    sharing = [each for each in fitting if len(set(counts[each.model].split(" | "))) == 2]
    assert best not in sharing, "the table says that it shares nothing"
    best = max(sharing, key=lambda each: each.int8_test_accuracy)
    assert chosen["100 kB, shared"] == best.label


@pytest.mark.parametrize(
    ("name", "stored", "used"),
    [
        ("ordinary", 16 * 16, 16 * 16),
        ("hscnet", 4 * 16 // (2 * 2), 4 * 16),  # 4 inputs per group, each filter in 2 repeats and 2 arrangements
        ("hgcnet", 16 * 4 + 3 * 4 * 4, (4 + 8 + 12 + 16) * 4),
        ("igcv2", 2 * 16 * 4, 16 * 16),
    ],
)
def test_numbers_in_the_figure_of_sharing(name, stored, used):
    layer = draw_sharing.example_layers()[name]
    kernel = draw_sharing.kernel_of(layer, groups=draw_sharing.GROUPS if name == "hscnet" else 1)
    assert (layer.count_params(), np.count_nonzero(kernel)) == (stored, used)
    if name == "hscnet":
        values, counts = np.unique(kernel[kernel > 0], return_counts=True)
        np.testing.assert_array_equal(values, np.arange(1, stored + 1))
        assert set(counts) == {4}, "each stored weight is at work four times"


def test_readme_is_short():
    assert len(README.splitlines()) <= 150
