"""Runs the files of `tools.clients.files` in every program, and writes `docs/clients.md`.

.venv-clients/bin/python -m tools.clients.compare runs/clients docs/clients.md

Each program runs in its own process, which is restarted if a file crashes it. The result for each file is cached in
`answers`, next to the files: after an interruption, the command resumes with the next file.
"""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable

import numpy as np

from tools.clients import browser, interpreters

# For each program: the function that runs it, the packages whose versions are listed, and the number of images. The
# microcontroller kernels are slow on a server.
CLIENTS: dict[str, tuple[Callable, tuple[str, ...], int]] = {
    "LiteRT interpreter": (interpreters.litert, ("ai-edge-litert",), 200),
    "LiteRT CompiledModel": (interpreters.compiled_model, ("ai-edge-litert",), 200),
    "MediaPipe ImageClassifier": (interpreters.mediapipe, ("mediapipe",), 200),
    "LiteRT.js in Chromium, WASM": (browser.litert_js, (), 200),
    "OpenVINO": (interpreters.openvino, ("openvino",), 200),
    "OpenCV": (interpreters.opencv, ("opencv-contrib-python",), 200),
    "AI Edge Quantizer": (interpreters.quantizer, ("ai-edge-quantizer",), 200),
    "tf2onnx and ONNX Runtime": (interpreters.onnxruntime, ("tf2onnx", "onnxruntime"), 200),
    "LiteRT for Microcontrollers": (interpreters.tflite_micro, ("tflite-micro",), 10),
    "Vela for Ethos-U": (interpreters.vela, ("ethos-u-vela",), 10),
}
_REFERENCE = "LiteRT interpreter"
# A class counts as correct if its score is less than one int8 probability step below the best one.
_STEP = 1 / 256
_SECONDS = 300  # Time limit per file.
_LONGEST = 160


def same_class(scores: np.ndarray, expected: np.ndarray) -> int:
    """Number of images for which a program predicts the expected class, or one that is as good.

    >>> same_class(np.array([[0.1, 0.9], [0.6, 0.4]]), np.array([[0.2, 0.8], [0.3, 0.7]]))
    1
    """
    if scores.shape != expected.shape or not np.isfinite(scores).all():
        raise ValueError(f"scores of the shape {scores.shape} for {expected.shape}, or not finite")
    chosen = np.take_along_axis(expected, scores.argmax(-1)[:, None], -1)[:, 0]
    return int((chosen >= expected.max(-1) - _STEP).sum())


def try_files(client: str, folder: pathlib.Path, names: list[str]) -> None:
    """Prints a line of JSON with the result of a program for each file."""
    run, _, count = CLIENTS[client]
    images = np.load(folder / "images.npy")[:count]
    for name in names:
        path = str(folder / name)
        try:
            result = run(path, images)
            scores, measured = result if isinstance(result, tuple) else (result, None)
            if client == _REFERENCE:
                expected = np.load(folder / f"{name.split('.')[0]}.keras.npy")[:count]
            else:
                expected = interpreters.litert(path, images, real=True)
            answer = {"same": same_class(scores, expected), "images": len(images), "bytes": measured}
        except Exception as error:
            words = f"{type(error).__name__}: {error}".replace(path, "the file")
            answer = {"refused": " ".join(words.split())[:_LONGEST]}
        print(json.dumps({"file": name} | answer), flush=True)


def ask(client: str, folder: pathlib.Path, names: list[str], kept: pathlib.Path) -> dict[str, dict]:
    """`{file: answer}` of a program. If a file ends the process or takes too long, its answer says so.

    The program is then started again with the next file.

    Each answer is written to `kept` as it arrives, with a checksum of the file, the images, and the versions of the
    program and of the interpreter that it is compared with. Answers for the same of all are reused.
    """
    versions = f"{_version(client)}, {_version(_REFERENCE)}"
    sums = {name: _checksum(versions, folder / "images.npy", folder / name) for name in names}
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    answers: dict[str, dict] = {
        name: found[name]["answer"] for name in names if found.get(name, {}).get("checksum") == sums[name]
    }
    started, known = time.monotonic(), len(answers)

    def keep(name, answer):
        answers[name] = answer
        part = kept.with_suffix(".part")
        summed = {name: {"checksum": sums[name], "answer": answer} for name, answer in answers.items()}
        part.write_text(json.dumps(summed), encoding="utf-8")
        part.replace(kept)
        left = (time.monotonic() - started) / (len(answers) - known) * len(set(names) - set(answers))
        print(f"  {client}: {len(answers)} of {len(names)} files, about {left / 60:.0f} min left", flush=True)

    while left := [name for name in names if name not in answers]:
        command = [sys.executable, "-m", "tools.clients.compare", "--try", client, str(folder), *left]
        late = threading.Event()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            watch = _watch(process, late)
            for line in process.stdout or ():
                if line.startswith('{"file"'):
                    watch.cancel()
                    answer = json.loads(line)
                    keep(answer.pop("file"), answer)
                    watch = _watch(process, late)
            watch.cancel()
        first = next((name for name in left if name not in answers), None)
        if first is not None:
            reason = f"takes more than {_SECONDS} s" if late.is_set() else f"ends the process ({process.returncode})"
            keep(first, {"refused": reason})
    return answers


def _watch(process: subprocess.Popen, late: threading.Event) -> threading.Timer:
    """A started timer that ends the process after the time limit of a file, and sets `late`."""

    def stop():
        late.set()
        process.kill()

    timer = threading.Timer(_SECONDS, stop)
    timer.start()
    return timer


def _checksum(versions, *paths):
    return zlib.crc32(b"".join([versions.encode(), *(path.read_bytes() for path in paths)]))


def cell(answers: list[dict]) -> str:
    """Table cell with the results of a program for the files of one format; `{}` stands for a file that was not tried.

    >>> cell([{"same": 5, "images": 5}, {"refused": "no"}])
    '1 of 2 files: correct'
    >>> cell([{"same": 4, "images": 5}, {"same": 5, "images": 5}, {}])
    '9 of 10 images (2 of 3 files tried)'
    """
    tried = [answer for answer in answers if answer]
    opened = [answer for answer in tried if "same" in answer]
    if not tried:
        return "not tried"
    same, images = (sum(answer[key] for answer in opened) for key in ("same", "images"))
    words = "correct" if same == images else f"{same:,} of {images:,} images"
    if not opened:
        words = "rejected"
    elif len(opened) < len(tried):
        words = f"{len(opened)} of {len(tried)} files: {words}"
    return words if len(tried) == len(answers) else f"{words} ({len(tried)} of {len(answers)} files tried)"


def refusals(listed: list[dict], found: dict[str, dict]) -> list[str]:
    """Error messages of a program, each after the files that it rejects, by format."""
    told: dict[str, dict[str, list[str]]] = {}
    for entry in listed:
        words = found.get(entry["file"], {}).get("refused")
        if words:
            told.setdefault(words, {}).setdefault(entry["format"], []).append(entry["network"])
    count, lines = len({entry["network"] for entry in listed}), []
    for words, formats in told.items():
        where = [f"{form} of {'all' if len(of) == count else ', '.join(of)}" for form, of in formats.items()]
        lines.append(f"{'; '.join(where)}: {words.replace('|', '/')}")
    return lines


def page(about: dict, answers: dict[str, dict[str, dict]]) -> str:
    """The text of `docs/clients.md`."""
    listed = about["files"]
    formats = list(dict.fromkeys(entry["format"] for entry in listed))
    rows, notes = [["program", "version", "images", *formats]], []
    for client, found in answers.items():
        of_format = {form: [entry for entry in listed if entry["format"] == form] for form in formats}
        cells = [cell([found.get(entry["file"], {}) for entry in entries]) for entries in of_format.values()]
        count = max((answer["images"] for answer in found.values() if "images" in answer), default=0)
        rows.append([client, _version(client), str(count), *cells])
        notes += [f"- {client}, {words}" for words in refusals(listed, found)]
    sizes = [["network", "int8 file", "arena of LiteRT for Microcontrollers", "after Vela"]]
    for name in about["networks"]:
        (entry,) = [entry for entry in listed if (entry["network"], entry["format"]) == (name, formats[-1])]
        told = [answers.get(client, {}).get(entry["file"], {}).get("bytes") for client in list(CLIENTS)[-2:]]
        sizes.append([name, f"{entry['bytes']:,}", *("-" if size is None else f"{size:,}" for size in told)])
    return TEXT.format(
        images=about["images"],
        networks=", ".join(about["networks"]),
        table=_table(rows),
        sizes=_table(sizes),
        notes="\n".join(notes) or "None.",
    )


def _version(client):
    return " and ".join(map(importlib.metadata.version, CLIENTS[client][1])) or browser.versions()


def _table(rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


TEXT = (pathlib.Path(__file__).parent / "page.md").read_text(encoding="utf-8")


def main(arguments: list[str]) -> None:
    if arguments[0] == "--try":
        client, folder, *names = arguments[1:]
        try_files(client, pathlib.Path(folder), names)
        return
    folder, target = pathlib.Path(arguments[0]), pathlib.Path(arguments[1])
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    names, answers, started = [entry["file"] for entry in about["files"]], {}, time.monotonic()
    for number, client in enumerate(CLIENTS, 1):
        kept, before = folder / "answers" / f"{client}.json", time.monotonic()
        kept.parent.mkdir(exist_ok=True)
        answers[client] = ask(client, folder, names, kept)
        right = sum(answer.get("same") == answer.get("images", 0) for answer in answers[client].values())
        now = time.monotonic()
        left = (now - started) / number * (len(CLIENTS) - number)
        print(
            f"{client}: {right} of {len(names)} files right, {now - before:.0f} s; about {left / 60:.0f} min left",
            flush=True,
        )
    target.write_text(page(about, answers), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
