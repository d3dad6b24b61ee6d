import keras
import numpy as np
import pytest
from harness import assert_close, check_layer, outputs_and_gradients, outputs_of, pseudo_random, slow_after

import keras_sharenets as ksn
from keras_sharenets.dtype_policies import in_policy
from keras_sharenets.layers import InterleavedGroupConv2D
from keras_sharenets.mobile.export.saved_model import inference_model

FORMS = ["composed", "multiplied", "factored"]
# Channels, branches, filters: one path and nearly one path, each also with a widening last convolution.
SETTINGS = [(12, (3, 4), 12), (12, (6, 4), 12), (24, (4, 3, 4), 24), (12, (3, 4), 24), (12, (6, 4), 21), (6, (2,), 9)]


def flat(gradients):
    """All values in one array: a single value may be a sum that cancels, as accurate as its largest term."""
    return np.concatenate([gradient.ravel() for gradient in gradients])


def network(channels, sizes, filters, implementation="auto", use_bias=False, **options):
    """A model with one layer and pseudo-random weights."""
    inputs = keras.Input((3, 2, channels))
    layer = InterleavedGroupConv2D(
        filters, branch_channels=sizes, use_bias=use_bias, implementation=implementation, **options
    )
    model = keras.Model(inputs, layer(inputs))
    model.set_weights([pseudo_random(weight.shape, seed=place) for place, weight in enumerate(model.weights)])
    return model


def units(channels):
    """A batch of images with one unit vector per pixel."""
    return np.eye(channels, dtype="float32").reshape(channels, 1, 1, channels) * np.ones((1, 3, 2, 1), "float32")


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_both_forms_agree_in_outputs_and_gradients(setting):
    images = pseudo_random((2, 3, 2, setting[0]))
    composed, multiplied, factored = (
        outputs_and_gradients(network(*setting, form, use_bias=True), images) for form in FORMS
    )
    assert len(composed[1]) == len(setting[1]) + 1
    for outputs, gradients in (composed, multiplied):
        assert_close(outputs, factored[0], 1e-5)
        assert_close(flat(gradients), flat(factored[1]), 1e-5)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_effective_kernel_is_the_matrix_that_unit_vectors_show(setting):
    model = network(*setting, "factored")
    outputs = outputs_of(model, units(setting[0]))
    assert np.array_equal(outputs, outputs[:, :1, :1] * np.ones((1, 3, 2, 1))), "pixels mix"
    kernel = keras.ops.convert_to_numpy(model.layers[-1].effective_kernel())
    assert kernel.shape == (1, 1, setting[0], setting[2])
    assert_close(kernel[0, 0], outputs[:, 0, 0], 1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("setting", [(12, (3, 4), 12), (24, (2, 3, 4), 24), (12, (3, 4), 24)], ids=str)
def test_exactly_one_path_from_every_input_to_every_output(setting, form):
    model = network(*setting, form)
    assert np.all(outputs_of(model, units(setting[0])) != 0)
    # With all weights 1, the unit vectors count paths.
    model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
    assert np.all(outputs_of(model, units(setting[0])) == 1)


def test_a_few_paths_or_none_where_the_branches_are_larger_or_smaller():
    ones = {"kernel_initializer": "ones"}
    for sizes, counts in (((6, 4), {2}), ((4, 4), {1, 2}), ((2, 4), {0, 1})):
        layer = InterleavedGroupConv2D(12, branch_channels=sizes, **ones)
        found = keras.ops.convert_to_numpy(layer(units(12)))
        assert set(found.reshape(-1).tolist()) == counts


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("setting", [(12, (3, 4), 12), (24, (4, 3, 4), 24), (24, (8, 8, 8), 24)], ids=str)
def test_channels_come_out_in_their_order(setting, form):
    channels, sizes, _ = setting
    model = network(*setting, form)
    # Every branch is the identity, so only the shuffles remain.
    model.set_weights([np.tile(np.eye(size), channels // size)[None, None] for size in sizes])
    images = pseudo_random((2, 3, 2, channels))
    assert np.array_equal(outputs_of(model, images), images)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize("filters", [5, 7])
def test_equals_conv2d_with_one_branch(filters, use_bias):
    ends = {"use_bias": use_bias, "activation": "relu" if use_bias else None}
    plain = keras.layers.Conv2D(filters, 1, bias_initializer="normal", **ends)
    images = pseudo_random((2, 3, 4, 5))
    expected = keras.ops.convert_to_numpy(plain(images))
    for form in FORMS:
        ours = InterleavedGroupConv2D(filters, branch_channels=(5,), implementation=form, **ends)
        ours.build(images.shape)
        ours.set_weights(plain.get_weights())
        assert_close(keras.ops.convert_to_numpy(ours(images)), expected, 1e-5)


def test_one_group_convolution_equals_conv2d_with_groups():
    plain = keras.layers.Conv2D(8, 1, groups=4, use_bias=False)
    images = pseudo_random((2, 3, 4, 8))
    expected = keras.ops.convert_to_numpy(plain(images))
    ours = InterleavedGroupConv2D(8, branch_channels=(2,))
    ours.build(images.shape)
    ours.set_weights(plain.get_weights())
    assert_close(keras.ops.convert_to_numpy(ours(images)), expected, 1e-5)


@pytest.mark.parametrize(("saved", "loaded"), [("composed", "factored"), ("factored", "composed")])
def test_weights_saved_under_one_form_load_under_the_other(saved, loaded, tmp_path):
    model = network(12, (6, 4), 12, saved, use_bias=True)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").layers[-1].implementation == saved
    other = network(12, (6, 4), 12, loaded, use_bias=True)
    other.set_weights([np.zeros_like(weight) for weight in other.get_weights()])
    other.load_weights(tmp_path / "model.keras")
    images = pseudo_random((2, 3, 2, 12))
    assert_close(outputs_of(other, images), outputs_of(model, images), 1e-5)


@pytest.mark.parametrize(
    ("arguments", "channels", "stored_parameters"),
    slow_after(
        2,
        [
            ({"filters": 24, "branch_channels": (4, 3, 4), "use_bias": True}, 24, 24 * (4 + 3 + 4) + 24),
            ({"filters": 12, "branch_channels": (6, 4), "implementation": "factored"}, 12, 12 * 6 + 12 * 4),
            ({"filters": 12, "branch_channels": (3, 4)}, 12, 12 * 3 + 12 * 4),
            ({"filters": 24, "branch_channels": (6, 4)}, 12, 12 * 6 + 24 * 4),
        ],
    ),
)
def test_harness(arguments, channels, stored_parameters, tmp_path, other_backend):
    shapes = (2, 5, 4, channels), (2, 5, 4, arguments["filters"])
    check_layer(InterleavedGroupConv2D, arguments, *shapes, stored_parameters, tmp_path, other_backend)


def test_every_setting_survives_the_config():
    options = {
        "kernel_initializer": "glorot_uniform",
        "bias_initializer": "ones",
        "kernel_regularizer": "l2",
        "bias_regularizer": "l1",
        "kernel_constraint": "non_neg",
        "bias_constraint": "max_norm",
    }
    config = InterleavedGroupConv2D(
        12, branch_channels=[3, 4], use_bias=True, implementation="factored", **options
    ).get_config()
    again = InterleavedGroupConv2D.from_config(config)
    assert again.get_config() == config
    assert again.branch_channels == (3, 4)
    again.build((None, 2, 2, 12))
    assert all(kernel.regularizer is again.kernel_regularizer for kernel in again.kernels)
    assert all(kernel.constraint is again.kernel_constraint for kernel in again.kernels)
    assert (again.bias.regularizer, again.bias.constraint) == (again.bias_regularizer, again.bias_constraint)
    assert keras.ops.convert_to_numpy(again.bias).tolist() == [1.0] * 12


@pytest.mark.parametrize(
    ("channels", "sizes", "filters"),
    [(512, (8, 8, 8), 512), (256, (16, 32), 256), (256, (256,), 256), (64, (8, 8), 256)],
)
def test_the_product_starts_as_a_layer_in_hes_initialization(channels, sizes, filters):
    keras.utils.set_random_seed(0)
    layer = InterleavedGroupConv2D(filters, branch_channels=sizes)
    layer.build((None, 4, 4, channels))
    for size, kernel in zip(sizes, layer.get_weights(), strict=True):
        assert np.var(kernel) == pytest.approx(2 ** (1 / len(sizes)) / size, rel=0.15)
    matrix = keras.ops.convert_to_numpy(layer.effective_kernel())[0, 0]
    # Few factors determine many entries, so the estimate is rough.
    assert np.mean(np.sum(matrix**2, axis=0)) == pytest.approx(2, rel=0.15)


def test_every_kernel_starts_from_numbers_of_its_own():
    layer = InterleavedGroupConv2D(64, branch_channels=(8, 8))
    layer.build((None, 4, 4, 64))
    first, second = layer.get_weights()
    assert not np.any(first == second)


def test_initializer_may_be_a_function():
    layer = InterleavedGroupConv2D(
        4, branch_channels=(2, 2), kernel_initializer=lambda shape, dtype=None: keras.ops.full(shape, 2.0)
    )
    layer.build((None, 2, 2, 4))
    assert all(np.all(kernel == 2) for kernel in layer.get_weights())


def test_mixed_precision_composes_in_full_precision():
    model = in_policy("mixed_float16", lambda: network(12, (6, 4), 12, "composed"))
    outputs = outputs_of(model, units(12))
    full = keras.ops.convert_to_numpy(network(12, (6, 4), 12, "composed").layers[-1].effective_kernel())
    # One rounding at the end: a product of rounded kernels would be off in its last digits.
    assert np.array_equal(outputs[:, 0, 0], full[0, 0].astype("float16").astype("float32"))


@pytest.mark.parametrize("implementation", ["composed", "multiplied", "factored"])
def test_products_are_those_of_the_reference(implementation):
    inputs = keras.Input((5, 7, 12))
    layer = InterleavedGroupConv2D(24, branch_channels=(6, 4), use_bias=True, implementation=implementation)
    profile = ksn.profile(keras.Model(inputs, layer(inputs)))
    assert layer.products_per_pixel() == 12 * 6 + 24 * 4
    assert profile.multiply_adds == 5 * 7 * (12 * 6 + 24 * 4)
    assert profile.stored_parameters == 12 * 6 + 24 * 4 + 24
    assert profile.effective_parameters == 12 * 24 + 24


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the trap is TensorFlow's")
def test_training_runs_no_grouped_convolution():
    import tensorflow as tf

    for form in FORMS:
        model = network(12, (3, 4), 24, form)

        def gradients(images, model=model):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(images) ** 2)
            return tape.gradient(loss, [weight.value for weight in model.trainable_weights])

        # Eager TensorFlow and `model.fit` compile grouped convolutions with XLA, whose gradient takes 50 times as long.
        graph = tf.function(gradients, jit_compile=False).get_concrete_function(tf.TensorSpec((2, 3, 2, 12))).graph
        operations = {operation.type for operation in graph.get_operations()}
        kernels = [op.inputs[1].shape for op in graph.get_operations() if op.type == "Conv2D"]
        assert all(kernel[2] == 12 for kernel in kernels)
        assert not {operation for operation in operations if operation.startswith("Xla")}
        assert bool(kernels) == (form == "composed")


def test_inference_composes():
    model = network(12, (6, 4), 12, "factored")
    copy = inference_model(model)
    assert copy.layers[-1].implementation == "composed"
    images = pseudo_random((2, 3, 2, 12))
    assert_close(outputs_of(copy, images), outputs_of(model, images), 1e-5)


def test_shape_is_known_without_a_call(monkeypatch):
    def call(self, inputs):
        raise AssertionError("called to learn the shape")

    monkeypatch.setattr(InterleavedGroupConv2D, "call", call)
    layer = InterleavedGroupConv2D(24, branch_channels=(3, 4))
    assert layer.compute_output_shape((None, 4, None, 12)) == (None, 4, None, 24)
    assert layer.compute_output_spec(keras.KerasTensor((None, 4, None, 12))).shape == (None, 4, None, 24)


@pytest.mark.parametrize("form", FORMS)
def test_unknown_height_and_width(form):
    inputs = keras.Input((None, None, 12))
    model = keras.Model(inputs, InterleavedGroupConv2D(24, branch_channels=(3, 4), implementation=form)(inputs))
    assert model(pseudo_random((3, 5, 4, 12))).shape == (3, 5, 4, 24)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, r"`filters` \(=0\) must be a positive integer\."),
        (
            {"branch_channels": ()},
            r"`branch_channels` \(=\(\)\) must be a tuple or list of at least one positive integer\.",
        ),
        (
            {"branch_channels": 8},
            r"`branch_channels` \(=8\) must be a tuple or list of at least one positive integer\.",
        ),
        ({"branch_channels": (8, 1.5)}, r"`branch_channels` \(=1\.5\) must be a positive integer\."),
        (
            {"implementation": "fast"},
            r"`implementation` \(='fast'\) must be one of 'auto', 'composed', 'multiplied', 'factored'\.",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        InterleavedGroupConv2D(**{"filters": 12, "branch_channels": (3, 4), **arguments})


@pytest.mark.parametrize(
    ("filters", "sizes", "channels", "message"),
    [
        (12, (3, 5), 12, r"`branch_channels\[1\]` \(=5\) must divide the number of input channels \(=12\)\."),
        (18, (4, 3), 12, r"`channels / branch_channels\[-1\]` \(=4\) must divide `filters` \(=18\)\."),
        (8, (4, 4), 16, r"`filters` \(=8\) must be at least the number of input channels \(=16\)\."),
        (12, (3, 4), None, r"The last axis of the input must be known, got shape \(None, 4, 4, None\)\."),
    ],
)
def test_input_that_does_not_fit(filters, sizes, channels, message):
    with pytest.raises(ValueError, match=message):
        InterleavedGroupConv2D(filters, branch_channels=sizes).build((None, 4, 4, channels))
