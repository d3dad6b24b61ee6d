"""Detection of splits, classes, and other files in folders of images."""

import io
import os
import shutil

import numpy as np
import PIL.Image
import pytest

from keras_sharenets.training.data.dataset import describe_dataset
from keras_sharenets.training.data.folder_layout import role_of
from keras_sharenets.training.data.sources import DataSource, load


def write(folder, *, names=("cat", "dog"), count=3):
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            PIL.Image.new("RGB", (4, 4), (number, 0, 0)).save(folder / name / f"{number}.png")
    return folder


def top_folders(source, root):
    return {path.relative_to(root).parts[0] for path in source.paths}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("Train", "Test"),
        ("TRAIN", "TEST"),
        ("train", "Val"),
        ("train", "VALID"),
        ("train", "validation_set"),
        ("train", "dev"),
        ("Train", "Eval"),
        ("training_set", "test_set"),
        ("seg_train", "seg_test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train-images", "test-images"),
        ("TrainData", "TestData"),
        ("trainset", "testset"),
        ("train2017", "val2017"),
        ("fruits-360_Training", "fruits-360_Test"),
        ("trainval", "test"),
        ("dataset/dataset/train", "dataset/dataset/test"),
    ],
)
def test_names_of_splits(tmp_path, train, test):
    write(tmp_path / train)
    write(tmp_path / test, count=2)
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (6, 4)
    assert all(path.is_relative_to(tmp_path / train) for path in data.train.paths)
    assert all(path.is_relative_to(tmp_path / test) for path in data.test.paths)


@pytest.mark.parametrize("inner", ["run", "runs/1", "cat/run", ".runs/1"])
def test_output_among_the_images(tmp_path, inner):
    """The figures of a run would be images of one more class, or of the class whose folder it is in."""
    plain, split = write(tmp_path / "plain"), tmp_path / "split"
    train, test = write(split / "train"), write(split / "test")
    for source, folder in (
        (DataSource(str(plain)), plain),
        (DataSource("digits", validation=plain), plain),
        (DataSource(str(train)), train),
    ):
        source.check_outside(tmp_path / inner)
        if inner.startswith("."):
            source.check_outside(folder / inner)
            continue
        with pytest.raises(ValueError, match=rf"`output` \(='{folder / inner}'\) must not be among .* in {folder}:"):
            source.check_outside(folder / inner)
    # Next to splits, a folder is not read.
    source = DataSource(str(split))
    source.check_outside(split / "runs" / inner)
    if not inner.startswith("."):
        with pytest.raises(ValueError, match="must not be among the images"):
            source.check_outside(test / inner)


def test_unused_splits_are_reported(tmp_path):
    for name in ("Train", "Valid", "Test", "seg_pred", "unlabeled"):
        write(tmp_path / name, count=1)
    data = load(tmp_path)
    assert (top_folders(data.train, tmp_path), top_folders(data.test, tmp_path)) == ({"Train"}, {"Test"})
    assert data.left_out == tuple(f"the folder {name}/ is not used" for name in ("Valid", "seg_pred", "unlabeled"))


def test_unlabeled_test_split_is_not_used(tmp_path):
    write(tmp_path / "train")
    write(tmp_path / "val", count=1)
    write(tmp_path / "test", names=("unknown",))
    data = load(tmp_path)
    assert top_folders(data.test, tmp_path) == {"val"}
    assert data.left_out == ("the folder test/ is not used",)


def test_additional_parent_folder(tmp_path):
    write(tmp_path / "outer" / "dataset", count=5)
    (tmp_path / "__MACOSX" / "cat").mkdir(parents=True)
    assert load(tmp_path).class_names == ("cat", "dog")
    write(tmp_path / "only" / "train", count=5)
    data = load(tmp_path / "only")
    assert (data.class_names, len(data.train), len(data.test)) == (("cat", "dog"), 8, 2)


@pytest.mark.parametrize(
    "names",
    [
        ("train", "tram"),
        ("test_tube", "train_station"),
        ("training", "running"),
        ("valid", "broken"),
        ("Eval", "Ewald"),
    ],
)
def test_classes_with_names_similar_to_splits(tmp_path, names):
    assert load(write(tmp_path, names=names)).class_names == tuple(sorted(names))


def _flat(folder):
    write(folder, names=("Training", "Testing"))


def _no_train_split(folder):
    write(folder / "test")
    write(folder / "val")


def _unlabeled(folder):
    write(folder / "train")
    write(folder, names=("test",))


def _two_groups(folder):
    for name in ("a_train", "a_test", "b_train", "b_test"):
        write(folder / name)


def _two_train_splits(folder):
    for name in ("train", "Train", "test"):
        write(folder / name)


def _inside_classes(folder):
    for name in ("cat", "dog"):
        write(folder / name, names=("train", "test"))


def _other_names(folder):
    write(folder / "fold1")
    write(folder / "fold2")


def _single_split(folder):
    write(folder / "Training")
    write(folder / "Unseen", names=("x",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            _flat,
            r"Testing/ and Training/, which look like splits; .* has no class folders\. Expected one folder",
        ),
        (_no_train_split, r"test/ and val/, which look like splits, but no train/"),
        (_unlabeled, r"data/test contains no class folders.*pass .*data/train as the data: 20 %"),
        (_two_groups, r"several groups of splits \(.*move one group to a separate folder"),
        (_two_train_splits, r"the train split is ambiguous\. Move the other one elsewhere"),
        (
            _inside_classes,
            r"data/cat contains .* look like splits\. .* pass .*data/cat as the data; .* splits: train/cat",
        ),
        (
            _other_names,
            r"fold1/ and fold2/ in .*data contain the same folders \(cat/ and dog/\)\. If these are the classes",
        ),
        (_single_split, r"data/Training looks like a split with the classes cat/ and dog/, but"),
    ],
)
def test_ambiguous_splits_are_rejected(tmp_path, make, message):
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "data")


def test_words_that_only_start_like_a_split():
    for name in ("tester", "trains", "devil", "valley", "evaluate_me_train_test"):
        assert role_of(name)[0] is None, name


# Files that are not images


@pytest.mark.parametrize("skip", [False, True])
def test_files_of_file_managers_are_ignored(tmp_path, skip):
    write(tmp_path, count=5)
    for folder in (tmp_path, tmp_path / "cat"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png", ".hidden.png"):
            (folder / name).write_bytes(b"no image")
        for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", ".git"):
            (folder / name / "cat").mkdir(parents=True)
            shutil.copy(tmp_path / "cat" / "0.png", folder / name / "cat" / "0-checkpoint.png")
    data = load(tmp_path, skip_unreadable=skip)
    assert (data.class_names, len(data.train) + len(data.test), data.unreadable) == (("cat", "dog"), 10, ())
    assert data.left_out == ("hidden or left behind by a file manager (10)",)


def test_skipped_files_are_reported(tmp_path):
    write(tmp_path, count=5)
    for name in ("a.heic", "b.HEIC", "notes.txt", "README"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    os.symlink(tmp_path / "gone.png", tmp_path / "dog" / "gone.png")
    shutil.copy(tmp_path / "cat" / "0.png", tmp_path / "loose.png")
    data = load(tmp_path)
    assert sorted(data.left_out) == [
        "broken links (1)",
        "files of another kind: .heic (2)",
        "files of another kind: .txt (1)",
        "files of another kind: no suffix (1)",
        "images outside the class folders (1)",
    ]
    lines = describe_dataset(data).splitlines()
    assert lines[0] == f"{data.name}: {data.note}"
    assert [line.split() for line in lines[1:5]] == [
        ["class", "train", "test"],
        ["cat", "4", "1"],
        ["dog", "4", "1"],
        ["all", "8", "2"],
    ]
    assert sorted(lines[5:]) == sorted(f"skipped: {sentence}" for sentence in data.left_out)


def test_many_classes_are_summarized(tmp_path):
    data = load(write(tmp_path, names=[f"c{number:02}" for number in range(21)], count=2))
    assert "21 classes of 2 to 2" in describe_dataset(data)
    assert "c07" not in describe_dataset(data)


def test_suffixes_links_and_folders_named_like_images(tmp_path):
    kinds = {"tif": "TIFF", "TIFF": "TIFF", "jfif": "JPEG", "jpe": "JPEG", "webp": "WEBP", "bmp": "BMP", "pgm": "PPM"}
    for name in ("cat", "dog"):
        (tmp_path / "data" / name / "inner.jpg").mkdir(parents=True)
        for suffix, kind in kinds.items():
            file = io.BytesIO()
            PIL.Image.new("L", (4, 4), 9).save(file, kind)
            (tmp_path / "data" / name / "inner.jpg" / f"x.{suffix}").write_bytes(file.getvalue())
    write(tmp_path / "elsewhere", names=("more",), count=4)
    os.symlink(tmp_path / "elsewhere" / "more", tmp_path / "data" / "cat" / "linked")
    os.symlink(tmp_path / "data" / "cat", tmp_path / "data" / "cat" / "loop")
    os.symlink(tmp_path / "data", tmp_path / "data" / "dog" / "back")
    data = load(tmp_path / "data")
    count = np.bincount([*data.train.labels, *data.test.labels]).tolist()
    assert (count, data.left_out) == ([len(kinds) + 4, len(kinds)], ())
