"""From a Keras classifier to the bytes of a TFLite file."""

from keras_sharenets.mobile import passes
from keras_sharenets.mobile.float_file import write_float
from keras_sharenets.mobile.inference import gives_probabilities
from keras_sharenets.mobile.integer_file import write_int8
from keras_sharenets.mobile.lowering import lower
from keras_sharenets.mobile.quantisation import quantise

SIGNATURE, INPUT = "classify", "images"
QUANTIZATIONS = (None, "float16", "int8")
PREFERENCES = ("size", "speed")


def output_name(model):
    """What a file calls its output: `probabilities`, or `scores` if the network does not end in softmax or sigmoid."""
    return "probabilities" if gives_probabilities(model) else "scores"


def convert(model, quantization=None, calibration=None, prefer="size"):
    """Converts a classifier for one picture at a time.

    Args:
        model: functional or sequential `keras.Model` with a fixed picture size.
        quantization: `None` for float32, `"float16"` for stored weights of that type, `"int8"` for integers throughout.
        calibration: array `(n, height, width, channels)` of pixel values, for `"int8"`: the range of every value is
            measured on it.
        prefer: `"size"`: every stored tensor is in the file once; `"speed"`: every use has a kernel of its own, written
            out in full.

    Returns:
        The bytes, with the signature `classify` from `images` to `probabilities` or `scores`.
    """
    share = prefer == "size"
    graph = passes.simplify(lower(model, compact=lambda layer: share))
    names = SIGNATURE, INPUT, output_name(model)
    if quantization == "int8":
        return write_int8(quantise(passes.integer_form(graph, share), calibration), *names)
    stored_type = quantization or "float32"
    return write_float(passes.float_form(graph, share), *names, stored_type)
