"""LiteRT for Microcontrollers follows the memory plan of a file and needs the estimated memory."""

import re
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from families import REPRESENTATIVES, representative

from keras_sharenets import targets
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.mobile.export import conversion
from keras_sharenets.mobile.export.representative_data import synthetic_images
from keras_sharenets.mobile.graph.lowering import lower_model
from keras_sharenets.mobile.inspect import file
from keras_sharenets.mobile.inspect.arena import arena_bytes

pytest.importorskip("tflite_micro")
pytestmark = pytest.mark.clients

# The runtime prints its report to standard error.
REPORT = """
import sys
from tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[1], arena_size=2**26).print_allocations()
"""


def allocated_bytes(path):
    """`(bytes of tensors, total bytes)` that the runtime allocates."""
    done = subprocess.run([sys.executable, "-c", REPORT, path], capture_output=True, text=True, check=True)
    text = done.stdout + done.stderr
    return tuple(int(re.search(rf"Arena allocation {part} (\d+)", text)[1]) for part in ("head", "total"))


def outputs(path, images):
    from tflite_micro import runtime

    interpreter, found = runtime.Interpreter.from_file(path, arena_size=2**26), []
    for image in images:
        interpreter.set_input(image[None], 0)
        interpreter.invoke()
        found.append(interpreter.get_output(0).copy())
    return np.concatenate(found)


def reference_outputs(path, images):
    """With LiteRT's reference kernels, which round as those of microcontrollers."""
    interpreter = Interpreter(path, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    (given,), (read,), found = interpreter.get_input_details(), interpreter.get_output_details(), []
    for image in images:
        interpreter.set_tensor(given["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(read["index"]))
    return np.concatenate(found)


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_arena_of_every_family(family, tmp_path):
    model = representative(family, include_preprocessing=True)
    randomize_batchnorm(model)
    lowered, images = lower_model(model), synthetic_images((32, 32, 3), count=8)
    ends = {"input_type": "int8", "output_type": "int8"}
    given = np.random.default_rng(0).integers(-128, 128, (4, 32, 32, 3)).astype("int8")
    totals = {}
    for prefer in targets.PREFERENCES:
        data, _ = conversion.convert(lowered, quantization="int8", representative_data=(images,), prefer=prefer, **ends)
        path = tmp_path / f"{prefer}.tflite"
        path.write_bytes(data)
        values, totals[prefer] = allocated_bytes(str(path))
        assert values == arena_bytes(file.parse(data))
        difference = np.subtract(outputs(str(path), given), reference_outputs(str(path), given), dtype=int)
        assert np.abs(difference).max() <= 1
    assert totals["memory"] <= min(totals["size"], totals["speed"])
    if family == "hscnet":
        assert totals["memory"] <= 110_000
