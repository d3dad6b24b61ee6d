import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_sharenets import layers
from keras_sharenets.layers.bases import ComposedPointwise
from keras_sharenets.ops import choices, convolution

CONVOLUTIONS = ("dense pointwise", "group pointwise", "grouped", "repeated")
POINTWISE = ("hierarchical", "split", "uneven split", "interleaved")


def named(chosen):
    """The implementations in a table entry."""
    if isinstance(chosen, str):
        return {chosen}
    shallow, limit, deep = chosen
    assert limit > 0
    assert shallow != deep
    return {shallow, deep}


@pytest.mark.parametrize("where", ["tensorflow", "xla", "jax"])
@pytest.mark.parametrize("direction", ["training", "inference"])
@pytest.mark.parametrize("kind", CONVOLUTIONS + POINTWISE)
def test_table_names_implementations_that_exist(kind, direction, where):
    allowed = set(convolution.IMPLEMENTATIONS)
    if kind in POINTWISE:
        allowed = set(ComposedPointwise.implementations) - {"auto"}
    elif not kind.endswith("pointwise"):
        allowed.remove("multiplied")
    assert named(choices.MEASURED[where][kind, direction]) <= allowed


def test_xla_never_meets_groups():
    for where in ("xla", "jax"):
        assert not any("grouped" in named(chosen) for chosen in choices.MEASURED[where].values())


def test_one_entry_for_each_kind_and_direction():
    for table in choices.MEASURED.values():
        assert set(table) == {(kind, way) for kind in CONVOLUTIONS + POINTWISE for way in ("training", "inference")}


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (((1, 1), 1, 1, (1, 1)), "dense pointwise"),
        (((1, 1), 1, 1, (2, 2)), None),
        (((3, 3), 1, 1, (1, 1)), None),
        (((1, 1), 8, 1, (2, 2)), "group pointwise"),
        (((1, 1), 8, 4, (1, 1)), "group pointwise"),
        (((3, 3), 8, 1, (1, 1)), "grouped"),
        (((3, 1), 8, 4, (2, 2)), "repeated"),
    ],
)
def test_kinds(arguments, kind):
    assert choices.convolution_kind(*arguments) == kind


def test_limit_is_on_channels_per_pixel(monkeypatch):
    monkeypatch.setitem(choices.MEASURED, "xla", {("split", "training"): ("composed", 0.5, "factored")})
    cases = {(32, (8, 8)): "composed", (33, (8, 8)): "factored", (33, (None, 8)): "composed", (1, (1, 1)): "factored"}
    for (channels, sides), chosen in cases.items():
        assert choices.choose("split", channels, sides, training=True, where="xla") == chosen


@pytest.mark.parametrize(("channels", "kind"), [(8, "split"), (10, "uneven split")])
def test_kind_of_split_groups(channels, kind):
    layer = layers.SplitGroupConv2D(8, groups=4)
    layer.build((None, 4, 4, channels))
    assert layer.kind == kind


def test_hand_picked_rows():
    """Rows with a wide margin: if kernels are large relative to the image, the factored form is cheapest."""
    rows = [
        ("interleaved", 864, (8, 8), True, "factored"),
        ("interleaved", 216, (32, 32), True, "multiplied"),
        ("group pointwise", 864, (8, 8), False, "grouped"),
        ("grouped", 64, (32, 32), True, "grouped"),
    ]
    for kind, channels, sides, training, expected in rows:
        assert choices.choose(kind, channels, sides, training, "tensorflow") == expected
    assert choices.choose("repeated", 64, (32, 32), True, "xla") == "folded"


def test_accelerator_is_not_measured():
    chosen = {kind: choices.choose(kind, 64, (8, 8), True, "accelerator") for kind in CONVOLUTIONS + POINTWISE}
    assert chosen == {
        "dense pointwise": "folded",
        "group pointwise": "grouped",
        "grouped": "grouped",
        "repeated": "grouped",
        "hierarchical": "composed",
        "split": "composed",
        "uneven split": "composed",
        "interleaved": "composed",
    }


def trains_in_groups(dtype):
    """Whether TensorFlow differentiates a grouped convolution by its inputs and by its kernel."""
    import tensorflow as tf

    inputs, kernel = tf.ones((2, 4, 4, 8), dtype), tf.ones((3, 3, 2, 8), dtype)
    try:
        with tf.GradientTape() as tape:
            tape.watch([inputs, kernel])
            outputs = tf.nn.conv2d(inputs, kernel, 1, "SAME")
        return len(tape.gradient(outputs, [inputs, kernel])) == 2
    except tf.errors.InvalidArgumentError:
        return False


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_runtime(dtype):
    if keras.backend.backend() != "tensorflow":
        assert choices.runtime(dtype) == "jax"
        return
    import tensorflow as tf

    seen = []
    for compiled in (False, True):
        tf.function(lambda: seen.append(choices.runtime(dtype)), jit_compile=compiled)()
    assert seen == ["tensorflow" if trains_in_groups(dtype) else "xla", "xla"]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it is TensorFlow that has two sets of kernels")
def test_training_with_the_other_kernels():
    """On many CPUs, TensorFlow does not use oneDNN and has no gradients of grouped convolutions."""
    of_this = "test_training_in_every_precision or test_runtime"
    environment = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "0" if trains_in_groups("float32") else "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", of_this]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "8 passed" in done.stdout) == (0, True), done.stdout


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16", "float64"])
def test_training_in_every_precision(dtype):
    """TensorFlow has gradients of grouped convolutions for some dtypes only: `"auto"` must avoid the others."""
    inputs = keras.Input((4, 4, 8))
    x = layers.HighlySharedConv2D(8, 3, groups=4, channel_repeats=2, dtype=dtype)(inputs)
    x = layers.HighlySharedConv2D(8, 1, groups=4, dtype=dtype)(x)
    model = keras.Model(inputs, layers.SplitGroupConv2D(8, groups=4, dtype=dtype)(x))
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() == "jax")
    before = model.get_weights()
    model.train_on_batch(np.ones((2, 4, 4, 8), "float32"), np.ones((2, 4, 4, 8), "float32"))
    assert all(np.any(one != other) for one, other in zip(before, model.get_weights(), strict=True))


def test_source_fits_one_screen():
    """The table must be readable."""
    import inspect

    source = inspect.getsource(choices)
    tables = re.search(r"^MEASURED = \{.*^MEASURED\[.*?^\}", source, re.M | re.S)[0]
    assert len(tables.splitlines()) <= 50
