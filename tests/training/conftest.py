import os
import pathlib

import PIL.Image
import pytest
from image_files import random_image, save

from keras_sharenets.training.data.sources import load

BESIDE_THE_REPOSITORY = pathlib.Path(__file__).parents[3] / "shared" / "tensorflow_datasets"


@pytest.fixture(scope="session")
def cifar10_folder():
    """Where TensorFlow Datasets has CIFAR-10."""
    for folder in (os.environ.get("TFDS_DATA_DIR"), BESIDE_THE_REPOSITORY):
        if folder and (pathlib.Path(folder) / "cifar10").is_dir():
            return pathlib.Path(folder)
    pytest.skip(f"no CIFAR-10: neither in TFDS_DATA_DIR nor in {BESIDE_THE_REPOSITORY}")


@pytest.fixture(scope="session")
def cifar10(cifar10_folder):
    return load("cifar10", data_dir=cifar10_folder)


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture
def half_broken(tmp_path):
    """Two classes of 10 JPEG images; two of them are cut off, one is a text."""
    for name in ("ant", "bee"):
        for number in range(10):
            image = PIL.Image.fromarray(random_image(16, 16))
            save(image, tmp_path / "data" / name / f"{number}.jpg")
    for path in ("ant/3.jpg", "bee/7.jpg"):
        whole = (tmp_path / "data" / path).read_bytes()
        (tmp_path / "data" / path).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data" / "bee" / "0.jpg").write_text("no image")
    return tmp_path / "data"
