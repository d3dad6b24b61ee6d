import os
import pathlib

import pytest

from trainers.data import load

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
