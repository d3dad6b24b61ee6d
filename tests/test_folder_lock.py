"""One process at a time in a folder, even if others are killed."""

import errno
import os
import pathlib
import subprocess
import sys
import threading

import pytest

from keras_sharenets import folder_lock
from keras_sharenets.folder_lock import hold_folder, is_unused

HOLDER = """
import sys, time
from keras_sharenets.folder_lock import hold_folder
with hold_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_holder_even_if_it_is_killed(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        told = rf"run is in use by process {process.pid} on \S+ since 2.*Wait, or"
        with pytest.raises(ValueError, match=told), hold_folder(folder):
            pass
        process.kill()
        process.wait()
    assert is_unused(folder)
    with hold_folder(folder):
        assert os.listdir(folder) == [".lock"]
    # The folder existed before, so it is kept.
    assert os.listdir(folder) == []


def test_a_created_folder_is_removed_unless_it_is_used(tmp_path):
    folder = tmp_path / "new" / "run"
    with hold_folder(folder):
        assert is_unused(folder)
    assert not folder.exists()
    with hold_folder(folder):
        (folder / "a.txt").write_text("a")
    assert os.listdir(folder) == ["a.txt"]
    assert not is_unused(folder)


def test_concurrent_holders_of_one_folder_are_serialized(tmp_path):
    """The folder and the lock are repeatedly created and removed; threads have separate locks, like processes."""
    inside, won, errors = [], [], []

    def fight(name):
        while won.count(name) < 20:
            try:
                with hold_folder(tmp_path / "run"):
                    inside.append(name)
                    won.append(name)
                    assert inside == [name]
                    inside.remove(name)
            except ValueError:
                continue
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=fight, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(won) == 60
    assert is_unused(tmp_path / "run")


def test_a_folder_removed_during_its_creation_is_created_again(tmp_path, monkeypatch):
    make, times = pathlib.Path.mkdir, []

    def find_it_once(path, *arguments, **options):
        times.append(path)
        if len(times) == 1:  # Like `mkdir` if the folder disappears between its failure and its check.
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "mkdir", find_it_once)
    with hold_folder(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").exists()
    assert len(times) == 2


@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_a_file_instead_of_a_folder_raises_an_error(tmp_path, kind):
    if kind == "file":
        (tmp_path / "run").write_text("")
    else:
        (tmp_path / "run").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="run"), hold_folder(tmp_path / "run"):
        pass
    if kind == "dangling link":  # As of a disk that is not mounted: not an attempt without end.
        with pytest.raises(OSError, match="run/a cannot be created"), hold_folder(tmp_path / "run" / "a"):
            pass


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch):
    def refuse(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock, "_lock_file", refuse)
    with pytest.warns(UserWarning, match=r"run cannot be locked \(No locks available\)"), hold_folder(tmp_path / "run"):
        pass
