"""The table of `docs/clients.md`, generated from the results of the programs."""

import doctest

from tools.clients import compare

FORMATS = ("float32", "int8")


def test_doctests():
    assert doctest.testmod(compare) == (0, 3)


def test_generated_page(monkeypatch):
    listed = [
        {"network": name, "format": form, "file": f"{name}.{form}", "bytes": 1234}
        for name in ("one", "two")
        for form in FORMATS
    ]
    right, refused = {"same": 5, "images": 5, "bytes": None}, {"refused": "No | never"}
    answers = {
        "OpenCV": {"one.float32": right, "two.float32": right, "one.int8": refused, "two.int8": refused},
        "LiteRT for Microcontrollers": {
            "one.float32": right,
            "two.float32": {"refused": "Too large"},
            "one.int8": {"same": 4, "images": 5, "bytes": 98765},
            "two.int8": {"same": 5, "images": 5, "bytes": 4321},
        },
    }
    monkeypatch.setattr(compare, "_version", lambda client: "9.9")
    about = {"images": "a few", "networks": ["one", "two"], "files": listed}
    text = compare.page(about, answers)
    assert "| OpenCV | 9.9 | 5 | correct | rejected |" in text
    assert "| LiteRT for Microcontrollers | 9.9 | 5 | 1 of 2 files: correct | 9 of 10 images |" in text
    assert "| one | 1,234 | 98,765 | - |" in text
    assert "- OpenCV, int8 of all: No / never" in text
    assert "- LiteRT for Microcontrollers, float32 of two: Too large" in text


def test_crash_of_a_program_does_not_skip_other_files(monkeypatch, tmp_path):
    started = []

    class Process:
        def __init__(self, command, **options):
            self.names, self.returncode = command[6:], -11
            started.append(self.names)
            self.stdout = iter(['{"file": "a", "same": 1, "images": 1}\n'] if "a" in self.names else [])

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def kill(self):
            pass

    monkeypatch.setattr(compare.subprocess, "Popen", Process)
    monkeypatch.setattr(compare, "_version", lambda client: "9.8")
    for name in ("images.npy", "a", "b", "c"):
        (tmp_path / name).write_text(name)
    answers = compare.ask("OpenCV", tmp_path, ["a", "b", "c"], tmp_path / "kept.json")
    assert started == [["a", "b", "c"], ["c"]]
    assert compare.ask("OpenCV", tmp_path, ["a", "b", "c"], tmp_path / "kept.json") == answers
    assert len(started) == 2  # Results are cached until a file or a version changes.
    (tmp_path / "b").write_text("written anew")
    assert compare.ask("OpenCV", tmp_path, ["a", "b", "c"], tmp_path / "kept.json") == answers
    assert started[2:] == [["b"]]
    monkeypatch.setattr(compare, "_version", lambda client: "9.9")
    assert compare.ask("OpenCV", tmp_path, ["a", "b", "c"], tmp_path / "kept.json") == answers
    assert started[3:] == [["a", "b", "c"], ["c"]]
    assert answers["a"] == {"same": 1, "images": 1}
    assert answers["b"] == answers["c"] == {"refused": "ends the process (-11)"}
