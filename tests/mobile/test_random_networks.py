"""Random networks are either exported correctly or rejected with the name of the unsupported layer."""

import numpy as np
import pytest
import tensorflow as tf
from mobile_networks import relative_error
from random_networks import images, random_network
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keras_sharenets.mobile import export_tflite, predict_tflite
from keras_sharenets.mobile.export.reference import ExportMismatchError, keras_scores, run_keras
from keras_sharenets.mobile.graph.lowering import lower_model
from keras_sharenets.mobile.inspect import file

# Tolerance in addition to TensorFlow's error: one quantization step of the scores.
STEP = 1 / 255


def scores_of(data, pixels):
    interpreter = file.open_bytes(data, "the file", experimental_preserve_all_tensors=True)
    tensor = file.score_tensors(file.parse(data))[0]
    output = interpreter.get_output_details()[0]["index"]
    return file.run_examples(interpreter, (pixels,), [output if tensor is None else tensor])[0]


def converted_by_tensorflow(model, pixels):
    """The bytes of TensorFlow's int8 file."""
    call = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec((1, *pixels.shape[1:]))])
    frozen = convert_variables_to_constants_v2(call.get_concrete_function())
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image[None]] for image in pixels)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


def _error_of_tensorflow(model, given, fresh, expected):
    data = converted_by_tensorflow(model, given)
    try:
        return relative_error(scores_of(data, fresh), expected)
    except ValueError:  # LiteRT cannot run TensorFlow's files of some networks.
        return np.inf


def check_export(seed, folder, *, beside_tensorflow):
    """Exports a random network in float32 and int8, and returns "refused" or "written"."""
    model, odd = random_network(seed)
    # Enough images that few others exceed the ranges, which each program determines differently.
    given, fresh = images(seed, 64), images(seed + 10**6, 32)
    path = folder / "net.tflite"
    try:
        export_tflite(model, path, representative_data=given)
        difference = np.abs(predict_tflite(path, fresh) - run_keras(model, fresh)).max()
        report = export_tflite(model, path, "int8", representative_data=given)
    except (ValueError, ExportMismatchError) as error:
        message = str(error)
    else:
        message = None
    if message is not None:
        # If all images have the same scores, int8 contains only rounding errors.
        is_constant = run_keras(model, given).std(0).max() < 1e-6
        assert is_constant or any(f"'{name}'" in message or f"/{name}'" in message for name in odd), f"{odd}: {message}"
        return "refused"
    assert difference <= 1e-4 * (1 + np.abs(run_keras(model, fresh)).max())
    assert report.score_error <= report.score_error_bound
    assert report.worst_layer is not None
    if beside_tensorflow:
        expected = keras_scores(lower_model(model), (fresh,))[0]
        ours = relative_error(scores_of(path.read_bytes(), fresh), expected)
        theirs = _error_of_tensorflow(model, given, fresh, expected)
        assert ours <= 1.5 * theirs + STEP, f"{ours:.4f}, TensorFlow {theirs:.4f}"
    return "written"


# Run by default: most kinds of layers, nested and shared, and a rejected network.
QUICK = (0, 4, 16)


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[] if seed in QUICK else pytest.mark.slow) for seed in range(30)]
)
def test_random_network(seed, tmp_path):
    check_export(seed, tmp_path, beside_tensorflow=seed % 10 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1500, 50))
def test_500_random_networks(first, tmp_path):
    results = [check_export(seed, tmp_path, beside_tensorflow=True) for seed in range(first, first + 50)]
    assert results.count("written") > 25
