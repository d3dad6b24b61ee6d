import keras
import numpy as np
import pytest
from harness import assert_close, check_layer, outputs_of, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.layers import SqueezeExcite


def network(reduction, shape):
    inputs = keras.Input(shape)
    model = keras.Model(inputs, SqueezeExcite(reduction)(inputs))
    model.set_weights([pseudo_random(weight.shape, seed=place) for place, weight in enumerate(model.weights)])
    return model


@pytest.mark.parametrize(("channels", "reduction"), [(12, 4), (6, 1), (5, 5)])
def test_equals_the_definition_in_numpy(channels, reduction):
    model = network(reduction, (3, 4, channels))
    images = pseudo_random((2, 3, 4, channels))
    squeeze, squeeze_bias, excite, excite_bias = model.get_weights()
    assert squeeze.shape == (channels, channels // reduction)
    for image, output in zip(images, outputs_of(model, images), strict=True):
        means = [image[..., channel].sum() / 12 for channel in range(channels)]
        hidden = np.maximum(np.array(means) @ squeeze + squeeze_bias, 0)
        scales = 1 / (1 + np.exp(-(hidden @ excite + excite_bias)))
        for channel in range(channels):
            assert_close(output[..., channel], image[..., channel] * scales[channel], 1e-5)


@pytest.mark.parametrize(
    ("reduction", "channels", "stored_parameters"), [(4, 8, 2 * 8 * 2 + 8 + 2), (1, 3, 2 * 3 * 3 + 3 + 3)]
)
def test_harness(reduction, channels, stored_parameters, tmp_path, other_backend):
    # Enough images that no hidden unit is below 0, and thus without gradient, for all of them.
    shape = (16, 3, 5, channels)
    check_layer(SqueezeExcite, {"reduction": reduction}, shape, shape, stored_parameters, tmp_path, other_backend)


def test_profile_counts_both_dense_layers():
    profile = ksn.profile(network(4, (7, 9, 12)))
    assert profile.multiply_adds == 12 * 3 + 3 * 12
    assert profile.uncounted == ()
    assert profile.stored_parameters == profile.effective_parameters == 2 * 12 * 3 + 12 + 3


def test_unknown_height_and_width():
    model = network(2, (None, None, 4))
    assert model.output_shape == (None, None, None, 4)
    assert model(pseudo_random((3, 5, 2, 4))).shape == (3, 5, 2, 4)
    assert ksn.profile(model).multiply_adds == 2 * 4 * 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SqueezeExcite(0), r"`reduction` \(=0\) must be a positive integer\."),
        (lambda: SqueezeExcite(5).build((None, 2, 2, 12)), r"`reduction` \(=5\) must divide .* channels \(=12\)\."),
        (lambda: SqueezeExcite(2).build((None, 2, 2, None)), r"The last axis of the input must be known"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_quantized_model_is_saved_and_loaded(tmp_path):
    inputs = keras.Input((4, 4, 16))
    vectors = keras.layers.GlobalAveragePooling2D()(SqueezeExcite(reduction=4)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(vectors))
    with pytest.warns(UserWarning, match="a part of `SqueezeExcite`, stays in float"):
        model.quantize("int8")
    images = np.random.default_rng(0).normal(size=(2, 4, 4, 16)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(np.asarray(loaded(images)), np.asarray(model(images)))
