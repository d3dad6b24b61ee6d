"""From a Keras classifier to the bytes of a TFLite file."""

import functools
import tempfile
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_sharenets.mobile.inference import gives_probabilities, inference_form

SIGNATURE, INPUT = "classify", "images"


def output_name(model):
    """What a file calls its output: `probabilities`, or `scores` if the network does not end in softmax or sigmoid."""
    return "probabilities" if gives_probabilities(model) else "scores"


def convert(model, quantization=None, calibration=None):
    """Converts a classifier for one picture at a time.

    Args:
        model: functional or sequential `keras.Model` with a fixed picture size.
        quantization: `None` for float32, `"float16"` for stored weights of that type, `"int8"` for integers throughout.
        calibration: array `(n, height, width, channels)` of pixel values, for `"int8"`: the range of every tensor is
            measured on it.

    Returns:
        The bytes, with the signature `classify` from `images` to `probabilities` or `scores`.
    """
    network, name = inference_form(model), output_name(model)
    _freeze_kernels(network)
    shape = tuple(model.inputs[0].shape[1:])
    specification = tf.TensorSpec((1, *shape), tf.float32, name=INPUT)

    def classify(images):
        return {name: network(images, training=False)}

    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(network)
        archive.add_endpoint(SIGNATURE, classify, input_signature=[specification])
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        _QUANTIZE[quantization](converter, calibration)
        with warnings.catch_warnings():
            # The converter measures the ranges with an interpreter that its own package calls outdated.
            warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is deprecated", UserWarning)
            return converter.convert()


def _freeze_kernels(network):
    """Expands every kernel now. The converter leaves larger expansions to the runtime, which then repeats them at every
    picture, between convolutions that it can no longer hand over to a delegate in one piece."""
    for layer in network.layers:
        if isinstance(layer, keras.Model):
            _freeze_kernels(layer)
        elif hasattr(layer, "effective_kernel"):
            kernel = np.asarray(layer.effective_kernel())
            layer.effective_kernel = functools.partial(keras.ops.convert_to_tensor, kernel)


def _float32(converter, calibration):
    """The converter as it is."""


def _float16(converter, calibration):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]


def _int8(converter, calibration):
    def pictures():
        for picture in calibration:
            yield {INPUT: picture[None].astype(np.float32)}

    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = pictures
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8


_QUANTIZE = {None: _float32, "float16": _float16, "int8": _int8}
QUANTIZATIONS = tuple(_QUANTIZE)
