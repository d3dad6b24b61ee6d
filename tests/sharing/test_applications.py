"""Every scheme applied to the convolutional networks of `keras.applications`."""

import functools

import keras
import pytest
from harness import outputs_and_gradients, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.sharing import ShareChannels, ShareDepth
from tools import share_applications


def gradients(model, images):
    return outputs_and_gradients(model, images, training=True)[1]


check = functools.partial(share_applications.check, gradients=gradients)
# VGG16 has no 1x1 convolutions.
FITS_NOWHERE = {("VGG16", "hierarchical"), ("VGG16", "interleaved")}
# In other untrained networks, rounding may change the scores so much that the export fails.
IN_INT8 = ("VGG16", "MobileNetV2", "MobileNetV3Small")


def test_first_blocks_of_a_mobilenet(tmp_path):
    whole = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, include_top=False)
    features = keras.layers.GlobalAveragePooling2D()(whole.get_layer("block_5_add").output)
    model = keras.Model(whole.input, keras.layers.Dense(4, activation="softmax")(features))
    shared = check(model, ShareChannels(arrangements=2), tmp_path / "shared.keras", where="block_*_expand")
    assert {layer.path for layer in shared.layers} == {f"block_{block}_expand" for block in range(1, 6)}


@pytest.mark.slow
def test_small_mobilenet(tmp_path):
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=4)
    shared = check(model, ShareChannels(arrangements=2), tmp_path / "shared.keras", where="block_1*_expand")
    assert {layer.path for layer in shared.layers} == {
        "block_1_expand",
        *(f"block_{block}_expand" for block in range(10, 17)),
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:On 4 given images")
@pytest.mark.parametrize("scheme", share_applications.SCHEMES)
@pytest.mark.parametrize("name", share_applications.SIDES)
def test_network(name, scheme, tmp_path):
    share = functools.partial(check, share_applications.network(name), share_applications.SCHEMES[scheme])
    if (name, scheme) in FITS_NOWHERE:
        with pytest.raises(ValueError, match="fits no convolution"):
            share(tmp_path / "shared.keras")
        return
    shared = share(tmp_path / "shared.keras")
    if name in IN_INT8 and keras.backend.backend() == "tensorflow":
        share_applications.check_int8(shared, tmp_path / "shared.tflite")


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
def test_int8_file_keeps_sharing(name, scheme, where, tmp_path):
    model = share_applications.network(name)
    images = pseudo_random((8, 32, 32, 3))
    shared = ksn.share(model, scheme, where=where)
    before, after = (
        ksn.mobile.export_tflite(
            network, tmp_path / "net.tflite", quantization="int8", representative_data=images
        ).file_bytes
        for network in (model, shared.model)
    )
    # One byte per weight, minus the size of additional operators.
    assert before - after > 0.7 * (shared.parameters_before - shared.parameters)
