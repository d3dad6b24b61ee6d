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


def test_a_file_that_takes_too_long_is_told_from_a_crash(monkeypatch, tmp_path):
    """Each file has the whole time; it passes while the program opens `b`."""
    timers = []

    class Timer:
        def __init__(self, seconds, function):
            self.seconds, self.function, self.running = seconds, function, False

        def start(self):
            self.running = True
            timers.append(self)

        def cancel(self):
            self.running = False

    class Process:
        def __init__(self, command, **options):
            self.returncode, self.stdout = 0, self.answer(command[6:])

        def answer(self, names):
            for name in names:
                assert [timer.running for timer in timers] == [False] * (len(timers) - 1) + [True]
                if name == "b":
                    timers[-1].function()
                    return
                yield f'{{"file": "{name}", "same": 1, "images": 1}}\n'

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def kill(self):
            self.returncode = -9

    monkeypatch.setattr(compare.subprocess, "Popen", Process)
    monkeypatch.setattr(compare.threading, "Timer", Timer)
    monkeypatch.setattr(compare, "_version", lambda client: "9.8")
    for name in ("images.npy", *"abc"):
        (tmp_path / name).write_text(name)
    right = {"same": 1, "images": 1}
    late = {"refused": "takes more than 300 s"}
    assert compare.ask("OpenCV", tmp_path, list("abc"), tmp_path / "kept.json") == {"a": right, "b": late, "c": right}
    assert [timer.seconds for timer in timers] == [300] * 4
    assert not any(timer.running for timer in timers)
