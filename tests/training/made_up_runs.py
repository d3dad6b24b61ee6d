"""Records of runs that were never trained, for tests of tables."""

from keras_sharenets.training.recipes.named import find_recipe, override
from keras_sharenets.training.run.record import Epoch, Run, write_metrics

SHORT = override(find_recipe("fast"), epochs=4, batch_size=64)
DATA = {"name": "cifar10", "note": "images", "class_names": list("abcdefghij"), "shape": [32, 32, 3], "test": 10000}


def made_up(model, seed, accuracy, recipe=SHORT, **more):
    """A `Run` whose last epoch has this accuracy; the one before was better."""
    epochs = tuple(Epoch(epoch, 1.0, 0.5, 1.0, value, 0.1, 1.0) for epoch, value in enumerate((0.99, accuracy), 1))
    values = {"options": {}, "data": DATA, "backend": "tensorflow", "jit_compile": "auto", "versions": {}}
    return Run(**(values | {"state": "finished", "epochs": epochs} | more), model=model, recipe=recipe, seed=seed)


def publish(folder, run):
    place = folder / f"{run.model}_cifar10_seed{run.seed}"
    write_metrics(run, place / "metrics.json")
    return place
