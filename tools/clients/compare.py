"""Runs the files of `tools.clients.files` in every program, and writes `docs/clients.md`.

.venv-clients/bin/python -m tools.clients.compare runs/clients docs/clients.md [CLIENT ...]

Each program has a process of its own, which is started anew if a file ends it.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np

from tools.clients import browser, interpreters

# What a program is called, the function that runs it, and the packages whose versions are told.
CLIENTS: dict[str, tuple[Callable[[str, np.ndarray], np.ndarray], tuple[str, ...]]] = {
    "LiteRT interpreter": (interpreters.litert, ("ai-edge-litert",)),
    "LiteRT CompiledModel": (interpreters.compiled_model, ("ai-edge-litert",)),
    "MediaPipe ImageClassifier": (interpreters.mediapipe, ("mediapipe",)),
    "LiteRT for Microcontrollers": (interpreters.tflite_micro, ("tflite-micro",)),
    "LiteRT.js in Chromium, WASM": (browser.litert_js, ("playwright",)),
    "OpenVINO": (interpreters.openvino, ("openvino",)),
    "OpenCV": (interpreters.opencv, ("opencv-contrib-python",)),
    "tf2onnx and ONNX Runtime": (interpreters.onnxruntime, ("tf2onnx", "onnxruntime")),
    "AI Edge Quantizer": (interpreters.quantizer, ("ai-edge-quantizer",)),
    "Vela for Ethos-U": (interpreters.vela, ("ethos-u-vela",)),
}
# A class whose score is less than one step of an int8 probability below the best one is as good.
_STEP = 1 / 256
_SECONDS = 300
_LONGEST = 160


def verdict(scores: np.ndarray, expected: np.ndarray) -> str:
    """`"right"`, or on how many images a program says another class.

    >>> verdict(np.array([[0.1, 0.9], [0.6, 0.4]]), np.array([[0.2, 0.8], [0.3, 0.7]]))
    'wrong: 1 of 2 images'
    """
    if scores.shape != expected.shape or not np.isfinite(scores).all():
        return f"wrong: {'numbers that are not finite' if scores.shape == expected.shape else f'shape {scores.shape}'}"
    chosen = np.take_along_axis(expected, scores.argmax(-1)[:, None], -1)[:, 0]
    different = int((chosen < expected.max(-1) - _STEP).sum())
    return f"wrong: {different} of {len(scores)} images" if different else "right"


def try_files(client: str, paths: list[str], images: np.ndarray) -> None:
    """Prints a line of JSON for each file: what became of it in a program."""
    run = CLIENTS[client][0]
    for path in paths:
        try:
            answer = verdict(run(path, images), interpreters.litert(path, images, real=True))
        except Exception as error:
            answer = "refused: " + " ".join(f"{type(error).__name__}: {error}".split())[:_LONGEST]
        print(json.dumps({"path": path, "answer": answer}), flush=True)


def ask(client: str, folder: pathlib.Path, paths: list[str]) -> dict[str, str]:
    """`{path: answer}` of a program; the file that ends its process is told so, and the others go on."""
    answers: dict[str, str] = {}
    while left := [path for path in paths if path not in answers]:
        command = [sys.executable, "-m", "tools.clients.compare", "--try", client, str(folder), *left]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                out, _ = process.communicate(timeout=_SECONDS * len(left))
            except subprocess.TimeoutExpired:
                process.kill()
                out, _ = process.communicate()
        lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"path"')]
        answers |= {line["path"]: line["answer"] for line in lines}
        if len(lines) < len(left):
            answers[left[len(lines)]] = f"ends the process ({process.returncode})"
    return answers


def page(about: dict, answers: dict[str, dict[str, str]]) -> str:
    """The text of `docs/clients.md`."""
    formats = list(dict.fromkeys(file["format"] for file in about["files"]))
    networks = list(dict.fromkeys(file["network"] for file in about["files"]))
    head = ["program", "version", *formats]
    rows, notes = [head, ["---"] * len(head)], []
    for client, found in answers.items():
        cells = []
        for form in formats:
            paths = {file["network"]: file["path"] for file in about["files"] if file["format"] == form}
            troubles: dict[str, list[str]] = {}
            for name, path in paths.items():
                if found[path] != "right":
                    troubles.setdefault(found[path], []).append(name)
            right = len(paths) - sum(map(len, troubles.values()))
            cells.append("right" if not troubles else f"{right} of {len(paths)} right" if right else "none right")
            for answer, names in troubles.items():
                where = "all" if len(names) == len(networks) else ", ".join(names)
                notes.append(f"- {client}, {form}, {where}: {answer.replace('|', '/')}")
        versions = " and ".join(importlib.metadata.version(package) for package in CLIENTS[client][1])
        rows.append([client, versions, *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return TEXT.format(
        images=about["images"], networks=", ".join(networks), table=table, notes="\n".join(notes) or "None."
    )


TEXT = """# Which programs open the files

Written by `make test-clients`. Networks: {networks}.
Images: {images}.

A cell is "right" if the program says the class of the LiteRT interpreter on every image, or one whose probability is
at most 1/256 below it, for every network. The formats are those of `export_tflite` with its defaults: "int8" takes and
gives uint8.

{table}

What is not right, with the program's own words:

{notes}

- MediaPipe takes images of three channels; files of networks for gray ones it refuses whatever they say ("Only RGB
  color space is supported for now").
- Vela compiles for an Arm Ethos-U55 with 128 units; right means that no operator is left to the CPU. Nothing is run.
- AI Edge Quantizer makes a file with int8 weights of each; what is right or not is that one.
"""


def main(arguments: list[str]) -> None:
    if arguments[0] == "--try":
        client, folder, *paths = arguments[1:]
        try_files(client, paths, np.load(pathlib.Path(folder) / "images.npy"))
        return
    folder, target = pathlib.Path(arguments[0]), pathlib.Path(arguments[1])
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    paths, answers = [file["path"] for file in about["files"]], {}
    for client in arguments[2:] or CLIENTS:
        answers[client] = ask(client, folder, paths)
        print(client, sum(answer == "right" for answer in answers[client].values()), "of", len(paths), "right")
    target.write_text(page(about, answers), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
