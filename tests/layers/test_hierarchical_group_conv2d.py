"""`HierarchicalGroupConv2D` and `SplitGroupConv2D`."""

import keras
import numpy as np
import pytest
from harness import assert_close, check_layer, outputs_and_gradients, outputs_of, pseudo_random, slow_after
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import keras_sharenets as ksn
from keras_sharenets.dtype_policies import in_policy
from keras_sharenets.layers import HierarchicalGroupConv2D, InterleavedGroupConv2D, SplitGroupConv2D
from keras_sharenets.mobile.export.saved_model import inference_model

LAYERS = [HierarchicalGroupConv2D, SplitGroupConv2D]
both = pytest.mark.parametrize("layer_class", LAYERS, ids=lambda layer_class: layer_class.__name__)


def reference(layer_class, images, kernels):
    """Equations 1 and 2 of the paper in NumPy; the kernels determine the widths of the groups."""
    outputs = []
    for kernel in kernels:
        chained = outputs and layer_class is HierarchicalGroupConv2D
        own = kernel.shape[2] - (kernel.shape[3] if chained else 0)
        read, images = images[..., :own], images[..., own:]
        if chained:
            read = np.concatenate([read, outputs[-1]], axis=-1)
        outputs.append(read @ kernel[0, 0])
    assert images.shape[-1] == 0
    return np.concatenate(outputs, axis=-1)


def flat(gradients):
    """All values in one array: a single value may be a sum that cancels, as accurate as its largest term."""
    return np.concatenate([gradient.ravel() for gradient in gradients])


def network(layer_class, channels, filters, groups, implementation, use_bias=False):
    """A model with one layer and pseudo-random weights."""
    inputs = keras.Input((3, 2, channels))
    layer = layer_class(filters, groups=groups, use_bias=use_bias, implementation=implementation)
    model = keras.Model(inputs, layer(inputs))
    model.set_weights([pseudo_random(weight.shape, seed=place) for place, weight in enumerate(model.weights)])
    return model


@st.composite
def cases(draw):
    groups = draw(st.integers(1, 6))
    channels = groups + draw(st.integers(0, 8))
    return channels, groups * draw(st.integers(1, 3)), groups


# JAX compiles every case separately.
few = settings(suppress_health_check=[HealthCheck.too_slow], max_examples=settings.default.max_examples // 4)


@both
@few
@given(case=cases())
def test_both_forms_agree_in_outputs_and_gradients(layer_class, case):
    channels, filters, groups = case
    images = pseudo_random((2, 3, 2, channels))
    composed, multiplied, factored = (
        outputs_and_gradients(network(layer_class, *case, implementation, use_bias=True), images)
        for implementation in ("composed", "multiplied", "factored")
    )
    assert len(composed[1]) == groups + 1
    assert composed[0].shape == (2, 3, 2, filters)
    for outputs, gradients in (composed, multiplied):
        assert_close(outputs, factored[0], 1e-5)
        assert_close(flat(gradients), flat(factored[1]), 1e-5)


@both
@few
@given(case=cases())
def test_gradients_equal_finite_differences_of_the_reference(layer_class, case):
    images = pseudo_random((2, 3, 2, case[0]))
    model = network(layer_class, *case, "auto")
    outputs, gradients = outputs_and_gradients(model, images)
    kernels = [kernel.astype("float64") for kernel in model.get_weights()]
    assert_close(outputs, reference(layer_class, images, kernels), 1e-5)
    probe = pseudo_random(outputs.shape, seed=1)
    differences = []
    for kernel in kernels:
        expected = np.zeros_like(kernel)
        for place in np.ndindex(kernel.shape):
            # The output is affine in every single weight, so a wide step is exact.
            kernel[place] += 0.5
            ahead = reference(layer_class, images, kernels)
            kernel[place] -= 1
            behind = reference(layer_class, images, kernels)
            kernel[place] += 0.5
            expected[place] = ((ahead - behind) * probe).sum()
        differences.append(expected.ravel())
    # Together: one value of a kernel may be a sum that cancels, and is then as accurate as its largest term.
    assert_close(np.concatenate([gradient.ravel() for gradient in gradients]), np.concatenate(differences), 1e-5)


@both
@pytest.mark.parametrize("implementation", ["composed", "multiplied", "factored"])
@pytest.mark.parametrize(("channels", "groups"), [(8, 4), (16, 6), (5, 1)])
def test_structure_seen_by_unit_vectors(layer_class, implementation, channels, groups):
    filters = 2 * groups
    model = network(layer_class, channels, filters, groups, implementation)
    units = np.eye(channels, dtype="float32").reshape(channels, 1, 1, channels) * np.ones((1, 3, 2, 1), "float32")
    outputs, _ = outputs_and_gradients(model, units)
    assert np.array_equal(outputs, outputs[:, :1, :1] * np.ones((1, 3, 2, 1))), "pixels mix"
    reads = outputs[:, 0, 0] != 0
    sizes = [channels // groups + (group < channels % groups) for group in range(groups)]
    group_in = np.repeat(np.arange(groups), sizes)[:, None]
    group_out = np.repeat(np.arange(groups), 2)[None]
    expected = group_in <= group_out if layer_class is HierarchicalGroupConv2D else group_in == group_out
    assert np.array_equal(reads, expected)
    # The effective kernel is the matrix given by the unit vectors.
    kernel = keras.ops.convert_to_numpy(model.layers[-1].effective_kernel())
    assert kernel.shape == (1, 1, channels, filters)
    assert_close(kernel[0, 0], outputs[:, 0, 0], 1e-5)


@both
@pytest.mark.parametrize("use_bias", [False, True])
def test_equals_conv2d_with_one_group(layer_class, use_bias):
    ends = {"use_bias": use_bias, "activation": "relu" if use_bias else None}
    plain = keras.layers.Conv2D(6, 1, bias_initializer="normal", **ends)
    images = pseudo_random((2, 3, 4, 5))
    expected = keras.ops.convert_to_numpy(plain(images))
    for implementation in ("composed", "factored"):
        ours = layer_class(6, groups=1, implementation=implementation, **ends)
        ours = layer_class.from_config(ours.get_config())
        ours.build(images.shape)
        ours.set_weights(plain.get_weights())
        assert_close(keras.ops.convert_to_numpy(ours(images)), expected, 1e-5)


def test_split_equals_conv2d_with_groups_where_they_divide():
    plain = keras.layers.Conv2D(6, 1, groups=3, use_bias=False)
    images = pseudo_random((2, 3, 4, 9))
    expected = keras.ops.convert_to_numpy(plain(images))
    ours = SplitGroupConv2D(6, groups=3)
    ours.build(images.shape)
    ours.set_weights(np.split(plain.get_weights()[0], 3, axis=3))
    assert_close(keras.ops.convert_to_numpy(ours(images)), expected, 1e-5)


@both
@pytest.mark.parametrize(("saved", "loaded"), [("composed", "factored"), ("factored", "composed")])
def test_weights_saved_under_one_form_load_under_the_other(layer_class, saved, loaded, tmp_path):
    model = network(layer_class, 8, 6, 3, saved, use_bias=True)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").layers[-1].implementation == saved
    other = network(layer_class, 8, 6, 3, loaded, use_bias=True)
    other.set_weights([np.zeros_like(weight) for weight in other.get_weights()])
    other.load_weights(tmp_path / "model.keras")
    images = pseudo_random((2, 3, 2, 8))
    assert_close(outputs_of(other, images), outputs_of(model, images), 1e-5)


@pytest.mark.parametrize(
    ("layer_class", "arguments", "channels", "stored_parameters"),
    slow_after(
        3,
        [
            (HierarchicalGroupConv2D, {"filters": 12, "groups": 3, "use_bias": True}, 9, 9 * 4 + 2 * 4 * 4 + 12),
            (HierarchicalGroupConv2D, {"filters": 8, "groups": 4, "implementation": "factored"}, 7, 7 * 2 + 3 * 2 * 2),
            (SplitGroupConv2D, {"filters": 12, "groups": 3, "use_bias": True}, 9, 9 * 4 + 12),
            (SplitGroupConv2D, {"filters": 12, "groups": 6, "implementation": "factored"}, 16, 16 * 2),
            (HierarchicalGroupConv2D, {"filters": 12, "groups": 6}, 16, 16 * 2 + 5 * 2 * 2),
            (HierarchicalGroupConv2D, {"filters": 4, "groups": 1}, 3, 3 * 4),
        ],
    ),
)
def test_harness(layer_class, arguments, channels, stored_parameters, tmp_path, other_backend):
    shapes = (2, 5, 4, channels), (2, 5, 4, arguments["filters"])
    check_layer(layer_class, arguments, *shapes, stored_parameters, tmp_path, other_backend)


def test_every_setting_survives_the_config():
    chosen = {
        "kernel_initializer": "glorot_uniform",
        "bias_initializer": "ones",
        "kernel_regularizer": "l2",
        "bias_regularizer": "l1",
        "kernel_constraint": "non_neg",
        "bias_constraint": "max_norm",
    }
    config = HierarchicalGroupConv2D(12, groups=3, use_bias=True, implementation="factored", **chosen).get_config()
    again = HierarchicalGroupConv2D.from_config(config)
    assert again.get_config() == config
    again.build((None, 2, 2, 7))
    assert all(kernel.regularizer is again.kernel_regularizer for kernel in again.kernels)
    assert all(kernel.constraint is again.kernel_constraint for kernel in again.kernels)
    assert (again.bias.regularizer, again.bias.constraint) == (again.bias_regularizer, again.bias_constraint)
    assert keras.ops.convert_to_numpy(again.bias).tolist() == [1.0] * 12


@pytest.mark.parametrize(("layer_class", "extra"), [(HierarchicalGroupConv2D, 64), (SplitGroupConv2D, 0)])
@pytest.mark.parametrize("initializer", ["he_normal", keras.initializers.HeNormal(seed=3)], ids=["name", "seed"])
def test_every_kernel_starts_from_numbers_of_its_own_by_what_it_reads(layer_class, extra, initializer):
    keras.utils.set_random_seed(0)
    layer = layer_class(256, groups=4, kernel_initializer=initializer)
    layer.build((None, 4, 4, 256))
    kernels = layer.get_weights()
    for group, kernel in enumerate(kernels):
        fan_in = 64 + (extra if group else 0)
        assert np.std(kernel) == pytest.approx(np.sqrt(2 / fan_in), rel=0.05)
        assert group == 0 or not np.any(kernel[:, :, :64] == kernels[group - 1][:, :, :64])


def test_initializer_may_be_a_function():
    layer = HierarchicalGroupConv2D(
        4, groups=2, kernel_initializer=lambda shape, dtype=None: keras.ops.full(shape, 2.0)
    )
    layer.build((None, 2, 2, 4))
    assert all(np.all(kernel == 2) for kernel in layer.get_weights())


def test_mixed_precision_composes_in_full_precision():
    model = in_policy("mixed_float16", lambda: network(HierarchicalGroupConv2D, 12, 12, 4, "composed"))
    units = np.eye(12, dtype="float32").reshape(12, 1, 1, 12) * np.ones((1, 3, 2, 1), "float32")
    outputs, _ = outputs_and_gradients(model, units)
    full = np.asarray(network(HierarchicalGroupConv2D, 12, 12, 4, "composed").layers[-1].effective_kernel())
    # One rounding at the end: a product of rounded kernels would be off in its last digits.
    assert np.array_equal(outputs[:, 0, 0], full[0, 0].astype("float16").astype("float32"))


@pytest.mark.parametrize(
    ("layer", "products"),
    [
        (HierarchicalGroupConv2D(12, groups=4), 10 * 3 + 3 * 3 * 3),
        (SplitGroupConv2D(12, groups=4, use_bias=True), 10 * 3),
    ],
)
def test_products_are_those_of_the_reference(layer, products):
    inputs = keras.Input((5, 7, 10))
    profile = ksn.profile(keras.Model(inputs, layer(inputs)))
    assert layer.products_per_pixel() == products
    assert profile.multiply_adds == 5 * 7 * products
    assert profile.stored_parameters == products + (12 if layer.use_bias else 0)


@both
def test_inference_composes(layer_class):
    model = network(layer_class, 8, 6, 3, "factored")
    copy = inference_model(model)
    assert copy.layers[-1].implementation == "composed"
    images = pseudo_random((2, 3, 2, 8))
    assert_close(outputs_of(copy, images), outputs_of(model, images), 1e-5)


@both
def test_shape_is_known_without_a_call(layer_class, monkeypatch):
    def call(self, inputs):
        raise AssertionError("called to learn the shape")

    monkeypatch.setattr(layer_class, "call", call)
    layer = layer_class(6, groups=3)
    assert layer.compute_output_shape((None, 4, None, 8)) == (None, 4, None, 6)
    assert layer.compute_output_spec(keras.KerasTensor((None, 4, None, 8))).shape == (None, 4, None, 6)


def test_unknown_height_and_width():
    inputs = keras.Input((None, None, 8))
    for implementation in ("composed", "multiplied", "factored"):
        model = keras.Model(inputs, HierarchicalGroupConv2D(6, groups=3, implementation=implementation)(inputs))
        assert model(pseudo_random((3, 5, 4, 8))).shape == (3, 5, 4, 6)


@both
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": 0}, r"`filters` \(=0\) must be a positive integer\."),
        ({"groups": 1.5}, r"`groups` \(=1\.5\) must be a positive integer\."),
        ({"groups": 5}, r"`groups` \(=5\) must divide `filters` \(=12\)\."),
        (
            {"activation": keras.layers.PReLU()},
            r"`activation` \(=<PReLU.*\) must have no weights: add the layer behind",
        ),
        (
            {"implementation": "fast"},
            r"`implementation` \(='fast'\) must be one of 'auto', 'composed', 'multiplied', 'factored'\.",
        ),
    ],
)
def test_bad_arguments(layer_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_class(**{"filters": 12, "groups": 3, **arguments})


@both
@pytest.mark.parametrize(
    ("input_shape", "message"),
    [
        ((None, 4, 4, 2), r"`groups` \(=3\) must be at most the number of input channels \(=2\)\."),
        ((None, 4, 4, None), r"The last axis of the input must be known, got shape \(None, 4, 4, None\)\."),
    ],
)
def test_input_that_does_not_fit(layer_class, input_shape, message):
    with pytest.raises(ValueError, match=message):
        layer_class(12, groups=3).build(input_shape)


@pytest.mark.parametrize(
    ("layer_class", "sharing"),
    [
        (HierarchicalGroupConv2D, {"groups": 4}),
        (SplitGroupConv2D, {"groups": 4}),
        (InterleavedGroupConv2D, {"branch_channels": (8, 8)}),
    ],
)
@pytest.mark.parametrize(
    ("args", "more", "message"),
    [
        ((64, 3), {}, r"`kernel_size` \(=3\) must be 1: `<layer>` is a 1x1 convolution"),
        (
            (64, (8, 8)),
            {},
            r"`kernel_size` \(=\(8, 8\)\) must be 1: .* `\w+` is a keyword argument",
        ),
        ((64, ()), {}, r"`kernel_size` \(=\(\)\) must be 1"),
        ((64, (1, 1, 1)), {}, r"`kernel_size` \(=\(1, 1, 1\)\) must be 1"),
        ((64,), {"padding": "same"}, r"`padding` \(='same'\) must be omitted: `<layer>` is a 1x1 convolution"),
        ((64,), {"strides": 2}, r"`strides` \(=2\) must be omitted: `<layer>` is a 1x1 convolution"),
        ((64,), {"data_format": "channels_first"}, r"`data_format` \(='channels_first'\) must be omitted"),
    ],
)
def test_arguments_that_do_not_apply_to_a_pointwise_convolution(layer_class, sharing, args, more, message):
    with pytest.raises(ValueError, match=message.replace("<layer>", layer_class.__name__)):
        layer_class(*args, **sharing, **more)


@both
def test_layer_says_that_it_is_pointwise_before_it_asks_for_groups(layer_class):
    with pytest.raises(ValueError, match=f"`{layer_class.__name__}` is a 1x1 convolution"):
        layer_class(64, 3)
    with pytest.raises(ValueError, match=r"`groups` \(=None\) must be a positive integer"):
        layer_class(64)


def test_kernel_size_of_a_pointwise_convolution_may_be_given():
    assert HierarchicalGroupConv2D(64, 1, groups=4).filters == SplitGroupConv2D(64, (1, 1), groups=4).filters == 64
