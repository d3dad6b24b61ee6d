import os
import pathlib

import numpy as np
import PIL.Image
import pytest
from image_files import random_image, save
from tiny_network import create_plain

from keras_sharenets.analysis import catalog
from keras_sharenets.training.data.dataset import Arrays, make_dataset
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.reports import results
from keras_sharenets.training.run import network, recorder

BESIDE_THE_REPOSITORY = pathlib.Path(__file__).parents[3] / "shared" / "tensorflow_datasets"


@pytest.fixture(scope="session")
def cifar10_folder():
    """The data directory of TensorFlow Datasets that contains CIFAR-10."""
    for folder in (os.environ.get("TFDS_DATA_DIR"), BESIDE_THE_REPOSITORY):
        if folder and (pathlib.Path(folder) / "cifar10").is_dir():
            return pathlib.Path(folder)
    pytest.skip(f"no CIFAR-10: neither in TFDS_DATA_DIR nor in {BESIDE_THE_REPOSITORY}")


@pytest.fixture(scope="session")
def cifar10(cifar10_folder):
    return load("cifar10", data_dir=cifar10_folder)


@pytest.fixture(scope="session")
def cifar10_subset(cifar10_folder):
    """The first 512 training and 1,000 test images; reading all images takes 9 s."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(next((cifar10_folder / "cifar10").glob("*/dataset_info.json")).parent)
    parts = []
    for split in ("train[:512]", "test[:1000]"):
        data = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
        parts.append(Arrays(data["image"], data["label"].astype(np.int64)))
    return make_dataset("cifar10", "a part of CIFAR-10", builder.info.features["label"].names, *parts)


@pytest.fixture(scope="session")
def digits():
    return load("digits")


@pytest.fixture(scope="module", params=["plain", pytest.param("hscnet", marks=pytest.mark.slow)])
def quick_network(request):
    """For tests that work with any network: uses a plain one, and the named one in `make test-all`.

    The plain network runs eagerly, since tracing takes longer than a few training steps. A module with hundreds of
    steps, or whose tests depend on tracing, sets `TRACED = True`.
    """
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(network, "create_model", create_plain)
            patch.setattr(catalog, "create_model", create_plain)
            patch.setattr(results, "counts_of", catalog.count_network)
            if not getattr(request.module, "TRACED", False):
                request.getfixturevalue("eager")
        yield


@pytest.fixture(scope="module", autouse=True)
def learning_curves(request):
    """Disables plots of learning curves in `make test`, which take as long as a short training run."""
    with pytest.MonkeyPatch.context() as patch:
        if "not slow" in request.config.option.markexpr:
            patch.setattr(recorder, "draw_curves", lambda run: b"not drawn")
        yield


@pytest.fixture
def partly_unreadable(tmp_path):
    """A folder with two classes of 10 JPEG images, of which two are truncated and one is a text file."""
    for name in ("ant", "bee"):
        for number in range(10):
            image = PIL.Image.fromarray(random_image(16, 16))
            save(image, tmp_path / "data" / name / f"{number}.jpg")
    for path in ("ant/3.jpg", "bee/7.jpg"):
        whole = (tmp_path / "data" / path).read_bytes()
        (tmp_path / "data" / path).write_bytes(whole[: len(whole) // 2])
    (tmp_path / "data" / "bee" / "0.jpg").write_text("no image")
    return tmp_path / "data"
