"""The convolutional networks of `keras.applications`: float32 files, and int8 files compared with TensorFlow's."""

import keras
import pytest
from harness import slow_after
from mobile_networks import convert
from test_random_networks import converted_by_tensorflow, relative_error, scores_of

from keras_sharenets.mobile.export.reference import check_layers, keras_scores
from keras_sharenets.mobile.export.representative_data import synthetic_images
from keras_sharenets.mobile.graph.lowering import lower_model

# The smallest supported image of each.
SIDES = {
    "VGG16": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "ResNet152": 32,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "MobileNetV3Large": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "Xception": 71,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "NASNetMobile": 32,
    "ConvNeXtTiny": 32,
}


def pixels(name, count, seed):
    return synthetic_images((SIDES[name], SIDES[name], 3), count=count, seed=seed).astype("float32")


def network(name):
    """An untrained network with batch statistics from 64 images."""
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(SIDES[name], SIDES[name], 3))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(pixels(name, 64, 3), training=True)
    return model


def to_float64(model):
    """A copy that computes in float64, with negligible rounding errors."""

    def copied(layer):
        dtype = {"dtype": "float64"} if isinstance(layer, keras.layers.Layer) else {}
        return layer.__class__.from_config({**layer.get_config(), **dtype})

    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")  # Inputs have no `dtype` in their configuration.
    try:
        copy = keras.models.clone_model(model, clone_function=copied)
    finally:
        keras.config.set_dtype_policy(policy)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize("name", slow_after(1, ["MobileNetV3Small", "MobileNet"]))
def test_lowered_layers_match_keras(name):
    lowered = lower_model(network(name))
    check_layers(lowered, (pixels(name, 2, 4),))


@pytest.mark.slow
@pytest.mark.parametrize("name", SIDES)
def test_files_are_accurate(name):
    model, given, fresh = network(name), pixels(name, 64, 3), pixels(name, 32, 4)
    expected = keras_scores(lower_model(to_float64(model)), (fresh,))[0]
    error, own = (
        relative_error(scores, expected)
        for scores in (scores_of(convert(model, given), fresh), keras_scores(lower_model(model), (fresh,))[0])
    )
    # ResNet152 amplifies rounding errors: Keras in float32 differs by 8e-4 from float64, and so does any file.
    assert error <= max(1e-4, 1.2 * own)
    ours, theirs = convert(model, given, quantization="int8"), converted_by_tensorflow(model, given)
    assert relative_error(scores_of(ours, fresh), expected) <= 1.2 * relative_error(scores_of(theirs, fresh), expected)
    assert len(ours) <= len(theirs)
