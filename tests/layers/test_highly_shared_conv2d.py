import itertools
import math
import zipfile

import keras
import numpy as np
import pytest
from harness import assert_close, check_layer, outputs_and_gradients, pseudo_random, slow_after
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keras_sharenets.layers import HighlySharedConv2D
from keras_sharenets.ops import choices, convolution


def source_of(plane, planes, arrangements, copy, shuffle_groups=2, plane_orders="distinct"):
    """The plane of the stored filter at each position of a copy."""
    if arrangements == 2 or plane_orders == "shuffled":
        for _ in range(copy):
            plane = plane % shuffle_groups * (planes // shuffle_groups) + plane // shuffle_groups
        return plane
    if arrangements <= planes:
        step = max(size for size in range(1, round(0.618 * planes) + 1) if math.gcd(size, planes) == 1)
        return (plane + copy * step) % planes
    # The first six orders of one, two and three planes: rotations, then the others in lexicographic order.
    orders = {1: ["0"], 2: ["01", "10"], 3: ["012", "201", "120", "021", "102", "210"]}[planes]
    return int(orders[copy % len(orders)][plane])


def loop(images, stored, groups, channel_repeats, arrangements, shuffle_groups, strides, padding, plane_orders=""):
    """Equations 1 and 2 of the paper, one value at a time, in float64.

    Group `i` uses group `i mod (G / R)` of the stored bank; copy `t` of a filter reads its input plane `p` from the
    position given by its order.
    """
    height, width, planes, bank_filters = stored.shape
    base_filters = bank_filters // (groups // channel_repeats)
    pads = []
    for size, kernel, stride in zip(images.shape[1:3], (height, width), strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0) if padding == "same" else 0
        pads.append((total // 2, total - total // 2))
    padded = np.pad(images.astype("float64"), ((0, 0), *pads, (0, 0)))
    rows = (padded.shape[1] - height) // strides[0] + 1
    columns = (padded.shape[2] - width) // strides[1] + 1
    outputs = np.zeros((len(images), rows, columns, groups * arrangements * base_filters))
    for group in range(groups):
        for copy in range(arrangements):
            for base in range(base_filters):
                bank_filter = group % (groups // channel_repeats) * base_filters + base
                output_channel = (group * arrangements + copy) * base_filters + base
                for plane in range(planes):
                    source = source_of(plane, planes, arrangements, copy, shuffle_groups, plane_orders)
                    weights = stored[:, :, source, bank_filter]
                    for row in range(rows):
                        for column in range(columns):
                            top, left = row * strides[0], column * strides[1]
                            patch = padded[:, top : top + height, left : left + width, group * planes + plane]
                            outputs[:, row, column, output_channel] += (patch * weights).sum((1, 2))
    return outputs


@st.composite
def layer_settings(draw, largest=8):
    groups = draw(st.sampled_from([1, 2, 3, 4, 6, 8]))
    channel_repeats = draw(st.sampled_from([r for r in range(1, groups + 1) if groups % r == 0]))
    arrangements = draw(st.integers(1, 4))
    shuffle_groups = draw(st.sampled_from([2, 3]))
    plane_orders = draw(st.sampled_from(["distinct", "shuffled"]))
    shuffles = arrangements == 2 or (arrangements > 2 and plane_orders == "shuffled")
    planes = shuffle_groups * draw(st.integers(1, 2)) if shuffles else draw(st.integers(1, 6))
    kernel_size = draw(st.just((1, 1)) | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    arguments = {
        "filters": groups * arrangements * draw(st.integers(1, 2)),
        "kernel_size": kernel_size,
        "groups": groups,
        "channel_repeats": channel_repeats,
        "arrangements": arrangements,
        "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": draw(st.sampled_from(["same", "valid"])),
        "shuffle_groups": shuffle_groups,
        "plane_orders": plane_orders,
        "implementation": draw(st.sampled_from(["auto", "folded", "grouped"])),
    }
    if kernel_size == (1, 1):
        arguments["implementation"] = draw(st.sampled_from(["auto", *convolution.IMPLEMENTATIONS]))
    sides = [draw(st.integers(kernel, max(largest, kernel))) for kernel in kernel_size]
    return arguments, (draw(st.integers(1, 2)), *sides, groups * planes)


def loop_for(arguments, images, stored):
    names = ("groups", "channel_repeats", "arrangements", "shuffle_groups", "strides", "padding")
    names += ("plane_orders",)
    return loop(images, stored, **{name: arguments[name] for name in names})


def built(arguments, input_shape):
    layer = HighlySharedConv2D(**arguments)
    layer.build(input_shape)
    layer.kernel.assign(pseudo_random(layer.kernel.shape, seed=7))
    return layer


thorough = settings(suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.filterwarnings("ignore:`arrangements`")
@settings(thorough, max_examples=2 * settings.default.max_examples)
@given(layer_settings())
def test_equals_a_loop_written_from_the_equations(case):
    arguments, input_shape = case
    layer, images = built(arguments, input_shape), pseudo_random(input_shape)
    expected = loop_for(arguments, images, pseudo_random(layer.kernel.shape, seed=7))
    assert_close(keras.ops.convert_to_numpy(layer(images)), expected, 1e-5)
    assert layer.compute_output_shape(input_shape) == expected.shape


@pytest.mark.filterwarnings("ignore:`arrangements`")
@settings(thorough, max_examples=settings.default.max_examples // 3)
@given(layer_settings(largest=4))
def test_gradients_equal_finite_differences_of_the_loop(case):
    arguments, input_shape = case
    inputs = keras.Input(input_shape[1:])
    layer = built(arguments, input_shape)
    model, images = keras.Model(inputs, layer(inputs)), pseudo_random(input_shape)
    outputs, (gradient,) = outputs_and_gradients(model, images)
    probe = pseudo_random(outputs.shape, seed=1)
    stored = pseudo_random(layer.kernel.shape, seed=7).astype("float64")
    expected = np.zeros_like(stored)
    for place in np.ndindex(stored.shape):
        step = np.zeros_like(stored)
        step[place] = 0.5
        ahead, behind = (loop_for(arguments, images, stored + sign * step) for sign in (1, -1))
        expected[place] = ((ahead - behind) * probe).sum()
    assert_close(gradient, expected, 1e-5)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [1, 2, (1, 3)])
@pytest.mark.parametrize("kernel_size", [1, 3, (2, 5)])
def test_equals_conv2d_with_sharing_off(groups, padding, strides, kernel_size):
    arguments = {"strides": strides, "padding": padding, "groups": groups, "activation": "relu", "use_bias": True}
    plain = keras.layers.Conv2D(8, kernel_size, bias_initializer="normal", **arguments)
    ours = HighlySharedConv2D(8, kernel_size, **{**arguments, "padding": padding.upper()})  # Like Keras, in any case.
    images = pseudo_random((2, 9, 8, 4))
    expected = keras.ops.convert_to_numpy(plain(images))
    ours.build(images.shape)
    ours.set_weights(plain.get_weights())
    assert_close(keras.ops.convert_to_numpy(ours(images)), expected, 1e-5)


@pytest.mark.parametrize("compiler", slow_after(1, [False, True]))
@pytest.mark.parametrize("implementation", ["auto", *convolution.IMPLEMENTATIONS])
@pytest.mark.parametrize(("kernel_size", "groups", "strides"), [(1, 1, 1), (1, 4, 2), (3, 4, 1)])
def test_implementations_have_the_same_gradients(kernel_size, groups, strides, implementation, compiler):
    """Gradients by the inputs and the stored filters, with and without XLA, against a zero-padded dense convolution."""
    if keras.backend.backend() != "tensorflow" or (implementation, kernel_size) == ("multiplied", 3):
        pytest.skip("JAX has XLA only; a product is for 1x1")
    import tensorflow as tf

    images = tf.constant(pseudo_random((2, 6, 6, 8)))
    arguments = {"kernel_size": kernel_size, "groups": groups, "strides": strides, "implementation": implementation}
    ours = HighlySharedConv2D(8, channel_repeats=min(groups, 2), **arguments)
    ours.build(images.shape)
    stored = pseudo_random(ours.kernel.shape, seed=7)
    kernel = np.zeros((kernel_size, kernel_size, 8, 8), "float32")
    size = 8 // groups
    for group in range(groups):
        own = slice(group * size, group * size + size)
        bank = (group * size) % stored.shape[-1]
        kernel[:, :, own, own] = stored[..., bank : bank + size]

    def gradients(weights, run):
        def step(images):
            with tf.GradientTape() as tape:
                tape.watch(images)
                outputs = run(images)
            return tape.gradient(outputs, [images, weights], pseudo_random(outputs.shape, seed=1))

        return [value.numpy() for value in tf.function(step, jit_compile=compiler)(images)]

    ours.kernel.assign(stored)
    dense = tf.Variable(kernel)
    by_images, by_stored = gradients(ours.kernel.value, lambda images: ours(images, training=True))
    expected, by_dense = gradients(dense, lambda images: tf.nn.conv2d(images, dense, strides, "SAME"))
    assert_close(by_images, expected, 1e-5)
    summed = np.zeros_like(stored)
    for group in range(groups):
        own = slice(group * size, group * size + size)
        bank = (group * size) % stored.shape[-1]
        summed[..., bank : bank + size] += by_dense[:, :, own, own]
    assert_close(by_stored, summed, 1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX has XLA only")
def test_choice_depends_on_training_and_the_compiler():
    import tensorflow as tf

    layer, seen = HighlySharedConv2D(64, 3, groups=16, channel_repeats=8), []

    def note(training):
        seen.append(layer.choose_implementation((None, 32, 32, 64), training=training))

    # Without oneDNN, TensorFlow uses the same implementation as XLA.
    for compiler, runtime in ((False, choices.runtime()), (True, "xla")):
        for training, direction in ((True, "training"), (None, "inference")):
            tf.function(lambda training=training: note(training), jit_compile=compiler)()
            assert seen.pop() == choices.MEASURED[runtime]["repeated", direction]


@pytest.mark.parametrize("sharing", [(16, 8, 2), (8, 4, 1), (4, 1, 2), (1, 1, 2), (4, 4, 1)])
def test_equals_conv2d_with_the_effective_kernel(sharing):
    groups, channel_repeats, arrangements = sharing
    ours = HighlySharedConv2D(64, 3, groups=groups, channel_repeats=channel_repeats, arrangements=arrangements)
    images = pseudo_random((2, 6, 6, 64))
    outputs = keras.ops.convert_to_numpy(ours(images))
    plain = keras.layers.Conv2D(64, 3, padding="same", groups=groups, use_bias=False)
    plain.build(images.shape)
    plain.set_weights([keras.ops.convert_to_numpy(ours.effective_kernel())])
    assert_close(outputs, keras.ops.convert_to_numpy(plain(images)), 1e-5)


def test_kernel_larger_than_the_image():
    with pytest.raises(ValueError, match=r"`kernel_size` \(=\(3, 5\)\) must fit into the image \(=\(4, 4\)\)"):
        HighlySharedConv2D(8, (3, 5), padding="valid")(keras.Input((4, 4, 3)))


@pytest.mark.parametrize(
    ("arguments", "input_shape", "output_shape", "stored_parameters"),
    [
        ({"filters": 8, "kernel_size": (3, 3)}, (2, 5, 5, 4), (2, 5, 5, 8), 3 * 3 * 4 * 8),
        (
            {"filters": 64, "kernel_size": (3, 3), "groups": 16, "channel_repeats": 8, "arrangements": 2},
            (2, 6, 6, 64),
            (2, 6, 6, 64),
            3 * 3 * 4 * 64 // 16,
        ),
        (
            {"filters": 12, "kernel_size": (1, 1), "arrangements": 3, "use_bias": True, "strides": (2, 2)},
            (2, 5, 5, 6),
            (2, 3, 3, 12),
            6 * 12 // 3 + 12,
        ),
        (
            {"filters": 8, "kernel_size": (3, 2), "groups": 4, "channel_repeats": 2, "padding": "valid"},
            (2, 5, 5, 8),
            (2, 3, 4, 8),
            3 * 2 * 2 * 8 // 2,
        ),
    ],
)
def test_harness(arguments, input_shape, output_shape, stored_parameters, tmp_path, other_backend):
    check_layer(HighlySharedConv2D, arguments, input_shape, output_shape, stored_parameters, tmp_path, other_backend)


def test_one_layer_in_places_of_different_stride():
    inputs = keras.Input((8, 8, 8))
    layer = HighlySharedConv2D(8, 3, groups=2, channel_repeats=2)
    model = keras.Model(inputs, layer(layer(inputs, strides=2)))
    assert model.output_shape == (None, 4, 4, 8)
    assert model.count_params() == 3 * 3 * 4 * 8 // 2
    images = pseudo_random((1, 8, 8, 8))
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    middle = loop(images, kernel, 2, 2, 1, 2, (2, 2), "same")
    assert_close(keras.ops.convert_to_numpy(model(images)), loop(middle, kernel, 2, 2, 1, 2, (1, 1), "same"), 1e-5)


def test_unknown_height_and_width():
    inputs = keras.Input((None, None, 8))
    model = keras.Model(inputs, HighlySharedConv2D(8, 3, groups=4, channel_repeats=2, strides=2)(inputs))
    for side in (5, 8):
        assert model(pseudo_random((3, side, side, 8))).shape == (3, -(-side // 2), -(-side // 2), 8)


@pytest.mark.parametrize("groups", [1, 4])
def test_product_of_unknown_height_and_width(groups):
    inputs = keras.Input((None, None, 8))
    layer = HighlySharedConv2D(8, 1, groups=groups, strides=2, implementation="multiplied")
    model = keras.Model(inputs, layer(inputs))
    for side in (5, 8):
        assert model(pseudo_random((3, side, side, 8))).shape == (3, -(-side // 2), -(-side // 2), 8)


def test_sharing_holds_after_training_steps():
    inputs = keras.Input((6, 6, 16))
    layer = HighlySharedConv2D(16, 3, groups=4, channel_repeats=2, arrangements=2)
    model = keras.Model(inputs, layer(inputs))
    before = keras.ops.convert_to_numpy(layer.kernel)
    model.compile("sgd", "mse")
    model.fit(pseudo_random((8, 6, 6, 16)), pseudo_random((8, 6, 6, 16), seed=2), epochs=2, verbose=0)
    kernel = keras.ops.convert_to_numpy(layer.effective_kernel())
    assert not np.array_equal(before, keras.ops.convert_to_numpy(layer.kernel))
    assert np.array_equal(kernel[..., :8], kernel[..., 8:])


def test_initial_deviation_is_that_of_the_full_kernel():
    layer = HighlySharedConv2D(256, 3, groups=8, channel_repeats=4, arrangements=2)
    layer.build((None, 8, 8, 256))
    deviation = np.std(keras.ops.convert_to_numpy(layer.kernel))
    assert deviation == pytest.approx(np.sqrt(2 / (3 * 3 * 256 / 8)), rel=0.05)


@pytest.mark.filterwarnings("ignore:`arrangements`")
def test_a_layer_saved_before_there_were_distinct_orders_is_shuffled(tmp_path):
    """Bit for bit, from its config and from a file; a new layer stores its order."""
    arguments = {"filters": 16, "kernel_size": 3, "groups": 2, "arrangements": 4}
    distinct, shuffled = (HighlySharedConv2D(**arguments, plane_orders=orders) for orders in ("distinct", "shuffled"))
    config = distinct.get_config()
    assert config.pop("plane_orders") == "distinct"
    assert HighlySharedConv2D.from_config(config).plane_orders == "shuffled"
    for layer in (distinct, shuffled):
        again = HighlySharedConv2D.from_config(layer.get_config())
        assert again.get_config() == layer.get_config()
    inputs = keras.Input((4, 4, 16))
    keras.Model(inputs, distinct(inputs)).save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        for name in new.namelist():
            data = new.read(name)
            if name == "config.json":
                assert data.count(b', "plane_orders": "distinct"') == 1
                data = data.replace(b', "plane_orders": "distinct"', b"")
            old.writestr(name, data)
    stored = keras.ops.convert_to_numpy(distinct.kernel)
    for file, orders in (("old", "shuffled"), ("new", "distinct")):
        layer = keras.saving.load_model(tmp_path / f"{file}.keras").layers[-1]
        assert (layer.plane_orders, layer.count_params()) == (orders, 3 * 3 * 8 * 16 // 4)
        kernel = keras.ops.convert_to_numpy(layer.effective_kernel())
        for group, copy, base, plane in itertools.product(range(2), range(4), range(2), range(8)):
            expected = stored[:, :, source_of(plane, 8, 4, copy, plane_orders=orders), group * 2 + base]
            assert np.array_equal(kernel[:, :, plane, group * 8 + copy * 2 + base], expected)


@keras.saving.register_keras_serializable("test_highly_shared_conv2d")
class FourOrders(HighlySharedConv2D):
    """A subclass with arguments of its own."""

    def __init__(self, filters, arrangements=4, **kwargs):
        super().__init__(filters, 3, groups=2, arrangements=arrangements, **kwargs)

    def get_config(self):
        return {"filters": self.filters, "arrangements": self.arrangements, "name": self.name}


def test_a_subclass_with_a_config_of_its_own_keeps_its_orders():
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(FourOrders(16)))
    assert (type(again), again.plane_orders) == (FourOrders, "distinct")


def test_warns_when_arrangements_coincide():
    with pytest.warns(UserWarning, match=r"`arrangements` \(=2\) of 2 input channels per group .* 1 different orders"):
        HighlySharedConv2D(8, 1, groups=2, arrangements=2).build((None, 4, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 5}, r"`groups` \(=5\) must divide `filters` \(=64\)\."),
        ({"groups": 16, "channel_repeats": 3}, r"`channel_repeats` \(=3\) must divide `groups` \(=16\)\."),
        ({"groups": 16, "arrangements": 3}, r"`arrangements` \(=3\) must divide `filters` / `groups` \(=4\)\."),
        ({"groups": 0}, r"`groups` \(=0\) must be a positive integer\."),
        ({"channel_repeats": 1.5}, r"`channel_repeats` \(=1\.5\) must be a positive integer\."),
        ({"plane_orders": "any"}, r"`plane_orders` \(='any'\) must be one of 'distinct', 'shuffled'\."),
        ({"padding": "full"}, r"`padding` \(='full'\) must be one of 'same', 'valid'\."),
        ({"strides": (1, 2, 3)}, r"`strides` \(=\(1, 2, 3\)\) must be a positive integer or a pair of them\."),
        ({"kernel_size": 0}, r"`kernel_size` \(=0\) must be a positive integer\."),
        ({"dilation_rate": 2}, r"`dilation_rate` \(=2\) must be 1: the layer has no dilated convolution\."),
        ({"data_format": "channels_first"}, r"`data_format` \(='channels_first'\) must be 'channels_last'"),
        (
            {"implementation": "fast"},
            r"`implementation` \(='fast'\) must be one of 'auto', 'folded', 'grouped', 'multiplied'\.",
        ),
        (
            {"implementation": "multiplied"},
            r"`implementation` \(='multiplied'\) requires `kernel_size` \(=\(3, 3\)\) to be 1\.",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        HighlySharedConv2D(**{"filters": 64, "kernel_size": 3, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 16}, r"`groups` \(=16\) must divide the number of input channels \(=36\)\."),
        ({"groups": 4, "arrangements": 2}, r"`shuffle_groups` \(=2\) must divide .* channels per group \(=9\)\."),
    ],
)
def test_input_that_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        HighlySharedConv2D(64, 3, **arguments)(pseudo_random((1, 4, 4, 36)))


def test_sharing_is_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        HighlySharedConv2D(64, 3, 2)
    layer = HighlySharedConv2D(64, 3, data_format="channels_last", dilation_rate=(1, 1))
    assert layer.groups == 1
    assert layer.strides == (1, 1)
