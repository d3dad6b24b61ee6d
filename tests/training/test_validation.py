"""The validation split, on which epochs are compared instead of the test split."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import PIL.Image
import pytest
from image_files import random_image, save
from tiny_network import MODEL, TINY

from keras_sharenets import files
from keras_sharenets.cli.compare import _training_row
from keras_sharenets.interruption import Interrupted
from keras_sharenets.training.data import sources
from keras_sharenets.training.data.dataset import Arrays, Dataset, count_images, describe_dataset
from keras_sharenets.training.data.sources import DataSource, load
from keras_sharenets.training.recipes.named import override, recipe_for
from keras_sharenets.training.reports.results import Published, make_rows
from keras_sharenets.training.run.command import fit_command_line
from keras_sharenets.training.run.fit import fit, resume
from keras_sharenets.training.run.record import RunOptions, read_metrics, run_from_dict
from keras_sharenets.training.run.recorder import Recorder

SETTINGS = {"recipe": override(recipe_for(MODEL, "digits"), epochs=2, batch_size=128), "options": TINY, "verbose": 0}


def write_images(folder, count):
    for number in range(count):
        save(PIL.Image.fromarray(random_image(4, 4)), folder / f"{number}.png")


def test_a_part_of_each_class_is_the_validation_split(digits):
    held = load("digits", validation="auto")
    counts, before = count_images(held), count_images(digits)
    for name, (train, test, validation) in counts.items():
        assert (train + validation, test) == before[name]
        assert validation == round(0.1 * before[name][0])
    rows = [part.images.reshape(len(part), -1) for part in (held.train, held.validation)]
    assert sorted(map(bytes, np.concatenate(rows))) == sorted(
        map(bytes, digits.train.images.reshape(len(digits.train), -1))
    )
    assert "validation" in describe_dataset(held).splitlines()[1]
    assert "10 % of each class of the training images are the validation split (seed 0)" in held.note
    again = load("digits", validation="0.1")
    assert np.array_equal(again.validation.images, held.validation.images)
    assert not np.array_equal(load("digits", validation=0.1, split_seed=1).validation.images, held.validation.images)


def test_standard_data_sets_have_no_validation_split():
    images, labels = np.zeros((20, 4, 4, 3), "uint8"), np.arange(20) % 2
    for name, expected in (("cifar10", 0), ("mine", 2)):
        part = Arrays(images, labels)
        given = Dataset(name, "note", ("a", "b"), part, part, (4, 4, 3), (0.0,) * 3, (1.0,) * 3)
        found = sources._with_validation(given, DataSource(name, validation="auto"))
        assert (0 if found.validation is None else len(found.validation)) == expected


def test_validation_split_from_a_folder(tmp_path):
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            write_images(tmp_path / "data" / split / name, count)
    data = load(tmp_path / "data", validation="auto")
    assert {path.parent.parent.name for path in data.validation.paths} == {"val"}
    assert [len(part) for part in (data.train, data.test, data.validation)] == [12, 6, 4]
    assert "val/ the validation split" in data.note
    assert data.left_out == ()
    assert load(tmp_path / "data").validation is None
    shutil.move(tmp_path / "data" / "val", tmp_path / "other")
    data = load(tmp_path / "data", validation=tmp_path / "other")
    assert [len(part) for part in (data.train, data.test, data.validation)] == [12, 6, 4]
    (tmp_path / "other" / "cat" / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png"):
        load(tmp_path / "data", validation=tmp_path / "other")
    data = load(tmp_path / "data", validation=tmp_path / "other", skip_unreadable=True)
    assert len(data.validation) == 4
    assert "broken.png" in data.unreadable[0]
    shutil.rmtree(tmp_path / "other" / "dog")
    with pytest.raises(ValueError, match="fewer than 2 class folders"):
        load(tmp_path / "data", validation=tmp_path / "other")
    write_images(tmp_path / "other" / "cow", 1)
    with pytest.raises(ValueError, match=r"cat, cow\) differ from those of data \(cat, dog\)"):
        load(tmp_path / "data", validation=tmp_path / "other", skip_unreadable=True)


@pytest.mark.parametrize("validation", [0, 1, 1.5, -0.1, "half", "/nowhere", "nan"])
def test_bad_validation_argument(validation):
    with pytest.raises(
        ValueError, match=r"`validation` \(=.*\) must be 'auto', 'none', a fraction above 0 and below 1"
    ):
        DataSource("digits", validation=validation)


def test_too_few_images_for_a_validation_split(tmp_path):
    for name in ("cat", "dog"):
        write_images(tmp_path / "two" / name, 2)
    with pytest.raises(ValueError, match="selects no images: each class has only one training image"):
        load(tmp_path / "two", validation=0.5)
    assert load(tmp_path / "two", validation="auto").validation is None


def accuracy(path, part):
    model = files.load_model(path)
    guesses = keras.ops.convert_to_numpy(model(part.images.astype("float32"))).argmax(axis=1)
    return (guesses == part.labels).mean()


@pytest.fixture(scope="module")
def held():
    return load("digits", validation=0.1)


@pytest.fixture(scope="module")
def run(held, quick_network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return fit(MODEL, held, folder, **SETTINGS, run_options=RunOptions(deterministic=True)), folder


def test_test_split_is_evaluated_once_at_the_end(run, held):
    found, folder = run
    assert [epoch.test_accuracy for epoch in found.epochs[:-1]] == [None]
    assert found.test_accuracy == pytest.approx(accuracy(folder / "last.keras", held.test), abs=1e-6)
    assert found.last.validation_accuracy == pytest.approx(accuracy(folder / "last.keras", held.validation), abs=1e-6)
    assert found.best.validation_accuracy == max(epoch.validation_accuracy for epoch in found.epochs)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["best"]["validation_accuracy"] == found.best.validation_accuracy
    assert metrics["data"]["validation"] == len(held.validation)
    assert "best.keras is chosen there" in metrics["accuracy_note"]
    assert read_metrics(folder / "metrics.json") == dataclasses.replace(
        found, data=json.loads(json.dumps(found.data)), source=json.loads(json.dumps(found.source))
    )


@pytest.mark.slow
def test_run_interrupted_during_the_final_test_resumes_bit_for_bit(run, held, tmp_path, monkeypatch):
    def interrupted(self, logs):
        raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "note_test", interrupted)
        with pytest.raises(Interrupted):
            fit(MODEL, held, tmp_path / "run", **SETTINGS, run_options=RunOptions(deterministic=True))
    assert read_metrics(tmp_path / "run" / "metrics.json").test_accuracy is None
    with pytest.raises(ValueError, match=r"has 1438 train images, but the run in .* 1295"):
        resume(tmp_path / "run", load("digits"))
    again = resume(tmp_path / "run", held, verbose=0)
    assert again.test_accuracy == run[0].test_accuracy
    weights = [files.load_model(folder / "last.keras").get_weights() for folder in (tmp_path / "run", run[1])]
    assert all(map(np.array_equal, *weights))


def test_records_with_and_without_validation_split(run):
    with_part, folder = run
    epoch = dataclasses.replace(with_part.last, validation_loss=None, validation_accuracy=None)
    without = run_from_dict(
        {
            **dataclasses.asdict(with_part),
            "data": {key: value for key, value in with_part.data.items() if key != "validation"},
            "epochs": [dataclasses.asdict(epoch)],
            "source": {"data": "digits"},
            "seed": 1,
        }
    )
    assert (with_part.split, without.split) == ("validation", "test")
    rows = make_rows([Published(folder, one, one.test_accuracy, None) for one in (with_part, without)])
    assert len(rows) == 2
    assert _training_row("a", with_part)[4:6] == (str(with_part.best.epoch), "validation")
    assert _training_row("b", dataclasses.replace(without, data=dict(without.data)))[5] == "test"
    assert "--validation 0.1" in fit_command_line(with_part)
    assert "--validation none" in fit_command_line(without)
    cifar = dataclasses.replace(without, source={"data": "cifar10"})
    assert "--validation" not in fit_command_line(cifar)
