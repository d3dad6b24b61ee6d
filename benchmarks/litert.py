"""TFLite files: as TensorFlow's own converter writes them, and what they cost in LiteRT."""

import warnings

import numpy as np
import tensorflow as tf

from benchmarks import timing
from keras_sharenets import mobile
from keras_sharenets.mobile.inspect.file import open_tflite


def convert_plainly(model, quantization, pictures):
    """What a user gets without this library's export: TensorFlow's converter on the model, for one picture at a time.

    Args:
        model: `keras.Model`.
        quantization: `None` for float32, or `"int8"` for integers throughout.
        pictures: array `(n, height, width, channels)`, to measure the ranges with.

    Returns:
        The bytes of a TFLite file.
    """
    signature = [tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)]
    function = tf.function(lambda images: model(images, training=False), input_signature=signature)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], function)
    if quantization == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([picture[None]] for picture in pictures)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    with warnings.catch_warnings():
        # It expects statistics of the inputs from users of its older interface.
        warnings.simplefilter("ignore", UserWarning)
        return converter.convert()


def open_call(path, threads):
    """A function without arguments that runs a TFLite file once, on a random picture."""
    interpreter = open_tflite(path, num_threads=threads)
    (entry,) = interpreter.get_input_details()
    picture = np.random.default_rng(0).uniform(0, 127, entry["shape"])
    interpreter.set_tensor(entry["index"], picture.astype(entry["dtype"]))
    return interpreter.invoke


def runs(path):
    """Whether LiteRT takes a TFLite file. It refuses integer kernels that a file computes with a zero point."""
    try:
        open_tflite(path)
    except ValueError:
        return False
    return True


def measure_files(paths, threads, repetitions, peer):
    """What TFLite files cost, measured in turns.

    Args:
        paths: dict, name to a file.
        threads, repetitions: int.
        peer: the name to which the ratios are.

    Returns:
        A dict, name to the columns of `timing.figures` and `file_bytes`, `weight_bytes` (constants, each once),
        `delegates`, `outside` (dict, operators that no delegate runs, each with its count), `peak_memory_bytes`.
    """
    calls = {name: open_call(path, threads) for name, path in paths.items()}
    times = timing.figures(timing.take_turns(calls, repetitions), peer)
    # For all but its times, of which it gives no ratios round by round.
    reports = mobile.compare_tflite(list(paths.values()), num_threads=threads, repetitions=1)
    columns = {
        "file_bytes": "file_bytes",
        "weight_bytes": "weight_bytes",
        "delegates": "delegate_partitions",
        "outside": "undelegated_operators",
        "peak_memory_bytes": "peak_memory_bytes",
    }
    return {
        name: times[name] | {column: getattr(report, field) for column, field in columns.items()}
        for name, report in zip(paths, reports, strict=True)
    }
