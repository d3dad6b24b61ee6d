"""What the files of networks cost: bytes, and time in LiteRT on this machine."""

import dataclasses
import hashlib
import json
import pathlib
import statistics

import keras
import numpy as np

from keras_sharenets import files, mobile
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.mobile.export import conversion as converter
from keras_sharenets.mobile.inspect.benchmark import take_turns, with_random_inputs
from keras_sharenets.mobile.inspect.interpreter import open_bytes
from keras_sharenets.search.spaces.registry import kernel_parameters, named
from keras_sharenets.training.data.batches import held_out_batches
from keras_sharenets.training.run.network import build, input_shape

_CALIBRATION = 200
_REPETITIONS, _WARMUP = 50, 5


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the files of a network cost.

    Attributes:
        int8_bytes: int, size of the int8 file.
        latency_ms: float, median time of the int8 file for one picture, one thread.
        float32_bytes: int, size of the float32 file; `None` where only the other was made.
    """

    int8_bytes: int
    latency_ms: float
    float32_bytes: int | None = None


def _calibration_batch(dataset, shape):
    """Test pictures to measure the ranges of int8 on, as the network sees them: float32 array."""
    size = None if dataset.shape == shape else shape[:2]
    return held_out_batches(dataset, _CALIBRATION, size)[0][0]


def latencies(contents):
    """Milliseconds that TFLite files take for one picture in LiteRT: medians, one thread, all files in turns.

    A machine is slower at one time than at another: only what was measured together can be compared.

    Args:
        contents: sequence of bytes.

    Returns:
        A list of float.
    """
    interpreters = [with_random_inputs(open_bytes(data, "The file to measure")) for data in contents]
    take_turns(interpreters, _WARMUP)
    return [statistics.median(times) for times in take_turns(interpreters, _REPETITIONS)]


def measure(model, folder, dataset):
    """Exports a trained network to `float32.tflite` and `int8.tflite` in a folder and measures both.

    Args:
        model: functional `keras.Model`.
        folder: path.
        dataset: `Dataset` that it is for.

    Returns:
        `Costs`.
    """
    paths = [pathlib.Path(folder) / f"{name}.tflite" for name in ("float32", "int8")]
    pictures, sizes = _calibration_batch(dataset, model.input_shape[1:]), []
    for path, quantization in zip(paths, (None, "int8"), strict=True):
        report = mobile.export_tflite(model, path, quantization, pictures, dataset.class_names)
        sizes.append(report.file_bytes)
    return Costs(sizes[1], *latencies([paths[1].read_bytes()]), sizes[0])


def foreseen_file(model, dataset):
    """The int8 file that an untrained network would become if it were trained; its weights are changed.

    Training makes some scales of normalisations negative, for which a file holds more. Here every other one is, so that
    hardly a trained network's file is larger.

    Args:
        model: functional `keras.Model`.
        dataset: `Dataset` that it is for.

    Returns:
        bytes.
    """
    randomize_batchnorm(model)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            signs = np.where(np.arange(layer.gamma.shape[0]) % 2, -1, 1)
            layer.gamma.assign(layer.gamma * signs)
    data = converter.convert(model, "int8", _calibration_batch(dataset, model.input_shape[1:]))
    return mobile.write_labels(data, dataset.class_names)


def foresee(model, dataset):
    """The `Costs` of the [`foreseen_file`]."""
    data = foreseen_file(model, dataset)
    return Costs(len(data), *latencies([data]))


class FileLimits:
    """The limits of a `FileBudget` as the `excess` of a `SpaceHyperModel`.

    A network is built, exported and measured before it is trained, once: what was found stays in a file, so that the
    answer is the same in every process and after every interruption.

    Args:
        space: `Space`.
        budget: `FileBudget`.
        dataset: `Dataset` that the networks are for.
        recipe: `Recipe` that they are trained with.
        folder: path for what was found.
    """

    def __init__(self, space, budget, dataset, recipe, folder):
        self.space = space
        self.budget = budget
        self.dataset = dataset
        self.recipe = recipe
        self.folder = pathlib.Path(folder)

    def __call__(self, point):
        """What there must be less of, fields of `Counts`."""
        limit = self.budget.max_tflite_bytes
        shape, classes = input_shape(self.dataset, self.recipe), len(self.dataset.class_names)
        # No file is smaller than its kernels: most of the large networks need not be built.
        if limit is not None and kernel_parameters(self.space, point, shape, classes) > limit:
            return ("stored_parameters",)
        costs = self.costs(point)
        if self.budget.allows(costs):
            return ()
        return ("stored_parameters",) if limit is not None and costs.int8_bytes > limit else ("multiply_adds",)

    def __str__(self):
        """The limits, each with the least that was measured."""
        found, texts = [json.loads(path.read_text()) for path in self.folder.glob("*.json")], []
        for name, cost in (("max_tflite_bytes", "int8_bytes"), ("max_latency_ms", "latency_ms")):
            limit = getattr(self.budget, name)
            if limit is not None:
                least = f"; least measured: {min(costs[cost] for costs in found):.6g}" if found else ""
                texts.append(f"`{name}` (={limit}{least})")
        return " and ".join(texts)

    def costs(self, point):
        """The `Costs` of the network of a point, foreseen now or before."""
        name = hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()[:20]
        path = self.folder / f"{name}.json"
        if not path.is_file():
            name, arguments = named(self.space, point)
            costs = foresee(build(name, self.dataset, arguments, self.recipe), self.dataset)
            files.write_json(path, {"name": name, "arguments": arguments, **dataclasses.asdict(costs)})
        found = json.loads(path.read_text())
        return Costs(**{field.name: found[field.name] for field in dataclasses.fields(Costs)})
