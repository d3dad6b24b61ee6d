import json
import math

import keras
import numpy as np
import pytest
from harness import assert_close, pseudo_random

from benchmarks import layer_shapes, layers, workloads
from benchmarks.cli import main
from keras_sharenets.layers import HierarchicalGroupConv2D, HighlySharedConv2D, InterleavedGroupConv2D, SplitGroupConv2D
from keras_sharenets.ops import choices

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the table contains both TensorFlow runtimes"
)
SHAPES = [
    (
        HighlySharedConv2D(16, 3, groups=4, channel_repeats=2, arrangements=2, padding="valid"),
        (9, 8, 16),
        "repeated",
        (2, 2),
    ),
    (HighlySharedConv2D(12, 1, groups=3), (4, 4, 6), "group pointwise", (1, 1)),
    (HighlySharedConv2D(12, 1, arrangements=2), (4, 4, 6), "dense pointwise", (1, 1)),
    (HierarchicalGroupConv2D(12, groups=4), (4, 4, 10), "hierarchical", (1, 1)),
    (SplitGroupConv2D(12, groups=4), (4, 4, 8), "split", (1, 1)),
    (SplitGroupConv2D(12, groups=4), (4, 4, 10), "uneven split", (1, 1)),
    (InterleavedGroupConv2D(24, branch_channels=(3, 4)), (4, 4, 12), "interleaved", (1, 1)),
]


@pytest.fixture(params=SHAPES, ids=lambda entry: entry[2])
def shape(request):
    return layer_shapes.Shape("by_hand", *request.param)


def test_every_implementation_matches_the_reference(shape):
    images = pseudo_random((2, *shape.input_shape))
    reference = shape.build_reference()
    weights = [pseudo_random(weight.shape, seed=place) for place, weight in enumerate(reference.weights)]
    reference.set_weights(weights)
    expected = keras.ops.convert_to_numpy(reference(images))
    assert expected.shape[1:3] == shape.sides
    for implementation in ("auto", *shape.implementations):
        model = shape.build(implementation)
        model.set_weights(weights)
        assert_close(keras.ops.convert_to_numpy(model(images)), expected, 1e-5)
    dense = shape.build_dense()
    assert dense.output_shape[1:] == expected.shape[1:]
    kernel = (*layer_shapes.kernel_size(shape.layer), shape.input_shape[-1], shape.layer.filters)
    assert [weight.shape for weight in dense.weights] == [kernel]


@pytest.mark.parametrize("compiled", [False, True])
def test_training_pass_returns_gradients_of_images_and_weights(compiled):
    inputs = keras.Input((3, 3, 2))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 1, use_bias=False)(inputs))
    gradients = workloads.model_pass(model, 5, training=True, compiled=compiled)()
    assert [tuple(gradient.shape) for gradient in gradients] == [(5, 3, 3, 2), (1, 1, 2, 4)]
    assert all(np.count_nonzero(gradient) == np.size(gradient) for gradient in gradients)
    assert workloads.model_pass(model, 5, training=False, compiled=compiled)().shape == (5, 3, 3, 4)


def test_shapes_are_collected_from_the_network():
    everything = layer_shapes.collect({"hscnet_m32_g4_r2_b1_a2": None}, widest=False)
    widest = layer_shapes.collect({"hscnet_m32_g4_r2_b1_a2": None})
    names = [shape.name for shape in everything]
    assert len(set(names)) == len(names)
    assert {shape.name for shape in widest} < set(names)
    assert {shape.kind for shape in widest} == {"dense pointwise", "group pointwise", "repeated"}
    assert "repeated 3x3/2, 34x34x32 to 32, G=4 R=2 T=2" in names
    assert all(shape.input_shape[0] == 8 for shape in layer_shapes.collect({"hscnet_m32_g4_r2_b1_a2": 8}, widest=False))


def make_row(depth, runtime="xla", kind="split", **milliseconds):
    """A row with times of implementations, for fitting choices."""
    case = {"runtime": runtime, "kind": kind, "direction": "training", "depth": depth}
    return case | {"implementations": tuple(milliseconds), "all": milliseconds | {"dense": 0.1}}


def test_fit_minimizes_the_loss():
    rows = [make_row(1, a=1, b=2), make_row(2, a=1, b=1.5), make_row(3, a=2, b=1)]
    assert layers.fit_choices([*rows, make_row(1, "tensorflow", a=2, b=1)]) == {
        "tensorflow": {("split", "training"): "b"},
        "xla": {("split", "training"): ("a", 2.4, "b")},
    }
    assert layers.loss(rows, "a") == pytest.approx(math.log(2) / 3)
    assert layers.loss(rows, "a", 2.4, "b") == 0


def test_fit_adds_no_limit_for_small_gains():
    assert layers.best([make_row(1, a=1, b=1.01), make_row(2, a=1.01, b=1)]) in ("a", "b")
    assert layers.best([make_row(1, a=1, b=2)]) == "a"


def test_fit_ignores_incompletely_measured_implementations():
    assert layers.best([make_row(1, a=None, b=2, c=3), make_row(2, a=1, b=2, c=3)]) == "b"


def test_table_of_choices_round_trip():
    text = layers.to_text(choices.MEASURED)
    assert eval(text.removeprefix("MEASURED = ")) == choices.MEASURED


def test_claims():
    common = {"layer": "repeated 3x3, 32x32x64 to 64, G=16 R=8 T=2", "kind": "repeated", "runtime": "xla"}
    common |= {"milliseconds": 2.0, "ratio": 1.4, "to_reference": 0.5, "all": {"grouped": 150.0}}
    training = common | {"direction": "training", "to_fastest": 1.05}
    inference = common | {"direction": "inference", "to_fastest": 1.2}
    made = [(claim.value, claim.limit, claim.holds) for claim in layers.claims([training, inference])]
    expected = [(1.05, 1.1, True), (1.4, 1.3, False), (0.5, 1, True), (2 / 150, 1 / 100, False), (1.2, 1.1, False)]
    assert made == expected
    wide = training | {
        "layer": "interleaved 1x1, 32x32x216 to 216, K=8,8,8",
        "kind": "interleaved",
        "to_reference": 0.02,
    }
    assert [claim.limit for claim in layers.claims([wide])] == [1.1, 1.3, 1 / 100]
    narrow = wide | {"layer": "interleaved 1x1, 8x8x64 to 64, K=8,8"}
    assert [claim.limit for claim in layers.claims([narrow])] == [1.1, 1.3]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "kinds"),
    [(["interleaved"], {"interleaved"}), (["G=4 R=2", "split"], {"repeated", "split"})],
)
def test_quick_table(rows, kinds, tmp_path, capsys):
    assert main(["layers", "--quick", "--rows", *rows, "--output", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "layers.json").read_text())["rows"]
    assert {(entry["runtime"], entry["direction"]) for entry in found} == {
        (runtime, direction) for runtime in ("tensorflow", "xla") for direction in ("training", "inference")
    }
    assert {entry["kind"] for entry in found} == kinds
    for entry in found:
        chosen = choices.MEASURED[entry["runtime"]][entry["kind"], entry["direction"]]
        assert entry["auto"] in ([chosen] if isinstance(chosen, str) else chosen)
        assert entry["milliseconds"] > 0
        assert {*entry["implementations"], "dense", "reference"} == set(entry["all"])
    fitted = eval((tmp_path / "layer_choices.txt").read_text().removeprefix("MEASURED = "))
    assert {case for table in fitted.values() for case, _ in table} == kinds
    assert (tmp_path / "layers.md").read_text() in capsys.readouterr().out
    assert (tmp_path / "layers.png").stat().st_size > 1000


def test_slow_calls_are_skipped(monkeypatch):
    shape = layer_shapes.Shape("by_hand", *SHAPES[0])
    models = {"folded": shape.build("folded"), "reference": shape.build_reference()}
    monkeypatch.setattr(layers, "SLOW", 0)
    how = {"batch_size": 2, "training": False, "compiled": False, "repetitions": 2}
    seconds, slow = layers.measure_models(models, **how)
    assert set(seconds) == {"folded"}
    assert slow["reference"] > 0
    monkeypatch.setattr(layers, "TOO_LONG", 0)
    assert layers.measure_models(models, **how)[1] == {"reference": None}
