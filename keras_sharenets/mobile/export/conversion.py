"""From a Keras classifier to the bytes of a TFLite file."""

from keras_sharenets.mobile.export import budget
from keras_sharenets.mobile.export.inference import gives_probabilities
from keras_sharenets.mobile.graph import forms, passes
from keras_sharenets.mobile.graph.group_chains import normalise_links, read_apart, stack_deals
from keras_sharenets.mobile.graph.lowering import lower
from keras_sharenets.mobile.graph.quantization import quantise
from keras_sharenets.mobile.graph.uneven_deals import deal_by_tables
from keras_sharenets.mobile.writer.float_file import write_float
from keras_sharenets.mobile.writer.integer_file import write_int8

SIGNATURE, INPUT = "classify", "images"
QUANTIZATIONS = (None, "float16", "int8")
PREFERENCES = ("size", "speed")


def output_name(model):
    """What a file calls its output: `probabilities`, or `scores` if the network does not end in softmax or sigmoid."""
    return "probabilities" if gives_probabilities(model) else "scores"


def convert(model, quantization=None, calibration=None, prefer="size", max_bytes=None):
    """Converts a classifier for one picture at a time.

    Args:
        model: functional or sequential `keras.Model` with a fixed picture size.
        quantization: `None` for float32, `"float16"` for stored weights of that type, `"int8"` for integers throughout.
        calibration: array `(n, height, width, channels)` of pixel values, for `"int8"`: the range of every value is
            measured on it.
        prefer: `"size"`: every stored tensor is in the file once, or its layer is written out where that takes no more
            bytes; `"speed"`: layers are written out in full, each use with a kernel of its own, where that is faster.
        max_bytes: int, instead of `prefer`: kernels are written out as far as that gains most, in a file of so many
            bytes at most.

    Returns:
        The bytes, with the signature `classify` from `images` to `probabilities` or `scores`.

    Raises:
        ValueError: the smallest file is larger than `max_bytes`.
    """
    names = SIGNATURE, INPUT, output_name(model)

    def form(written_out):
        graph = normalise_links(passes.simplify(lower(model, compact=lambda site: not written_out(site))))
        if quantization != "int8":
            graph = read_apart(graph)
        graph = deal_by_tables(stack_deals(graph))
        return (forms.integer_form if quantization == "int8" else forms.float_form)(graph, written_out)

    def write(written_out, pictures):
        graph = form(written_out)
        if quantization == "int8":
            return write_int8(quantise(graph, pictures), *names)
        return write_float(graph, *names, quantization or "float32")

    if max_bytes is None:
        choose = budget.faster_written_out if prefer == "speed" else budget.free_written_out
        chosen = choose(form, quantization)
        return write(frozenset(chosen).__contains__, calibration)
    # The size hardly depends on the ranges: one picture does to look for it.
    sample = None if calibration is None else calibration[:1]
    chosen = budget.fill(form, lambda written_out: len(write(written_out, sample)), max_bytes, quantization)
    data = write(chosen.__contains__, calibration)
    least = len(budget.free_written_out(form, quantization))
    while len(chosen) > least and len(data) > max_bytes:
        chosen = chosen[:-1]
        data = write(chosen.__contains__, calibration)
    if len(data) > max_bytes:
        raise ValueError(f"`max_bytes` (={max_bytes}) must be at least {len(data)}, the size with every tensor once.")
    return data
