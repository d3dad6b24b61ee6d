"""Programs that run a TFLite file, each as a function from its path and images to scores."""

from __future__ import annotations

import contextlib
import pathlib
import re
import subprocess
import sys
import tempfile

import numpy as np

# Memory for the microcontroller interpreter, which reports how much of it a network uses.
_ARENA_BYTES = 2**26


def integers(images: np.ndarray, dtype: np.dtype | type | str, scale: float, zero_point: int) -> np.ndarray:
    """Pixel values in the type and quantization of a tensor."""
    dtype = np.dtype(dtype)
    if not np.issubdtype(dtype, np.integer):
        return images.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(images / scale) + zero_point, limits.min, limits.max).astype(dtype)


def as_input(path: str, images: np.ndarray) -> np.ndarray:
    """Images in the input type of a file."""
    from ai_edge_litert.interpreter import Interpreter

    (entry,) = Interpreter(path).get_input_details()
    return integers(images, entry["dtype"], *entry["quantization"])


def litert(path: str, images: np.ndarray, *, real: bool = False) -> np.ndarray:
    """The LiteRT interpreter, the reference for the others; `real` dequantizes integer scores."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path)
    interpreter.allocate_tensors()
    (entry,), (end,) = interpreter.get_input_details(), interpreter.get_output_details()
    scores = []
    for image in images:
        interpreter.set_tensor(entry["index"], integers(image[None], entry["dtype"], *entry["quantization"]))
        interpreter.invoke()
        scores.append(interpreter.get_tensor(end["index"])[0].astype("float32"))
    scale, zero_point = end["quantization"]
    return (np.stack(scores) - zero_point) * scale if real and scale else np.stack(scores)


def compiled_model(path: str, images: np.ndarray) -> np.ndarray:
    """LiteRT's newer API, on the CPU."""
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.interpreter import Interpreter

    (entry,), (end,) = Interpreter(path).get_input_details(), Interpreter(path).get_output_details()
    model = CompiledModel.from_file(path)
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    scores = []
    for image in images:
        inputs[0].write(integers(image, entry["dtype"], *entry["quantization"]).ravel())
        model.run_by_index(0, inputs, outputs)
        scores.append(outputs[0].read(int(end["shape"][-1]), end["dtype"]).astype("float32"))
    return np.stack(scores)


def mediapipe(path: str, images: np.ndarray) -> np.ndarray:
    """The image classifier of MediaPipe Tasks, which reads the metadata about input and classes."""
    import mediapipe
    from mediapipe.tasks import python
    from mediapipe.tasks.python import vision

    options = vision.ImageClassifierOptions(base_options=python.BaseOptions(model_asset_path=path))
    scores = []
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for image in images:
            colors = np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)).astype("uint8"))
            answer = classifier.classify(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=colors))
            categories = answer.classifications[0].categories
            scores.append([c.score for c in sorted(categories, key=lambda category: category.index)])
    return np.asarray(scores)


def tflite_micro(path: str, images: np.ndarray) -> tuple[np.ndarray, int]:
    """The microcontroller interpreter, built for this machine; returns scores and its memory in bytes."""
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_file(path, arena_size=_ARENA_BYTES)
    entry = interpreter.get_input_details(0)
    parameters = entry["quantization_parameters"]
    scale, zero_point = [*parameters["scales"], 1.0][0], [*parameters["zero_points"], 0][0]
    scores = []
    for image in images:
        interpreter.set_input(integers(image[None], entry["dtype"], scale, zero_point), 0)
        interpreter.invoke()
        scores.append(interpreter.get_output(0)[0].astype("float32"))
    # It writes its report to the file descriptor of standard error.
    command = "import sys; from tflite_micro import runtime\n"
    command += f"runtime.Interpreter.from_file(sys.argv[1], arena_size={_ARENA_BYTES}).print_allocations()"
    told = subprocess.run([sys.executable, "-c", command, path], capture_output=True, text=True)
    found = re.search(r"Arena allocation total (\d+)", told.stdout + told.stderr)
    return np.stack(scores), int(found[1]) if found else None


def openvino(path: str, images: np.ndarray) -> np.ndarray:
    """OpenVINO on the CPU, in float32 even if the processor supports bfloat16."""
    import openvino

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    given = as_input(path, images)
    return np.stack([compiled(given[i : i + 1])[0][0] for i in range(len(images))]).astype("float32")


def opencv(path: str, images: np.ndarray) -> np.ndarray:
    """OpenCV's DNN module."""
    import cv2

    network = cv2.dnn.readNetFromTFLite(path)
    scores = []
    for image in as_input(path, images):
        network.setInput(np.ascontiguousarray(image.transpose(2, 0, 1)[None], "float32"))
        scores.append(network.forward().reshape(-1).astype("float32"))
    return np.stack(scores)


def onnxruntime(path: str, images: np.ndarray) -> np.ndarray:
    """ONNX Runtime, on the file converted by tf2onnx."""
    import onnxruntime
    import tf2onnx

    with contextlib.redirect_stdout(None):
        program, _ = tf2onnx.convert.from_tflite(path, opset=17)
    session = onnxruntime.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])
    (entry,), given = session.get_inputs(), as_input(path, images)
    answers = [session.run(None, {entry.name: given[i : i + 1]})[0][0] for i in range(len(images))]
    return np.stack(answers).astype("float32")


def quantizer(path: str, images: np.ndarray) -> np.ndarray:
    """ai-edge-quantizer: its converted file with int8 weights, run in the LiteRT interpreter."""
    from ai_edge_quantizer import quantizer, recipe

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        target = str(pathlib.Path(folder) / "net.tflite")
        tool = quantizer.Quantizer(path)
        tool.load_quantization_recipe(recipe.dynamic_wi8_afp32())
        tool.quantize().export_model(target)
        return litert(target, images)


def vela(path: str, images: np.ndarray) -> tuple[np.ndarray, int]:
    """The compiler for Ethos-U. It computes no scores, so those of the interpreter are returned if it accepts the file,
    together with the bytes of the compiled file.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [pathlib.Path(sys.executable).with_name("vela"), path, "--output-dir", folder]
        options = ["--accelerator-config", "ethos-u55-128", "--show-cpu-operations"]
        done = subprocess.run([*map(str, command), *options], capture_output=True, text=True)
        compiled = sum(file.stat().st_size for file in pathlib.Path(folder).glob("*_vela.tflite"))
    found = re.search(r"CPU operators = (\d+)", done.stdout)
    if done.returncode or not found or "NPU operators" not in done.stdout:
        raise RuntimeError((done.stderr or done.stdout).strip().splitlines()[-1])
    if int(found[1]):
        raise RuntimeError("operators are left to the CPU")
    return litert(path, images, real=True), compiled
