"""Every standard Keras layer: float32 and int8 files in LiteRT match Keras."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from mobile_networks import convert, lower

from keras_sharenets.mobile import export_tflite
from keras_sharenets.mobile.graph.rules import UnsupportedLayerError
from keras_sharenets.mobile.inspect import file

SHAPE = (6, 6, 4)
SLOPES = keras.initializers.RandomUniform(-0.5, 1.2, seed=1)
ACTIVATIONS = [
    "relu",
    "relu6",
    "tanh",
    "sigmoid",
    "silu",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "elu",
    "celu",
    "selu",
    "gelu",
    "leaky_relu",
    "exponential",
    "softplus",
    "softsign",
    "mish",
    "log_sigmoid",
]


def normalized(x):
    gains = keras.initializers.RandomUniform(-1.5, -0.5, seed=2)
    return layers.BatchNormalization(beta_initializer="ones", gamma_initializer=gains)(x)


def gate(x, activation):
    return layers.Dense(4, activation)(layers.GlobalAveragePooling2D(keepdims=True)(x))


def on_sequence(*behind):
    """Applies layers for sequences to the pixels of an image in row-major order."""
    return lambda x: functools.reduce(lambda y, layer: layer(y), behind, layers.Reshape((36, 4))(x))


def numbers(*shape, most=0):
    """Constant numbers: whole ones below `most`, or from -9 to 9."""
    random = np.random.default_rng(3)
    return random.integers(0, most, shape) if most else random.uniform(-9, 9, shape).astype("float32")


def standard_layers():
    """Functions of images `(n, 6, 6, 4)` with values from -4 to 4, by name; seeded."""
    keras.utils.set_random_seed(0)
    return {name: layers.Activation(name) for name in ACTIVATIONS} | {
        "prelu": layers.PReLU(alpha_initializer=SLOPES),
        "prelu_per_channel": layers.PReLU(alpha_initializer=SLOPES, shared_axes=[1, 2]),
        "leaky_layer": layers.LeakyReLU(0.3),
        "relu_up_to_2": layers.ReLU(2.0),
        "relu_with_slope": layers.ReLU(negative_slope=0.3),
        "elu_of_2": layers.ELU(2.0),
        "celu_of_2": lambda x: ops.celu(x, 2.0),
        "gelu_by_tanh": lambda x: ops.gelu(x, approximate=True),
        "activation_layer": layers.Conv2D(5, 3, activation=layers.PReLU(alpha_initializer=SLOPES)),
        "separable": layers.SeparableConv2D(7, 3, padding="same", activation="silu"),
        "separable_two_each": layers.SeparableConv2D(7, 3, strides=2, depth_multiplier=2),
        "depthwise_three_each": layers.DepthwiseConv2D(3, padding="same", depth_multiplier=3, activation="relu"),
        "depthwise_dilated": layers.DepthwiseConv2D(3, dilation_rate=2),
        "group_for_each_channel": layers.Conv2D(8, 3, groups=4),
        "dilated": layers.Conv2D(5, 3, padding="same", dilation_rate=2),
        "transposed_same": layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu"),
        "transposed_valid": layers.Conv2DTranspose(6, (3, 4), strides=(2, 3)),
        "transposed_with_gaps": layers.Conv2DTranspose(6, 2, strides=3, use_bias=False),
        "transposed_normalized": lambda x: normalized(layers.Conv2DTranspose(3, 2)(x)),
        "transposed_padded": layers.Conv2DTranspose(6, 3, strides=2, padding="same", output_padding=1),
        "transposed_padded_less": layers.Conv2DTranspose(5, 3, strides=(2, 3), padding="same", output_padding=(0, 1)),
        "transposed_padded_valid": layers.Conv2DTranspose(5, 3, strides=3, output_padding=1),
        "up_nearest": layers.UpSampling2D((2, 3)),
        "up_bilinear": layers.UpSampling2D(2, interpolation="bilinear"),
        "resizing": layers.Resizing(9, 4),
        "resizing_nearest": layers.Resizing(9, 4, interpolation="nearest"),
        "cropping": layers.Cropping2D(((1, 2), (0, 1))),
        "center_crop": layers.CenterCrop(3, 4),
        "padding": layers.ZeroPadding2D(((1, 2), (0, 1))),
        "permute": layers.Permute((2, 1, 3)),
        "permute_channels": layers.Permute((3, 1, 2)),
        "layer_normalization_of_image": layers.LayerNormalization(axis=(1, 2, 3), gamma_initializer=SLOPES),
        "softmax_of_rows": layers.Softmax(axis=1),
        "layer_normalization_of_rows": layers.LayerNormalization(axis=1, beta_initializer=SLOPES, scale=False),
        "rms_normalization": layers.RMSNormalization(),
        "layer_normalization": layers.LayerNormalization(beta_initializer="ones"),
        "group_normalization": layers.GroupNormalization(2, gamma_initializer=SLOPES),
        "instance_normalization": layers.GroupNormalization(-1),
        "average_same": layers.AveragePooling2D(3, 1, padding="same"),
        "average_same_strides": layers.AveragePooling2D(3, 2, padding="same"),
        "average_valid": layers.AveragePooling2D((3, 2), 2),
        "average_of_columns": layers.AveragePooling2D((1, 2)),
        "pools_of_functions": lambda x: ops.max_pool(x, 2) + ops.average_pool(x, (2, 3), (2, 2), padding="same"),
        "max_same": layers.MaxPooling2D(3, 2, padding="same"),
        "max_over_image": layers.GlobalMaxPooling2D(keepdims=True),
        "mean_of_channels": lambda x: ops.mean(x, axis=-1, keepdims=True),
        "largest_of_channels": lambda x: ops.amax(x, axis=-1),
        "largest_of_rows": lambda x: ops.max(x, axis=1, keepdims=True),
        "mean_of_all": lambda x: ops.mean(x, axis=(1, 2, 3)),
        "smallest_of_rows": lambda x: ops.min(x, axis=1, keepdims=True),
        "smallest_of_channels": lambda x: ops.amin(x, axis=-1),
        "variance": lambda x: ops.var(x, axis=(1, 2)),
        "deviation": lambda x: ops.std(x, axis=-1, keepdims=True),
        "sum_of_channels": lambda x: ops.sum(x, axis=3, keepdims=True),
        "sum_of_rows": lambda x: ops.sum(x, axis=1),
        "unit_vector": lambda x: layers.UnitNormalization()(layers.Flatten()(x)),
        "unit_pixels": lambda x: ops.normalize(x, axis=-1),
        "hard_swish_by_hand": lambda x: x * ops.relu6(x + 3) / 6,
        "gate": lambda x: layers.Multiply()([x, gate(x, "sigmoid")]),
        "hard_gate": lambda x: x * gate(x, "hard_sigmoid"),
        "maximum": lambda x: layers.Maximum()([x, layers.Conv2D(4, 1)(x)]),
        "maximum_of_fixed_scales": lambda x: layers.Maximum()([ops.tanh(x), ops.sigmoid(x)]),
        "minimum": lambda x: layers.Minimum()([x, layers.Conv2D(4, 1)(x)]),
        "subtract": lambda x: layers.Subtract()([x, layers.Conv2D(4, 1)(x)]),
        "average": lambda x: layers.Average()([x, layers.Conv2D(4, 1)(x), ops.tanh(x)]),
        "concatenated_rows": lambda x: layers.Concatenate(axis=1)([normalized(x)] + [ops.relu(x)] * 6),
        "concatenated_columns": lambda x: ops.concatenate([ops.tanh(x), x], axis=-2),
        "stacked": lambda x: ops.sum(ops.stack([x, ops.relu(x)], axis=1), axis=-1),
        "stacked_last": lambda x: ops.stack([x[:, 0], x[:, 1]], axis=-1),
        "concatenated_of_fixed_scales": lambda x: layers.Concatenate()([ops.tanh(x), ops.sigmoid(x), x]),
        "constant": lambda x: ops.maximum(x, 0.5),
        "constant_image": lambda x: x * np.linspace(-1, 1, 36, dtype="float32").reshape(1, 6, 6, 1),
        "divided": lambda x: x / (ops.square(x) + 1),
        "divided_by": lambda x: 1 / (ops.square(x) + 1),
        "roots": lambda x: ops.sqrt(ops.absolute(x)) + ops.rsqrt(ops.absolute(x) + 1),
        "powers": lambda x: x**2 + ops.power(x, 3) / 4 + ops.power(ops.square(x) + 1, -0.5),
        "power_of_half": lambda x: ops.absolute(x) ** 0.5,
        "logarithm": lambda x: ops.log(ops.square(x) + 1),
        "dense_of_image": layers.Dense(5, "gelu"),
        "dense_of_table": lambda x: layers.Dense(5, "tanh")(layers.Reshape((36, 4))(x)),
        "sequence": on_sequence(layers.Conv1D(5, 3, strides=2, padding="same", activation="relu")),
        "sequence_causal": on_sequence(layers.Conv1D(6, 3, groups=2, dilation_rate=2, padding="causal")),
        "sequence_valid": on_sequence(layers.Conv1D(5, 4, dilation_rate=3, activation="silu", use_bias=False)),
        "sequence_normalized": on_sequence(layers.Conv1D(5, 3), normalized, layers.ReLU(), layers.Conv1D(4, 1)),
        "sequence_depthwise": on_sequence(layers.DepthwiseConv1D(3, 2, "same", depth_multiplier=2)),
        "sequence_separable": on_sequence(layers.SeparableConv1D(7, 3, strides=3, padding="same", activation="elu")),
        "sequence_transposed": on_sequence(layers.Conv1DTranspose(3, 3, strides=2, padding="same", activation="relu")),
        "sequence_transposed_valid": on_sequence(layers.Conv1DTranspose(3, 2, strides=3)),
        "sequence_max": on_sequence(layers.MaxPooling1D(3, 2, padding="same")),
        "sequence_average": on_sequence(layers.AveragePooling1D(3, 2, padding="same"), layers.AveragePooling1D(2)),
        "sequence_mean": on_sequence(normalized, layers.GlobalAveragePooling1D(keepdims=True)),
        "sequence_top": on_sequence(layers.GlobalMaxPooling1D()),
        "sequence_around": on_sequence(layers.ZeroPadding1D((1, 2)), layers.Cropping1D((3, 1)), layers.UpSampling1D(2)),
        "vector": lambda x: layers.Rescaling(0.5, 1)(normalized(layers.Flatten()(x))),
        "normalized_vector": lambda x: layers.LayerNormalization()(layers.Flatten()(x)),
        "padded": lambda x: ops.pad(x, ((0, 0), (1, 0), (0, 2), (1, 0))),
        "reflected": lambda x: ops.pad(x, ((0, 0), (1, 2), (2, 1), (0, 0)), mode="reflect"),
        "transposed": lambda x: ops.transpose(x, (0, 2, 3, 1)),
        "swapped": lambda x: ops.swapaxes(x, 1, -1),
        "moved": lambda x: ops.moveaxis(x, -1, 1),
        "moved_twice": lambda x: ops.moveaxis(x[:, :5, :3], (1, 3), (3, 2)),
        "squeezed": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
        "cast": lambda x: ops.cast(ops.relu(x), "float32"),
        "clipped": lambda x: ops.clip(x, -0.5, 1.5),
        "clipped_far_above": lambda x: ops.clip(normalized(x), -1.0, 1e6),
        "flipped": lambda x: ops.flip(x, (1, -1)),
        "repeated": lambda x: ops.repeat(ops.repeat(x, 3, axis=-2), 2, axis=3),
        "repeated_unequally": lambda x: ops.repeat(x, [1, 0, 2, 1, 1, 3], axis=1),
        "rolled": lambda x: ops.roll(ops.roll(x, 4, axis=1), (2, -1), axis=(-2, -1)),
        "taken": lambda x: ops.take(x, [2, -1, 2], axis=-1),
        "taken_downward": lambda x: ops.take(x, [4, 2, 0], axis=1),
        "taken_table": lambda x: ops.take(layers.Flatten()(x), [[7, 3], [140, -1]], axis=1),
        "taken_along_rows": lambda x: ops.take_along_axis(x, np.array([5, 0, -1]).reshape(1, 3, 1, 1), axis=1),
        "taken_along_channels": lambda x: ops.take_along_axis(x, numbers(1, 6, 6, 3, most=4), axis=-1),
        "taken_from_every_row": lambda x: ops.take_along_axis(x, numbers(1, 1, 6, 4, most=6), axis=1),
        "tiled": lambda x: ops.tile(x, (1, 2, 1, 3)),
        "product": lambda x: ops.matmul(x, ops.swapaxes(x, -1, -2)),
        "product_with_left": lambda x: ops.matmul(numbers(5, 6), x),
        "product_with_right": lambda x: ops.matmul(x, numbers(1, 1, 4, 3)),
        "product_with_one_per_row": lambda x: ops.matmul(ops.matmul(numbers(6, 3, 6) / 9, x), numbers(1, 6, 4, 3) / 9),
        "einsum_with_right": lambda x: ops.einsum("bhwc,hcd->bwd", x, numbers(6, 4, 3)),
        "einsum_with_left": lambda x: ops.einsum("th,...hwc->...twc", numbers(3, 6), x),
        "product_of_outer_axes": lambda x: ops.einsum("aecd,abcd->acbe", x, ops.relu(x)),
        "einsum_dense": layers.EinsumDense("bhwc,cde->bdwhe", (5, 6, 6, 2), bias_axes="de", bias_initializer=SLOPES),
        "einsum_dense_of_two": layers.EinsumDense("bhwc,hcd->bdw", (5, 6), activation="relu"),
        "einsum_dense_vector": layers.EinsumDense("...hwc,hwcd->...d", 7, bias_axes="d", bias_initializer=SLOPES),
        "split_rows": lambda x: ops.add(*ops.split(normalized(x), 2, axis=1)),
        "split_channels": lambda x: ops.split(x, [1, 3], axis=-1)[1],
        "split_vector": lambda x: ops.multiply(*ops.split(layers.Flatten()(x), 2, axis=-1)),
        "one_pixel": lambda x: x[:, 1, -1],
        "one_channel": lambda x: x[..., 2],
        "one_number": lambda x: layers.Flatten()(x)[:, 3:9][:, 5, None],
        "every_second_pixel": lambda x: x[:, ::2, 1::2],
        "every_third_step": lambda x: layers.Reshape((36, 4))(x)[:, 1:-1:3],
        "reversed": lambda x: x[:, ::-1, -2::-2, ::2],
        "part_of_table": lambda x: ops.reshape(x, (-1, 6, 6, 2, 2))[:, 1:, ::2, -1],
        "piece": lambda x: x[:, 1:-1, 2:, :3],
        "piece_of_channels": lambda x: x[:, 1:, ..., 1:3],
        "chosen": lambda x: ops.where(numbers(6, 1, 4) > 0, x, normalized(x)),
        "chosen_or_constant": lambda x: ops.where(numbers(1, 6, 6, 1) > 0, 0.5, x),
        "softmax_of_some": lambda x: layers.Softmax()(x, mask=np.array([1, 0, 1, 1], "float32")),
        "softmax_of_some_rows": lambda x: layers.Softmax(1)(ops.tanh(x), mask=numbers(1, 6, 6, 1) > -8),
        "functions_of_tensorflow": layers.Conv2D(4, 1, activation=tf.nn.silu),
        "without_effect": lambda x: layers.Identity()(layers.SpatialDropout2D(0.5)(layers.RandomRotation(0.1)(x))),
        "noise": lambda x: layers.AlphaDropout(0.2)(layers.GaussianDropout(0.1)(layers.GaussianNoise(1.0)(x))),
    }  # fmt: skip


NAMES = list(standard_layers())


def network(*names):
    """The named layers in parallel, with the same input."""
    keras.utils.set_random_seed(0)
    inputs, named = keras.Input(SHAPE), standard_layers()
    return keras.Model(inputs, [named[name](inputs) for name in names])


def pixels(count, seed=0):
    return np.random.default_rng(seed).uniform(-4, 4, (count, *SHAPE)).astype("float32")


def outputs_of(data, images):
    interpreter = file.open_bytes(data, "The file")
    return file.run_examples(interpreter, (images,), [end["index"] for end in interpreter.get_output_details()])


def check(names):
    model, given, fresh = network(*names), pixels(64), pixels(16, seed=1)
    expected = keras.tree.flatten(model(fresh, training=False))
    for bound, quantization in ((1e-6, None), (0.03, "int8")):
        results = outputs_of(convert(model, given, quantization=quantization), fresh)
        for name, result, right in zip(names, results, expected, strict=True):
            error = np.linalg.norm(result - right) / np.linalg.norm(right)
            assert error < bound, f"{name}: {error}"


def test_all_layers_in_one_file():
    check(NAMES)


def test_all_layers_have_rules(rules_only):
    assert len(lower(network(*NAMES)).outputs) == len(NAMES)


def test_l2_normalization_operator_is_used_in_int8_only():
    model = network("unit_vector")
    operators = {
        quantization: {
            name for name, *_ in file.operators(file.parse(convert(model, pixels(16), quantization=quantization)))
        }
        for quantization in (None, "int8")
    }
    assert "L2_NORMALIZATION" in operators["int8"]
    assert {"MUL", "MEAN", "RSQRT"} <= operators[None]
    assert "L2_NORMALIZATION" not in operators[None]
    for quantization in (None, "float16"):  # The bound of the norm is below the smallest number of float16.
        (zeros,) = outputs_of(convert(model, quantization=quantization), np.zeros((1, *SHAPE), "float32"))
        assert not zeros.any()


def test_numbers_that_stand_for_missing_classes_leave_others_exact():
    inputs, allowed = keras.Input((4,)), np.array([True, False, True, True])
    model = keras.Model(inputs, ops.where(allowed, inputs, -1e9))
    given = np.random.default_rng(0).uniform(-4, 4, (16, 4)).astype("float32")
    for quantization, bound in ((None, 1e-6), ("int8", 0.02)):
        data = convert(model, given, quantization=quantization, **({"output_type": "float32"} if quantization else {}))
        (result,) = outputs_of(data, given)
        np.testing.assert_allclose(result[:, allowed], given[:, allowed], atol=bound)
        np.testing.assert_allclose(result[:, 1], -1e9)


def test_float16_constants_stay_finite():
    inputs = keras.Input((4,))
    model, ones = keras.Model(inputs, layers.Rescaling(1e6)(inputs)), np.ones((1, 4), "float32")
    (result,) = outputs_of(convert(model, quantization="float16"), ones)
    np.testing.assert_allclose(result, 1e6 * ones)


def test_layer_normalization_shared_by_ranks():
    norm = layers.LayerNormalization(axis=[1, 2], gamma_initializer=SLOPES)
    inputs = keras.Input((4, 3))
    model = keras.Model(inputs, [norm(inputs), norm(layers.Reshape((4, 3, 1))(inputs))])
    given = np.random.default_rng(0).normal(size=(3, 4, 3)).astype("float32")
    for result, right in zip(outputs_of(convert(model), given), model(given), strict=True):
        np.testing.assert_allclose(result, right, atol=1e-5)


def test_value_with_fixed_scale_is_requantized_for_each_concatenation():
    inputs = keras.Input(SHAPE)
    scores = ops.sigmoid(inputs)
    model = keras.Model(inputs, [layers.Reshape((36, 4))(scores), layers.Concatenate()([scores, 50 * inputs])])
    result, _ = outputs_of(convert(model, pixels(16), quantization="int8"), pixels(4))
    assert np.abs(result - model(pixels(4))[0]).max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_layer(name, tmp_path):
    check([name])
    report = export_tflite(network(name), tmp_path / "net.tflite", "int8", representative_data=pixels(32))
    assert report.score_error <= report.score_error_bound


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (layers.UpSampling2D(interpolation="bicubic", name="own"), r"'own', a UpSampling2D, has `interpolation`"),
        (layers.Resizing(4, 4, crop_to_aspect_ratio=True, name="own"), r"has `crop_to_aspect_ratio` \(=True\)"),
        (layers.Resizing(4, 4, antialias=True, name="own"), r"has `antialias` \(=True\)"),
        (layers.CenterCrop(8, 8, name="own"), "'own', a CenterCrop, resizes images that are smaller"),
        (layers.Softmax((1, 2), name="own"), r"'own', a Softmax, has `axis` \(=\(1, 2\)\)"),
        (lambda x: layers.Softmax(name="own")(x, mask=numbers(1, 1, 6, 1) > 0), "'own', a Softmax, .* excludes all"),
        (lambda x: ops.softmax(ops.mean(x, axis=(1, 2, 3))), "a Softmax, has only the batch axis"),
        (lambda x: ops.take(x, [0, 6], axis=1), "a Take, has .* not in an axis of 6"),
        (lambda x: ops.take_along_axis(x, numbers(3, 1, 1, 1, most=4), axis=1), "a TakeAlongAxis, .* vary along the"),
        (lambda x: ops.matmul(numbers(3, 1, 6, 6), x), "a Matmul, has a constant .* varies along the batch"),
        (on_sequence(layers.Conv1D(4, 1, activation=layers.Softmax(2, name="own"))), "own', a Softmax, has `axis`"),
        (layers.EinsumDense("bhwc,hcd->bhd", (6, 5), name="own"), "'own', an EinsumDense, .* not a product"),
        (layers.EinsumDense("bhwc,wcd->bhwd", (6, 6, 5), name="own"), "'own', an EinsumDense, .* varies along"),
        (layers.UnitNormalization(1, name="own"), r"'own', a UnitNormalization, has `axis` \(=1\)"),
        (layers.Conv2DTranspose(4, 3, dilation_rate=2, name="own"), r"has `dilation_rate` \(=\(2, 2\)\)"),
        (layers.RMSNormalization(axis=1, name="own"), r"'own', a RMSNormalization, has `axis` \(=\[1\]\)"),
        (lambda x: layers.Concatenate(0, name="own")([x, x]), "'own', a Concatenate, concatenates along the batch"),
        (layers.GroupNormalization(2, axis=1, name="own"), r"'own', a GroupNormalization, has `axis` \(=1\)"),
        (layers.ReLU(2.0, negative_slope=0.1, name="own"), "'own', a ReLU, has .*both a slope and a maximum"),
        (layers.ReLU(0.0, name="own"), "'own', a ReLU, has a threshold, a maximum of 0"),
        (layers.Conv2D(4, 1, activation=ops.cos, name="own"), "'own', a Conv2D, has the activation `cos`"),
    ],
)  # fmt: skip
def test_unsupported_arguments_are_named(layer, message, rules_only):
    inputs = keras.Input(SHAPE)
    with pytest.raises(UnsupportedLayerError, match=message):
        lower(keras.Model(inputs, layer(inputs)))
