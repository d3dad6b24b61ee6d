"""Complete runs with images from a folder and from CIFAR-10."""

import dataclasses
import json
import warnings

import numpy as np
import PIL.Image
import pytest
from tiny_network import MODEL, TINY

from keras_sharenets.training.data.dataset import Arrays
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import override, recipe_for
from keras_sharenets.training.reports.evaluate import evaluate
from keras_sharenets.training.run.finished import warn_of_other_split
from keras_sharenets.training.run.fit import fit
from keras_sharenets.training.run.record import RunOptions, read_metrics, write_metrics

PLAIN = RunOptions(jit_compile=False)


def test_images_from_a_folder(quick_network, tmp_path):
    """Red, green, and blue images, decoded batch by batch."""
    generator = np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (tmp_path / "colors" / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(0, 100, (8, 8, 3), dtype="uint8")
            pixels[..., channel] += 120
            PIL.Image.fromarray(pixels).save(tmp_path / "colors" / name / f"{number}.png")
    dataset = load(tmp_path / "colors")
    changes = {"epochs": 8, "batch_size": 12, "learning_rate": 0.05, "schedule": "cosine"}
    settings = override(recipe_for(MODEL, dataset.name), **changes)
    run = fit(MODEL, dataset, tmp_path / "run", recipe=settings, options=TINY, run_options=PLAIN, verbose=0)
    assert run.test_accuracy == 1.0
    assert (tmp_path / "run" / "labels.txt").read_text() == "blue\ngreen\nred\n"
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".* has changed since")
        assert evaluate(tmp_path / "run" / "last.keras", load(tmp_path / "colors")).accuracy == 1.0
        # Another choice of validation images does not change the test split.
        warn_of_other_split(tmp_path / "run" / "last.keras", load(tmp_path / "colors", validation=0.25))
        record = read_metrics(tmp_path / "run" / "metrics.json")
        beside = [[train, test, 9] for train, test in record.data["images_per_class"]]
        more = dataclasses.replace(record, data={**record.data, "images_per_class": beside})
        write_metrics(more, tmp_path / "other" / "metrics.json")
        warn_of_other_split(tmp_path / "other" / "last.keras", load(tmp_path / "colors"))
    # With another seed or another name, too.
    with pytest.warns(UserWarning, match="colors are not those of the run of .*last.keras"):
        warn_of_other_split(tmp_path / "run" / "last.keras", load(tmp_path / "colors", split_seed=1))
    (tmp_path / "colors" / "red" / "0.png").rename(tmp_path / "colors" / "red" / "z.png")
    with pytest.warns(UserWarning, match="colors are not those of the run of .*last.keras"):
        warn_of_other_split(tmp_path / "run" / "last.keras", load(tmp_path / "colors"))
    # With another image, other images are the test split.
    PIL.Image.fromarray(pixels).save(tmp_path / "colors" / "blue" / "20.png")
    with pytest.warns(UserWarning, match="it had 60 images and now has 61"):
        evaluate(tmp_path / "run" / "last.keras", load(tmp_path / "colors"))


@pytest.mark.slow  # `test_families.py` also trains with these images.
def test_images_of_cifar10(cifar10, tmp_path):
    """Two epochs of the first 600 images with a shortened recipe of the paper."""
    few = [Arrays(source.images[:600], source.labels[:600]) for source in (cifar10.train, cifar10.test)]
    dataset = dataclasses.replace(cifar10, train=few[0], test=few[1])
    recipe = override(recipe_for(MODEL, "cifar10"), epochs=2, batch_size=100)
    run = fit(MODEL, dataset, tmp_path / "run", recipe=recipe, options=TINY, run_options=PLAIN, verbose=0)
    assert run.epochs[1].loss < run.epochs[0].loss
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["data"]["note"], metrics["data"]["train"]) == (cifar10.note, 600)
    assert "airplane\nautomobile" in (tmp_path / "run" / "labels.txt").read_text()
