import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import zipfile

import keras
import numpy as np
import pytest
from harness import pseudo_random

import keras_sharenets as ksn
from keras_sharenets import files


@pytest.fixture(scope="module")
def model():
    return ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(8, 8, 1))


def test_model_round_trip(model, tmp_path):
    files.save_model(model, tmp_path / "new" / "model.keras")
    images = pseudo_random((2, 8, 8, 1))
    loaded = files.load_model(tmp_path / "new" / "model.keras")
    assert np.array_equal(np.asarray(model(images)), np.asarray(loaded(images)))
    assert os.listdir(tmp_path / "new") == ["model.keras"]


def test_json_round_trip(tmp_path):
    files.write_json(tmp_path / "a.json", {"epochs": [1, 2.5], "name": "ä"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"epochs": [1, 2.5], "name": "ä"}


def test_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(TypeError):
        files.write_bytes(tmp_path / "a.txt", 3)
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.txt", {1, 2})
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_folder_is_replaced_atomically(tmp_path):
    (tmp_path / "made" / "inner").mkdir(parents=True)
    (tmp_path / "made" / "inner" / "a.txt").write_text("a")
    files.replace_folder(tmp_path / "made", tmp_path / "deep" / "target")
    assert (tmp_path / "deep" / "target" / "inner" / "a.txt").read_text() == "a"
    assert os.listdir(tmp_path / "deep") == ["target"]


def test_writers_with_equal_process_ids_do_not_collide(tmp_path, monkeypatch):
    """Processes in two containers may have the same id."""
    monkeypatch.setattr(os, "getpid", lambda: 7)
    seen, replace = set(), os.replace

    def look(source, target):
        seen.add(pathlib.Path(source).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    for text in ("a", "b"):
        files.write_text(tmp_path / "a.txt", text)
    assert len(seen) == 2
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".a.txt.7.partial").write_text("half")
    (tmp_path / ".folder.7.partial").mkdir()
    files.remove_partials(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "deep"]


WRITER = """
import sys, pathlib
from keras_sharenets import files
number = 0
while True:
    files.write_bytes(sys.argv[1], bytes([number % 251]) * 4_000_000)
    number += 1
    if number == 1:
        print("started", flush=True)
"""


def test_killed_writer_leaves_an_intact_file(tmp_path):
    target = tmp_path / "data.bin"
    for delay in (0.01, 0.05, 0.13):
        command = [sys.executable, "-c", WRITER, str(target)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"started\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        data = target.read_bytes()
        assert len(data) == 4_000_000
        assert len(set(data)) == 1


def _zip_without_config(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "")


def _truncated(path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(path)
    path.write_bytes(path.read_bytes()[:-300])


def _weights_damaged(path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["model.weights.h5"] = members["model.weights.h5"][:500]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def _unknown_class(path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["config.json"] = members["config.json"].replace(b'"Dense"', b'"Danse"')
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: None, r"There is no file .*model\.keras"),
        (
            lambda path: path.write_bytes(b"TFL3 something else"),
            r"model\.keras is not a Keras file: a `\.keras` file is",
        ),
        (lambda path: path.write_bytes(b""), r"model\.keras is not a Keras file"),
        (_zip_without_config, r"model\.keras is not a Keras file: the archive has no `config\.json`"),
        (_truncated, r"model\.keras is not a Keras file"),
        (_weights_damaged, r"model\.keras cannot be loaded as a Keras model"),
        # Without the configurations of the network and the layer, which may fill pages.
        (_unknown_class, r"model\.keras cannot be loaded as a Keras model: (?!.*\{).*Danse"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), r"model\.keras is an HDF5 file, as earlier"),
    ],
)
def test_invalid_keras_file(damage, message, tmp_path):
    path = tmp_path / "model.keras"
    damage(path)
    with pytest.raises(ValueError, match=message):
        files.load_model(path)


def test_labels_in_any_encoding_of_the_machine(tmp_path, monkeypatch):
    """The encoding of the machine, here ASCII, has no effect."""
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    names = ("Katze", "Hündin", "猫", "a\x85b", "line\u2028separator")
    files.write_labels(tmp_path, names[:3])
    assert (tmp_path / "labels.txt").read_bytes() == "Katze\nHündin\n猫\n".encode()
    assert files.read_labels(tmp_path / "net.keras") == names[:3]
    text = "\n".join(names)
    for written in (text, text + "\n\n", "\ufeff" + text, text.replace("\n", "\r\n") + "\r\n"):
        (tmp_path / "labels.txt").write_bytes(written.encode())
        assert files.read_labels(tmp_path / "net.keras") == names


def test_labels_in_another_encoding_raise_an_error(tmp_path):
    for encoding in ("latin-1", "utf-16"):
        (tmp_path / "labels.txt").write_bytes("Hündin\n".encode(encoding))
        with pytest.raises(ValueError, match=r"labels\.txt must be in UTF-8"):
            files.read_labels(tmp_path / "net.keras")


def test_a_name_of_several_lines_stays_one_name(tmp_path):
    files.write_labels(tmp_path, ("cat\nor dog", "fox"))
    assert files.read_labels(tmp_path / "net.keras") == ("cat or dog", "fox")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "must be a file, but is a folder"),
        ("a.txt/net.tflite", "must be in a folder, but .*a.txt is a file"),
        ("a.txt/b/net.tflite", "must be in a folder, but .*a.txt is a file"),
        ("gone/net.tflite", "must be in a folder, but .*gone is a broken link"),
        ("locked/net.tflite", "must be in a folder with write permission, but .*locked is not"),
        ("/dev/null", "must be a file, but is a device"),
    ],
)
def test_output_that_cannot_be_written(tmp_path, monkeypatch, path, message):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "locked").mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted")
    access = os.access  # A test may run with all permissions.
    monkeypatch.setattr(os, "access", lambda path, mode: pathlib.Path(path).name != "locked" and access(path, mode))
    with pytest.raises(ValueError, match=message):
        files.check_writable(tmp_path / path)
    if "/net" in path:  # The same rule for a folder, whether it is missing or not.
        for folder in ((tmp_path / path), (tmp_path / path).parent):
            with pytest.raises(ValueError, match=message):
                files.check_writable_folder(folder)
    files.check_writable_folder(tmp_path)
    files.check_writable_folder(tmp_path / "new" / "deep")
    files.check_writable(tmp_path / "a.txt")
    files.check_writable(tmp_path / "new" / "deep" / "net.tflite")


def test_output_with_tilde():
    with pytest.raises(ValueError, match="begins with `~`"):
        files.check_writable("~/net.tflite")
