"""Random arguments of layers and networks give a correct result or an error that names one of the arguments."""

import inspect
import json
import random
import warnings

import keras
import numpy as np
import pytest
from harness import slow_after

import keras_sharenets as ksn
from keras_sharenets import layers
from keras_sharenets.models.base import CommonArguments
from keras_sharenets.models.registry import FAMILIES, own_arguments

# fmt: off
ODD = (
    0, -1, 1, 2, 3, 4, 5, 7, 16, 2.5, -0.5, float("nan"), float("inf"), True, False, None, "", "3", "same", "valid",
    "relu", "reshape", b"x", (), (2,), (3, 3), (1, 2, 3), (4, 4, 4), [0], [3, 3], [4, 8, 16], {}, {1, 2}, object(),
    np.int64(4), np.int32(8), np.float32(2), np.bool_(True), np.array([4, 8]), keras.layers.Dense(2),
)
# fmt: on
SHAPES = (*[(2, 8, 8, 16)] * 6, (2, 2, 2, 16), (1, 1, 1, 16), (2, 8, 8, 3), (2, 8, 8, 1), (2, 8, 8, 0))
SHAPES += ((2, 16), (2, 8, 16), (2, 8, 8, 2, 16))
IMAGE_SHAPES = (
    (32, 32, 3),
    (8, 8, 3),
    (None, None, 3),
    (64, 64, 1),
    (32, 32, 0),
    (32, 32, None),
    (32, 32),
    (2.5, 32, 3),
)
LAYERS = {
    "HighlySharedConv2D": {
        **dict(filters=8, kernel_size=3, groups=4, channel_repeats=2, arrangements=2, strides=1, padding="same"),
        **dict(use_bias=True, shuffle_groups=1, implementation="auto", activation="relu", data_format=None, name="n"),
        **dict(dilation_rate=1, kernel_initializer="he_normal", kernel_regularizer=None, kernel_constraint=None),
    },
    "HierarchicalGroupConv2D": dict(filters=8, kernel_size=1, groups=2, use_bias=True, kernel_initializer="he_normal"),
    "SplitGroupConv2D": dict(filters=8, kernel_size=1, groups=2, use_bias=True, implementation="auto"),
    "InterleavedGroupConv2D": dict(filters=16, branch_channels=(4, 4), use_bias=True),
    "DepthwiseConv2D": dict(kernel_size=3, strides=1, padding="same", use_bias=True),
    "SqueezeExcite": dict(reduction=2),
    "ChannelShuffle": dict(groups=2, block_size=1),
    "StridedChannelShuffle": dict(groups=2),
    "ChannelSlice": dict(start=1, stop=4),
    "ChannelPadding": dict(channels=20),
    "PaddedMaxPooling2D": dict(pool_size=3, strides=2),
    "FakeQuantize": dict(places=1, momentum=0.9),
    "Whitening": {},
    "QuantizedKernels": dict(layer=None, preserve=None),
    "ParallelConv2D": dict(spatial=None, pointwise=None),
}


def made(name):
    """The arguments of a layer, with new inner layers."""
    arguments = dict(LAYERS[name])
    if name == "QuantizedKernels":
        arguments["layer"] = layers.HighlySharedConv2D(8, 3, padding="valid")
    if name == "ParallelConv2D":
        arguments = {name: layers.HighlySharedConv2D(8, size) for name, size in (("spatial", 3), ("pointwise", 1))}
    return arguments


def named(error, changed):
    """Whether a message names a changed argument or the input."""
    text = str(error).lower()
    kinds = [name.split("_")[-1] for name in changed]  # Keras: "Could not interpret initializer identifier: 3".
    kinds += ["config"] if any(isinstance(value, dict) for value in changed.values()) else []
    return any(part in text for part in (*changed, *kinds, "input", "`kernel_size`", "channels"))


def is_named_error(run, changed):
    """True for an error that names the argument, false without an error. Other exceptions propagate."""
    refusal = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run()
        except (ValueError, TypeError) as error:
            refusal = error
    assert refusal is None or named(refusal, changed), f"{changed}: {refusal!r}"
    return refusal is not None


def run_layer(name, arguments, shape):
    layer = getattr(layers, name)(**arguments)
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    outputs = np.asarray(layer(inputs))
    assert layer.compute_output_spec(keras.KerasTensor(shape)).shape == outputs.shape
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    loaded = keras.saving.deserialize_keras_object(saved)
    loaded.built or loaded.build(shape)
    loaded.set_weights(layer.get_weights())
    np.testing.assert_array_equal(np.asarray(loaded(inputs)), outputs)


def draw_layers(seed, count):
    """Number of `count` random layers that raise an error."""
    draw, refused = random.Random(seed), 0
    for _ in range(count):
        name = draw.choice(list(LAYERS))
        arguments = made(name)
        names = draw.sample(list(arguments), min(len(arguments), draw.choice([0, 1, 1, 2])))
        changed = {argument: draw.choice(ODD) for argument in names}
        shape = draw.choice(SHAPES)
        refused += is_named_error(lambda: run_layer(name, arguments | changed, shape), changed)  # noqa: B023
    return refused


def draw_models(seed, count):
    """Number of `count` random networks that raise an error."""
    draw, refused = random.Random(seed), 0
    for _ in range(count):
        name, small = FAMILIES[draw.choice(list(FAMILIES))].representative
        names = draw.sample((*own_arguments(name), *CommonArguments.__annotations__), draw.choice([1, 1, 2]))
        changed = {argument: draw.choice((*ODD, *IMAGE_SHAPES)) for argument in names}
        arguments = {**small, "input_shape": (32, 32, 3), **changed}
        refused += is_named_error(lambda: ksn.create_model(name, **arguments).get_config(), changed)  # noqa: B023
    return refused


def test_layers():
    assert 50 < draw_layers(0, 150) < 150


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_more_layers(seed):
    assert 300 < draw_layers(seed, 600) < 600


@pytest.mark.parametrize("name", ["HighlySharedConv2D", "HierarchicalGroupConv2D", "InterleavedGroupConv2D"])
def test_kernel_of_an_unbuilt_layer(name):
    layer = getattr(layers, name)(8, 1, **({"groups": 2} if name == "HierarchicalGroupConv2D" else {}))
    with pytest.raises(ValueError, match=f"'{layer.name}' must be built"):
        layer.effective_kernel()


def test_models():
    assert 5 < draw_models(0, 15) < 15


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_more_models(seed):
    assert 50 < draw_models(seed, 150) < 150


def test_every_layer_with_arguments_is_drawn():
    known = {name for name in dir(layers) if inspect.isclass(getattr(layers, name))}
    assert known - set(LAYERS) == {"BatchNormalization"}


def test_numpy_numbers():
    arguments = {"width": 32, "groups": 4, "num_classes": 3, "blocks_per_stage": 1}
    plain, numpy = (
        ksn.create_model(
            "hscnet_m32_g4_r2_b1_a2", input_shape=(8, 8, 3), **{key: number(arguments[key]) for key in arguments}
        )
        for number in (int, np.int64)
    )
    assert numpy.to_json() == plain.to_json()


@pytest.mark.parametrize("name", [[], ["hscnet"], None, 5])
def test_unknown_model_name(name):
    with pytest.raises(ValueError, match=r"`name` .* is not a known model"):
        ksn.create_model(name)


@pytest.fixture
def channels_first():
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format("channels_last")


@pytest.mark.parametrize("family", slow_after(2, FAMILIES))
def test_setting_of_the_channels_changes_no_network(family, channels_first):
    name, small = FAMILIES[family].representative
    under_setting = ksn.create_model(name, **small).to_json()
    keras.config.set_image_data_format("channels_last")
    assert under_setting == ksn.create_model(name, **small).to_json()


@pytest.mark.parametrize("implementation", ["grouped", "folded", "multiplied"])
def test_setting_of_the_channels_changes_no_output(implementation, channels_first):
    kernel_size = 1 if implementation == "multiplied" else 3
    options = {"groups": 4, "channel_repeats": 2, "implementation": implementation}
    convolve, pool = layers.HighlySharedConv2D(8, kernel_size, **options), layers.PaddedMaxPooling2D(3, strides=2)
    images = np.random.default_rng(0).normal(size=(1, 8, 8, 8)).astype("float32")
    outputs = np.asarray(pool(convolve(images)))
    keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(np.asarray(pool(convolve(images))), outputs, atol=1e-6)
