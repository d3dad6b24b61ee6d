"""Costs of exported networks: file size, and latency in LiteRT on this machine.

Export needs the TensorFlow backend. On other backends a search writes no files and skips everything that needs them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import files
from keras_sharenets.analysis.copying import in_full_precision
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.search.budgets import FileBudget
from keras_sharenets.search.spaces.space import Point, Space, kernel_parameters, named
from keras_sharenets.timing import Timing, take_turns, timing_of
from keras_sharenets.training.data.batches import held_out_batches, input_shape
from keras_sharenets.training.data.dataset import Dataset
from keras_sharenets.training.papers.runs import find_runs
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.reports.evaluate import evaluate
from keras_sharenets.training.run.network import build
from keras_sharenets.training.run.record import Run
from keras_sharenets.training.run.start import locate_network

_REPRESENTATIVE_IMAGES, _IMAGES_FOR_SIZE = 200, 8
_REPETITIONS, _WARMUP = 50, 5
PEERS = ("mobilenet_v2_1_0", "shufflenet_v2_2_0", "igcv3_d_1_0")
PEERS_FOLDER = "references"


@dataclasses.dataclass(frozen=True)
class FileCosts:
    """Costs of the exported files of a network; `None` for a file that does not exist.

    Attributes:
        int8_bytes: size of the int8 file.
        latency_ms: median latency of the int8 file for one image, one thread.
        float32_bytes: size of the float32 file.
        unsteady: whether the latency measurement was unsteady, as on a busy machine.
    """

    int8_bytes: int | None = None
    latency_ms: float | None = None
    float32_bytes: int | None = None
    unsteady: bool = False


def writes_files() -> bool:
    """Whether the Keras backend supports export."""
    return keras.backend.backend() == "tensorflow"


def _representative_data(dataset: Dataset, shape: tuple[int, int, int]) -> np.ndarray:
    """Test images for int8 calibration, preprocessed for the network: float32 array."""
    size = None if dataset.shape == shape else shape[:2]
    return held_out_batches(dataset, _REPRESENTATIVE_IMAGES, size)[0][0]


def latencies(contents: Sequence[bytes]) -> list[Timing]:
    """Latencies of TFLite files for one image in LiteRT: one thread, all files interleaved.

    The speed of a machine varies over time: only latencies that were measured together can be compared.
    """
    from keras_sharenets.mobile.inspect.benchmark import inference_call
    from keras_sharenets.mobile.inspect.file import open_bytes

    calls = {index: inference_call(open_bytes(data, "The file to measure")) for index, data in enumerate(contents)}
    return [timing_of(times) for times in take_turns(calls, _REPETITIONS, warmup=_WARMUP).values()]


def measure(model: keras.Model, folder: pathlib.Path, dataset: Dataset) -> FileCosts:
    """Exports a trained network to `float32.tflite` and `int8.tflite` in a folder and measures both.

    Args:
        model: functional model.
        folder: output folder.
        dataset: data set with the class names; its test split provides the images for int8 calibration.

    Raises:
        keras_tuner.errors.FailedTrialError: a file cannot be written or run, or its outputs differ from the network's.
    """
    if not writes_files():
        return FileCosts()
    from keras_sharenets.mobile.export import conversion, metadata
    from keras_sharenets.mobile.export.reference import ExportMismatchError
    from keras_sharenets.mobile.export.verification import check_model, verify_file
    from keras_sharenets.mobile.graph.lowering import lower_model

    images, contents = (_representative_data(dataset, model.input_shape[1:]),), {}
    try:
        check_model(model)
        lowered = lower_model(in_full_precision(model))
        for name in ("float32", "int8"):
            quantization = None if name == "float32" else name
            contents[name], graph = conversion.convert(
                lowered,
                quantization=quantization,
                representative_data=images,
                finish=lambda data: metadata.write_labels(data, dataset.class_names),
            )
            if quantization == "int8":
                _check_that_it_runs(contents[name])
            verify_file(contents[name], lowered, graph, quantization=quantization, representative_data=images)
            files.write_bytes(folder / f"{name}.tflite", contents[name])
    except (ExportMismatchError, ValueError) as error:
        import keras_tuner  # Optional: `sharenets choose` uses this module without it.

        raise keras_tuner.errors.FailedTrialError(str(error)) from None
    (latency,) = latencies([contents["int8"]])
    return FileCosts(len(contents["int8"]), latency.median_ms, len(contents["float32"]), latency.unsteady)


# LiteRT can crash on an invalid int8 file: a subprocess protects the search.
_RUN = """
import sys, numpy
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_content=sys.stdin.buffer.read(), num_threads=1)
interpreter.allocate_tensors()
(details,) = interpreter.get_input_details()
interpreter.set_tensor(details["index"], numpy.zeros(details["shape"], details["dtype"]))
interpreter.invoke()
"""


def _check_that_it_runs(data: bytes) -> None:
    """Raises a `ValueError` unless a subprocess can open a file and run it on one image."""
    process = subprocess.run([sys.executable, "-c", _RUN], input=data, capture_output=True, check=False)
    if process.returncode:
        last = process.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ValueError(f"LiteRT does not run the int8 file (status {process.returncode}): {last}")


def estimate_file(model: keras.Model, dataset: Dataset) -> bytes:
    """An int8 file of about the size that an untrained network will have after training; changes its weights.

    Training makes some batch normalization scales negative, which makes the file larger. The estimate makes half of
    them negative, so a trained network's file is rarely larger.
    """
    randomize_batchnorm(model, negative_share=0.5)
    return _int8_file(model, _representative_data(dataset, model.input_shape[1:]), dataset.class_names)


def _int8_file(model: keras.Model, images: np.ndarray, class_names: Sequence[str]) -> bytes:
    from keras_sharenets.mobile.export import conversion, metadata
    from keras_sharenets.mobile.graph.lowering import lower_model

    data, _ = conversion.convert(lower_model(model), quantization="int8", representative_data=(images,))
    return metadata.write_labels(data, class_names)


def estimate_costs(model: keras.Model, dataset: Dataset) -> FileCosts:
    """Costs of the file that `estimate_file` returns."""
    data = estimate_file(model, dataset)
    (latency,) = latencies([data])
    return FileCosts(len(data), latency.median_ms, unsteady=latency.unsteady)


def shared_file_bytes(
    point: Mapping[str, str], network: Callable[[], keras.Model], *, dataset: Dataset, folder: pathlib.Path
) -> int:
    """Size of the int8 file of a network with transferred weights, before it is fine-tuned; cached like `FileLimits`.

    Args:
        point: how its convolutions share, which identifies it.
        network: function that returns the network, called if its file is not known.
        dataset: data set of the search.
        folder: folder for the cached results.

    Returns:
        The size, or 0 if the network cannot be exported: its trial will give the reason.
    """
    from keras_sharenets.mobile.export.reference import ExportMismatchError

    path = _record(folder, point)
    if not path.is_file():
        model = in_full_precision(network())
        # The size hardly depends on the images.
        images = _representative_data(dataset, model.input_shape[1:])[:_IMAGES_FOR_SIZE]
        try:
            size = len(_int8_file(model, images, dataset.class_names))
        except (ExportMismatchError, ValueError):
            size = 0
        files.write_json(path, {"choices": point, "int8_bytes": size})
    return files.read_json(path)["int8_bytes"]


def _record(folder: pathlib.Path, point: Mapping[str, Any]) -> pathlib.Path:
    """The file with the measurements of the network of a point."""
    return folder / f"{hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:20]}.json"


class FileLimits:
    """The limits of a `FileBudget` as the `violated_limits` of a `SpaceHyperModel`.

    Each network is built, exported and measured once, before training. The results are cached in files, so that every
    process and every resumed search gets the same answer.

    Args:
        space: space of the networks.
        budget: limits on their int8 files.
        dataset: data set of the search.
        recipe: training recipe.
        folder: folder for the cached results.
    """

    def __init__(self, space: Space, *, budget: FileBudget, dataset: Dataset, recipe: Recipe, folder: pathlib.Path):
        self.space = space
        self.budget = budget
        self.dataset = dataset
        self.recipe = recipe
        self.folder = folder

    def __call__(self, point: Point) -> tuple[str, ...]:
        """The counts (fields of `Counts`) to reduce; empty if the file of the network is within the limits."""
        limit = self.budget.max_tflite_bytes
        sizes = {
            "input_shape": input_shape(self.dataset, self.recipe),
            "num_classes": len(self.dataset.class_names),
        }
        # No file is smaller than its kernels: this rejects most large networks without building them.
        if limit is not None and kernel_parameters(self.space, point, **sizes) > limit:
            return ("stored_parameters",)
        costs = self.costs(point)
        if self.budget.allows(costs):
            return ()
        return ("multiply_adds",) if FileBudget(limit).allows(costs) else ("stored_parameters",)

    def __str__(self) -> str:
        """The limits, each with the lowest measured value."""
        found, texts = [files.read_json(path) for path in self.folder.glob("*.json")], []
        for name, cost in (("max_tflite_bytes", "int8_bytes"), ("max_latency_ms", "latency_ms")):
            limit = getattr(self.budget, name)
            if limit is not None:
                least = f"; least measured: {min(costs[cost] for costs in found):.6g}" if found else ""
                texts.append(f"`{name}` (={limit}{least})")
        return " and ".join(texts)

    def costs(self, point: Point) -> FileCosts:
        """Estimated costs of the network of a point, cached after the first measurement."""
        path = _record(self.folder, point)
        if not path.is_file():
            name, arguments = named(self.space, point)
            costs = estimate_costs(build(name, self.dataset, arguments, self.recipe), self.dataset)
            files.write_json(path, {"name": name, "arguments": arguments, **dataclasses.asdict(costs)})
        # Older records lack `unsteady`.
        found = {"unsteady": False, **files.read_json(path)}
        return FileCosts(**{field.name: found[field.name] for field in dataclasses.fields(FileCosts)})


@dataclasses.dataclass(frozen=True)
class Peer:
    """A network to compare with: one of another paper, or the original network in a search of sharing.

    Attributes:
        name: one of `keras_sharenets.list_models()`, or `"original"`.
        file: its int8 file for images of the same shape; networks of other papers have random weights.
        int8_bytes: size of the file.
        accuracy: test accuracy; for a network of another paper `None`, unless the folder of the search contains a
            finished run of it on the same images.
        latency_ms: as in `FileCosts`; `None` before the measurement.
    """

    name: str
    file: pathlib.Path
    int8_bytes: int
    accuracy: float | None = None
    latency_ms: float | None = None


def make_peers(
    folder: pathlib.Path, dataset: Dataset, recipe: Recipe, show: Callable[[str], object] = lambda text: None
) -> list[Peer]:
    """The peers for a data set and a recipe; their files are created once and kept in the folder of the search.

    `show` is called with a message before each file is created, which takes seconds.
    """
    comparable = [run for run in find_runs([folder]) if not run.options and _is_tested_on(run, dataset)]
    accuracies = {run.model: run.test_accuracy for run in comparable if run.test_accuracy is not None}
    plain, peers = dataclasses.replace(recipe, initialization="network", dropout=0.0), []
    for name in PEERS:
        path = folder / PEERS_FOLDER / f"{name}.tflite"
        if not path.is_file():
            show(f"exporting {name} for comparison ...")
            files.write_bytes(path, estimate_file(build(name, dataset, {}, plain), dataset))
        peers.append(Peer(name, path, path.stat().st_size, accuracies.get(name)))
    return peers


def _is_tested_on(run: Run, dataset: Dataset) -> bool:
    """Whether a run was tested on the test split of a data set, as far as its record tells."""
    names = ("name", "class_names", "shape")
    same = all(list(run.data[name]) == list(getattr(dataset, name)) for name in names)
    now = dataset.checksums.get("test")
    before = run.data.get("checksums", {}).get("test", now)  # Missing in older records.
    return same and run.data["test"] == len(dataset.test) and before == now


def make_original(
    folder: pathlib.Path,
    source: str,
    dataset: Dataset,
    held: Dataset,
    crops: str,
    show: Callable[[str], object] = lambda text: None,
) -> Peer | None:
    """The original network in a search of sharing; `None` if it no longer exists or cannot be exported to int8.

    Args:
        folder: folder of the search, where the results are cached.
        source: a run, a `.keras` file or the name of a pretrained network.
        dataset: data set for the test accuracy.
        held: data set whose test split provides the images for int8 calibration.
        crops: image crops to test on, as in `evaluate`.
        show: function that is called with a progress message.
    """
    import keras_tuner

    place = folder / PEERS_FOLDER / "original"
    record, file = place / "accuracy.json", place / "int8.tflite"
    if not record.is_file():
        show(f"testing {source} for comparison ...")
        try:
            path = locate_network(source).path
            measure(files.load_model(path), place, held)
            files.write_json(record, {"accuracy": evaluate(path, dataset, crops).accuracy})
        except (ValueError, keras_tuner.errors.FailedTrialError) as error:
            show(f"skipping {source}: {error}")
            return None
    accuracy = files.read_json(record)["accuracy"]
    return Peer("original", file, file.stat().st_size, accuracy)
