"""Networks of other papers beside those of a search: what their int8 files cost for the same pictures."""

import dataclasses
import json

from keras_sharenets import files
from trainers.network import build
from tuning.measuring import foresee

NAMES = ("mobilenet_v2_1_0", "shufflenet_v2_2_0", "igcv3_d_1_0")
FILE = "references.json"


@dataclasses.dataclass(frozen=True)
class Reference:
    """A network to compare with; its file is that of random weights.

    Attributes:
        name: str, one of `keras_sharenets.list_models()`.
        int8_bytes, latency_ms: as in `Costs`.
        accuracy: float, on the test split, if a training of it lies in the folder of the search; else `None`.
    """

    name: str
    int8_bytes: int
    latency_ms: float
    accuracy: float | None = None


def measure_references(folder, dataset, recipe):
    """The `Reference`s for a data set and a `Recipe`; what they cost is measured once and kept in the folder."""
    path = folder / FILE
    if not path.is_file():
        plain = dataclasses.replace(recipe, initialization="network", dropout=0.0)
        costs = {name: dataclasses.asdict(foresee(build(name, dataset, {}, plain), dataset)) for name in NAMES}
        files.write_json(path, costs)
    accuracies = _accuracies(folder)
    return [
        Reference(name, costs["int8_bytes"], costs["latency_ms"], accuracies.get(name))
        for name, costs in json.loads(path.read_text()).items()
    ]


def _accuracies(folder):
    """Test accuracies of the finished runs of `python -m trainers fit` in a folder, by network."""
    runs = (json.loads(path.read_text()) for path in sorted(folder.glob("*/metrics.json")))
    return {run["model"]: run["test_accuracy"] for run in runs if not run["options"] and run["state"] == "finished"}
