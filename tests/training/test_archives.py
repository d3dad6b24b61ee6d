"""Small data sets in the layouts of the original archives."""

import numpy as np
import PIL.Image
import pytest
from image_files import save

from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import recipe_for

RANDOM = np.random.default_rng(0)


def plain(color, size=(64, 64)):
    return PIL.Image.new("RGB", size, color)


def write_tiny_imagenet(folder):
    """Two classes; two of the three test images belong to the second."""
    for label, name in enumerate(("n01", "n02")):
        for number in range(3):
            save(plain((100 * label, number, 0)), folder / "train" / name / "images" / f"{name}_{number}.JPEG")
        (folder / "train" / name / f"{name}_boxes.txt").write_text("n01_0.JPEG\t0\t0\t62\t62\n")
    for number in range(3):
        save(plain((200, number, 0)), folder / "val" / "images" / f"val_{number}.JPEG")
        save(plain((0, 0, 0)), folder / "test" / "images" / f"test_{number}.JPEG")
    lines = [f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n" for number, name in ((0, "n02"), (2, "n02"), (1, "n01"))]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def test_tiny_imagenet(tmp_path):
    folder = write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    for arguments in ({"name_or_folder": "tiny_imagenet", "data_dir": folder}, {"name_or_folder": folder}):
        dataset = load(**arguments)
        assert (dataset.name, dataset.class_names, dataset.shape) == ("tiny_imagenet", ("n01", "n02"), (64, 64, 3))
        assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert [path.name for path in dataset.test.paths] == ["val_0.JPEG", "val_2.JPEG", "val_1.JPEG"]
        assert dataset.test.labels.tolist() == [1, 1, 0]
        assert dataset.note == "Tiny ImageNet, 64x64 RGB pixels; val/ is the test split"
    assert recipe_for("sl_vggnet_256", dataset.name).name == "shardnet-tiny-imagenet-vgg"
    assert load(folder, input_shape=(32, 32, 3)).note.startswith("Tiny ImageNet, resized to 32x32")
    with open(folder / "val" / "val_annotations.txt", "a") as file:
        file.write("val_9.JPEG n02\n")
    with pytest.raises(ValueError, match=r"Line 4 of .*val_annotations\.txt must be a file and one of the classes"):
        load(folder)


def write_cinic10(folder):
    for split, count in (("train", 2), ("valid", 1), ("test", 1)):
        for label, name in enumerate(("airplane", "automobile", "bird")):
            for number in range(count):
                save(plain((label, number, 0), (32, 32)), folder / split / name / f"cifar10-{number}.png")
    return folder


def test_cinic10(tmp_path):
    folder = write_cinic10(tmp_path / "CINIC-10")
    for arguments in ({"name_or_folder": "cinic10", "data_dir": folder}, {"name_or_folder": folder}):
        dataset = load(**arguments)
        assert (dataset.name, len(dataset.train), len(dataset.test)) == ("cinic10", 6, 3)
        assert {path.relative_to(folder).parts[0] for path in dataset.test.paths} == {"test"}
    assert "valid/ is not used" in dataset.note
    assert recipe_for("hscnet_m128_g16_r8_a2", dataset.name).name == "hscnet-cinic10"


def write_imagenet32(folder, count=2):
    """The first training image contains 0 to 3071 modulo 251, channel by channel."""
    folder.mkdir()
    images = RANDOM.integers(0, 256, (10 * count, 3072), np.uint8)
    images[0] = np.arange(3072) % 251
    labels = np.arange(10 * count) % 4 + 1
    for number in range(10):
        part = slice(count * number, count * number + count)
        mean = images.mean(axis=0)
        np.savez(folder / f"train_data_batch_{number + 1}.npz", data=images[part], labels=labels[part], mean=mean)
    np.savez(folder / "val_data.npz", data=images[:3], labels=labels[:3])
    return images, labels


def test_imagenet32(tmp_path):
    images, labels = write_imagenet32(tmp_path / "data")
    for arguments in (
        {"name_or_folder": "imagenet32", "data_dir": tmp_path / "data"},
        {"name_or_folder": tmp_path / "data"},
    ):
        dataset = load(**arguments)
        assert (dataset.name, dataset.class_names, dataset.shape) == ("imagenet32", tuple("1234"), (32, 32, 3))
        assert dataset.train.labels.tolist() == [label - 1 for label in labels]
        for row, column, channel in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (31, 31, 2), (7, 9, 1)):
            assert dataset.train.images[0, row, column, channel] == (1024 * channel + 32 * row + column) % 251
        np.testing.assert_array_equal(dataset.test.images, dataset.train.images[:3])
        np.testing.assert_allclose(dataset.mean, images.reshape(-1, 3, 1024).mean(axis=(0, 2)), rtol=1e-6)
    assert recipe_for("hscnet_m128_g16_r8_a2", dataset.name).epochs == 40


@pytest.mark.parametrize(
    ("name", "break_it", "message"),
    [
        (
            "imagenet32",
            lambda f: (f / "train_data_batch_7.npz").unlink(),
            r"There is no train_data_batch_7\.npz in .*, the folder of imagenet32",
        ),
        ("imagenet32", lambda f: (f / "val_data.npz").write_bytes(b"PK"), r"val_data\.npz cannot be read: \w+"),
        (
            "imagenet32",
            lambda f: np.savez(f / "val_data.npz", data=np.zeros((2, 12), np.uint8), labels=[1, 2]),
            r"`data` \(=\(2, 12\)\) in .*val_data\.npz must be uint8 `\(images, 3072\)`",
        ),
        (
            "imagenet32",
            lambda f: np.savez(f / "val_data.npz", data=np.zeros((2, 3072), np.uint8), labels=[0, 1]),
            r"`labels` in .*val_data\.npz must be positive integers",
        ),
        ("tiny_imagenet", lambda f: None, r"There is no train in .*data, the folder of tiny_imagenet"),
        ("cinic10", lambda f: (f / "train").mkdir(), r"There is no valid in .*, the folder of cinic10"),
    ],
)
def test_broken_archives(tmp_path, name, break_it, message):
    if name == "imagenet32":
        write_imagenet32(tmp_path / "data", count=1)
    else:
        (tmp_path / "data").mkdir()
    break_it(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        load(name, data_dir=tmp_path / "data")
    with pytest.raises(ValueError, match=rf"`--data {name}` needs `--data-dir`"):
        load(name)
