"""LiteRT for Microcontrollers on a small network. All families and the other programs: `make test-clients`."""

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from keras_sharenets.mobile.inspect import file
from keras_sharenets.mobile.inspect.arena import arena_bytes

pytest.importorskip("tflite_micro")
from tools.clients import interpreters


def test_integers_are_those_of_the_reference_kernels(tflite_files, digits):
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
    # Beside the values of the plan, what the interpreter keeps of each tensor and operator.
    assert 0 < arena - arena_bytes(file.parse(path.read_bytes())) < 40_000


def test_float32(tflite_files, digits):
    path, images = str(tflite_files[None][0]), digits[0][-8:]
    scores, _ = interpreters.tflite_micro(path, images)
    np.testing.assert_allclose(scores, interpreters.litert(path, images), atol=1e-5)
