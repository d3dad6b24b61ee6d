"""LiteRT for Microcontrollers with small networks; `make test-clients` runs all families and the other programs."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from families import REPRESENTATIVES, representative

from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.mobile import export_tflite
from keras_sharenets.mobile.export.representative_data import synthetic_images
from keras_sharenets.mobile.inspect import file
from keras_sharenets.mobile.inspect.arena import arena_bytes

pytest.importorskip("tflite_micro")
from tools.clients import interpreters


def test_int8_outputs_equal_reference_kernels(tflite_files, digits):
    path, images = tflite_files["int8"][0], digits[0]
    interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    expected = []
    for image in interpreters.as_input(str(path), images[-8:]):
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        expected.append(interpreter.get_tensor(end["index"])[0])
    scores, arena = interpreters.tflite_micro(str(path), images[-8:])
    np.testing.assert_array_equal(scores, np.stack(expected))
    # In addition to the planned tensors, the interpreter stores a record of each tensor and operator.
    assert 0 < arena - arena_bytes(file.parse(path.read_bytes())) < 40_000


def test_float32(tflite_files, digits):
    path, images = str(tflite_files[None][0]), digits[0][-8:]
    scores, _ = interpreters.tflite_micro(path, images)
    np.testing.assert_allclose(scores, interpreters.litert(path, images), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_int16(family, tmp_path):
    pytest.importorskip("ai_edge_quantizer")
    keras.utils.set_random_seed(0)
    model, path = representative(family, include_preprocessing=True), tmp_path / "net.tflite"
    randomize_batchnorm(model)
    images = synthetic_images(model.input_shape[1:], count=64)
    export_tflite(model, path, "int16", representative_data=images)
    scores, _ = interpreters.tflite_micro(str(path), images[:4])
    np.testing.assert_allclose(scores, interpreters.litert(str(path), images[:4]), atol=2e-3)
