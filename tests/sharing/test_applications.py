"""The convolutional networks of `keras.applications` through each scheme."""

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_and_gradients, outputs_of, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.sharing import HierarchicalGroups, InterleavedGroups, ShareChannels, ShareDepth

# The smallest images that each takes.
SIDES = {
    "VGG16": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "Xception": 71,
    "NASNetMobile": 32,
    "InceptionV3": 75,
    "ConvNeXtTiny": 32,
}
SCHEMES = [ShareDepth("stage"), ShareChannels(arrangements=2), HierarchicalGroups(2), InterleavedGroups()]


def check(model, scheme, path, *, where=None):
    """A scheme fits, or says of each convolution why not; then the network works, and can be saved and exported."""
    images = pseudo_random((4, *model.input_shape[1:]))
    before = [weight.copy() for weight in model.get_weights()]
    try:
        shared = ksn.share(model, scheme, where=where)
    except ValueError as error:
        if "fits no convolution" not in str(error):
            raise
        return None
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))
    assert shared.model.output_shape == model.output_shape
    assert shared.parameters < shared.parameters_before
    outputs, gradients = outputs_and_gradients(shared.model, images, training=True)
    assert outputs.shape == (4, *model.output_shape[1:])
    assert all(gradient is not None for gradient in gradients)
    shared.model.save(path / "shared.keras")
    loaded = keras.saving.load_model(path / "shared.keras")
    assert_close(outputs_of(loaded, images), outputs_of(shared.model, images), 1e-5)
    return shared


def test_first_blocks_of_a_mobilenet(tmp_path):
    whole = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, include_top=False)
    features = keras.layers.GlobalAveragePooling2D()(whole.get_layer("block_5_add").output)
    model = keras.Model(whole.input, keras.layers.Dense(4, activation="softmax")(features))
    shared = check(model, ShareChannels(arrangements=2), tmp_path, where="block_*_expand")
    assert {layer.path for layer in shared.layers} == {f"block_{block}_expand" for block in range(1, 6)}


@pytest.mark.slow
def test_a_small_mobilenet(tmp_path):
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=4)
    shared = check(model, ShareChannels(arrangements=2), tmp_path, where="block_1*_expand")
    assert {layer.path for layer in shared.layers} == {
        "block_1_expand",
        *(f"block_{block}_expand" for block in range(10, 17)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", SIDES)
def test_network(name, scheme, tmp_path):
    model = getattr(keras.applications, name)(weights=None, input_shape=(SIDES[name], SIDES[name], 3), classes=10)
    check(model, scheme, tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`representative_data` has values")
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the export needs TensorFlow")
@pytest.mark.parametrize(
    ("name", "scheme", "where"),
    [
        ("MobileNetV2", ShareChannels(arrangements=2), "block_*_expand"),
        ("DenseNet121", ShareDepth("stage"), "conv*_2_conv"),
    ],
)
def test_int8_file_keeps_the_sharing(name, scheme, where, tmp_path):
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=10)
    randomize_batchnorm(model)  # Statistics as after training: all outputs of the untrained network are alike.
    images = pseudo_random((8, 32, 32, 3))
    shared = ksn.share(model, scheme, where=where)
    before, after = (
        ksn.mobile.export_tflite(
            network, tmp_path / "net.tflite", quantization="int8", representative_data=images
        ).file_bytes
        for network in (model, shared.model)
    )
    # A byte a weight, less what more operators take.
    assert before - after > 0.7 * (shared.parameters_before - shared.parameters)
