"""Random functional models are either exported correctly or rejected by TensorFlow's converter too."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from harness import slow_after
from random_topologies import random_topology

from keras_sharenets.mobile import export_tflite
from keras_sharenets.mobile.export.reference import ExportMismatchError, run_model
from keras_sharenets.mobile.inspect import file


def is_convertible_by_tensorflow(model):
    """Whether TensorFlow converts a network with builtin operators only."""
    shapes = [tf.TensorSpec((1, *tensor.shape[1:])) for tensor in model.inputs]
    call = tf.function(
        lambda *inputs: model(keras.tree.pack_sequence_as(model.input, list(inputs)), training=False),
        input_signature=shapes,
    )
    try:
        tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()]).convert()
    except Exception:  # It raises various errors.
        return False
    return True


def check_export(seed, folder, quantizations=(None, "int8")):
    """Exports a random network, and returns "refused" or "written"."""
    model, data = random_topology(seed)
    given, path = data if len(data) > 1 else data["image"], folder / "net.tflite"
    for quantization in quantizations:
        refusal = None
        try:
            report = export_tflite(model, path, quantization, representative_data=given)
        except (ValueError, ExportMismatchError) as error:
            refusal = str(error)
        if refusal is not None:
            names = {operation.name for operation in model.operations}
            assert any(f"{name}'" in refusal for name in names), refusal
            # Eight bits are too few for some networks; the message names the layer with the largest error.
            assert "Rounding alone causes" in refusal or not is_convertible_by_tensorflow(model), refusal
            return "refused"
        assert report.score_error <= report.score_error_bound
        if quantization is None:
            arrays = [array[:8] for array in data.values()]
            interpreter = file.open_bytes(path.read_bytes(), "the file")
            ends = [detail["index"] for detail in interpreter.get_output_details()]
            results, expected = file.run_examples(interpreter, arrays, ends), run_model(model, arrays)
            for result, right in zip(results, expected, strict=True):
                assert np.abs(result - right).max() <= 1e-4 * max(np.abs(right).max(), 1.0)
    return "written"


@pytest.mark.parametrize("seed", slow_after(2, range(4)))
def test_random_topology(seed, tmp_path):
    assert check_export(seed, tmp_path) == "written"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_200_random_topologies(first, tmp_path):
    results = [check_export(seed, tmp_path) for seed in range(first, first + 25)]
    assert results.count("written") >= 23
