"""Unreadable images are listed, and skipped on request."""

import keras
import numpy as np
import pytest

from keras_sharenets.training.data.sources import load
from trainers.cli import main


def test_all_unreadable_images_are_listed(partly_unreadable):
    with pytest.raises(ValueError, match="Use `--skip-unreadable` to skip such images") as raised:
        load(partly_unreadable)
    for path in ("ant/3.jpg", "bee/7.jpg", "bee/0.jpg"):
        assert f"{partly_unreadable / path} is not an image that can be read" in str(raised.value)


def test_unreadable_images_are_skipped_on_request(partly_unreadable):
    dataset = load(partly_unreadable, skip_unreadable=True)
    kept = {str(path.relative_to(partly_unreadable)) for part in (dataset.train, dataset.test) for path in part.paths}
    every = {f"{name}/{number}.jpg" for name in ("ant", "bee") for number in range(10)}
    assert every - kept == {"ant/3.jpg", "bee/7.jpg", "bee/0.jpg"}
    assert len(dataset.unreadable) == 3
    assert "3 unreadable images are left out" in dataset.note
    assert dataset.train.pixels(np.arange(len(dataset.train))).shape == (len(dataset.train.labels), 16, 16, 3)


def test_command_lists_skipped_images(partly_unreadable, tmp_path, capsys):
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    model.save(tmp_path / "net.keras")
    evaluate = ["evaluate", str(tmp_path / "net.keras"), "--data", str(partly_unreadable)]
    assert main(evaluate) == 2
    assert "is not an image that can be read" in capsys.readouterr().err
    assert main([*evaluate, "--skip-unreadable"]) == 0
    output, errors = capsys.readouterr()
    left_out = [line for line in errors.splitlines() if line.startswith("skipped: ")]
    assert [line.partition(" is not")[0] for line in sorted(left_out)] == [
        f"skipped: {partly_unreadable / path}" for path in ("ant/3.jpg", "bee/0.jpg", "bee/7.jpg")
    ]
    assert "3 unreadable images are left out" in output


def test_split_with_only_unreadable_images(partly_unreadable, tmp_path):
    partly_unreadable.rename(tmp_path / "train")
    for name in ("ant", "bee"):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"The test split has no readable image\. .*test/ant/0\.jpg is not an image"):
        load(tmp_path, skip_unreadable=True)


def test_class_with_only_unreadable_images(partly_unreadable):
    for number in range(10):
        (partly_unreadable / "ant" / f"{number}.jpg").write_text("no image")
    with pytest.raises(ValueError, match=r"The class 'ant' has no readable training image\. .*And 2 more"):
        load(partly_unreadable, skip_unreadable=True)
