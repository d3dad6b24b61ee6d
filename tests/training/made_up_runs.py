"""Fake records of training runs, for tests of tables."""

import re

from keras_sharenets import files
from keras_sharenets.training.recipes.named import find_recipe, override
from keras_sharenets.training.run.record import Epoch, Run, write_metrics

SHORT = override(find_recipe("fast"), epochs=4, batch_size=64)
DATA = {"name": "cifar10", "note": "images", "class_names": list("abcdefghij"), "shape": [32, 32, 3], "test": 10000}


def fake_run(model, seed, accuracy, recipe=SHORT, **more):
    """A `Run` whose last epoch has the given accuracy, and whose first epoch was better."""
    epochs = tuple(Epoch(epoch, 1.0, 0.5, 1.0, value, 0.1, 1.0) for epoch, value in enumerate((0.99, accuracy), 1))
    values = {"options": {}, "data": DATA, "backend": "tensorflow", "jit_compile": "auto", "versions": {}}
    return Run(**(values | {"state": "finished", "epochs": epochs} | more), model=model, recipe=recipe, seed=seed)


def publish(folder, run):
    place = folder / f"{run.model}_cifar10_seed{run.seed}"
    write_metrics(run, place / "metrics.json")
    return place


def publish_runs(folder):
    """Two networks with three seeds that differ by 1.5, -0.3, and 0.6 points, two with one; int8 files of two runs."""
    for seed, ours, theirs in ((0, 0.66, 0.645), (2, 0.654, 0.657), (1, 0.663, 0.657)):
        publish(folder, fake_run("sl_vggnet_32", seed, ours))
        publish(folder, fake_run("s_vggnet_32", seed, theirs))
    other = override(find_recipe("fast"), epochs=2, batch_size=64, flip=False)
    publish(folder, fake_run("igcv2_c64_d8", 0, 0.7, other))
    publish(folder, fake_run("xception_c35_d8", 0, 0.7125, other))
    for model, accuracy, size in (("sl_vggnet_32", 0.659, 1234567), ("igcv2_c64_d8", 0.6999, 98765)):
        entries = [
            {"form": "saved_model"},
            {"form": "int8", "path": "int8.tflite", "bytes": size, "test_accuracy": accuracy},
        ]
        files.write_json(folder / f"{model}_cifar10_seed0" / "export" / "export.json", {"files": entries})
    return folder


def tables(text):
    """The rows of all Markdown tables in a text, as dicts."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    split = [[line.strip("| \n").split(" | ") for line in block.splitlines()] for block in blocks]
    return [[dict(zip(header, row, strict=True)) for row in rows] for header, _, *rows in split]
