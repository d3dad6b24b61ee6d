"""Networks of other papers beside those of a search: their int8 files for the same pictures."""

import dataclasses
import json
import pathlib

from keras_sharenets import files
from keras_sharenets.search.measuring import foreseen_file
from keras_sharenets.training.run.network import build

NAMES = ("mobilenet_v2_1_0", "shufflenet_v2_2_0", "igcv3_d_1_0")
FOLDER = "references"


@dataclasses.dataclass(frozen=True)
class Reference:
    """A network to compare with.

    Attributes:
        name: str, one of `keras_sharenets.list_models()`.
        file: path of its int8 file, of random weights.
        int8_bytes: int, its size.
        accuracy: float, on the test split, if a training of it lies in the folder of the search; else `None`.
        latency_ms: float, as in `Costs`; `None` before it is measured.
    """

    name: str
    file: pathlib.Path
    int8_bytes: int
    accuracy: float | None = None
    latency_ms: float | None = None


def make_references(folder, dataset, recipe):
    """The `Reference`s for a data set and a `Recipe`; their files are made once and stay below the folder."""
    plain, accuracies = dataclasses.replace(recipe, initialization="network", dropout=0.0), _accuracies(folder)
    references = []
    for name in NAMES:
        path = folder / FOLDER / f"{name}.tflite"
        if not path.is_file():
            files.write_bytes(path, foreseen_file(build(name, dataset, {}, plain), dataset))
        references.append(Reference(name, path, path.stat().st_size, accuracies.get(name)))
    return references


def _accuracies(folder):
    """Test accuracies of the finished runs of `python -m trainers fit` in a folder, by network."""
    runs = (json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json")))
    return {run["model"]: run["test_accuracy"] for run in runs if not run["options"] and run["state"] == "finished"}
