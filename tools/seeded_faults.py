"""Injects faults into a copy of the library, one changed line at a time, and checks that the tests catch them.

python -m tools.seeded_faults                      # every fault, each with the tests that should catch it
python -m tools.seeded_faults wrong_shuffle        # only these
python -m tools.seeded_faults --whole wrong_shuffle  # all tests of `make test` against one fault
python -m tools.seeded_faults --check              # only whether every fault still matches the code

The faults are in `tools/faults.py`. Only tests of the default tier count, not those marked as slow. First, the named
tests must pass without any fault. The exit code is 0 if every fault is caught, 1 if one is not, and 2 if a fault no
longer matches the code or the tests fail without it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).parent.parent
LIBRARY = "keras_sharenets"
# pytest's exit codes.
PASSED, FAILED = 0, 1
# A timeout does not count as caught: it does not show what is wrong.
LIMIT_SECONDS = 1200


@dataclasses.dataclass(frozen=True)
class Fault:
    """One wrong line.

    Attributes:
        room: part of the library that the fault concerns, such as `"ops"` or `"export"`.
        old: a part of one line that occurs in the library exactly once.
        new: its replacement.
        tests: files, or node ids, of the tests that should catch it.
    """

    room: str
    old: str
    new: str
    tests: tuple[str, ...]


def find(root: pathlib.Path, fault: Fault) -> pathlib.Path:
    """The file of the library that has the fault's old line.

    Raises:
        LookupError: no file has it, or it occurs several times.
    """
    paths = [
        path
        for path in sorted((root / LIBRARY).rglob("*.py"))
        for _ in range(path.read_text(encoding="utf-8").count(fault.old))
    ]
    if len(paths) != 1 or "\n" in fault.old + fault.new or fault.old == fault.new:
        places = ", ".join(str(path.relative_to(root)) for path in paths) or "nowhere"
        raise LookupError(f"{fault.old!r} must stand in the library once, in one line; it stands in {places}.")
    return paths[0]


@contextlib.contextmanager
def seeded(root: pathlib.Path, fault: Fault) -> Iterator[pathlib.Path]:
    """A context in which the tree at `root` has the fault; yields the path of the file."""
    path = find(root, fault)
    sound = path.read_text(encoding="utf-8")
    path.write_text(sound.replace(fault.old, fault.new), encoding="utf-8")
    try:
        yield path
    finally:
        path.write_text(sound, encoding="utf-8")


def copy_tree(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies all files that git tracks or would add, in their current state."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        **{"cwd": source, "check": True, "capture_output": True, "text": True},
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def run_tests(root: pathlib.Path, tests: Sequence[str], *options: str) -> tuple[int | None, str]:
    """pytest's exit code in the tree at `root` (`None` if it takes too long), and its output."""
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"KERAS_BACKEND": "tensorflow", "CI": "true", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if not options:  # Installed plugins take a second to load, and single tests need none.
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    data = ROOT.parent / "shared" / "tensorflow_datasets"
    if data.is_dir():
        environment.setdefault("TFDS_DATA_DIR", str(data))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, *tests]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        done = subprocess.run(command, cwd=root, env=environment, timeout=LIMIT_SECONDS, **pipes)
    except subprocess.TimeoutExpired as error:
        return None, str(error)
    return done.returncode, done.stdout


def verdict(code: int | None, output: str) -> str:
    """The result of a test run for a fault, in one line."""
    if code == FAILED:
        return f"caught: {re.findall(r'^(?:FAILED|ERROR) (.*?)(?: - .*)?$', output, re.M)[0]}"
    if code == PASSED:
        return "NOT CAUGHT"
    last = (output.strip().splitlines() or [""])[-1]
    return f"NOT CAUGHT: the tests ended with {code}: {last}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; see the module docstring."""
    from tools.faults import FAULTS

    parser = argparse.ArgumentParser(prog="python -m tools.seeded_faults", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="FAULT", help="names in tools/faults.py (default: all)")
    parser.add_argument("--whole", action="store_true", help="run all tests of `make test`, not the named ones")
    parser.add_argument("--check", action="store_true", help="only look for the lines, run nothing")
    args = parser.parse_args(arguments)
    unknown = set(args.names) - set(FAULTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(FAULTS)}")
    faults = {name: FAULTS[name] for name in args.names or FAULTS}
    lost = 0
    for name, fault in faults.items():
        try:
            place = find(ROOT, fault).relative_to(ROOT)
            if args.check:
                print(f"{name}: {place}")
        except LookupError as error:
            lost += 1
            print(f"{name}: {error}", file=sys.stderr)
    if lost or args.check:
        return 2 if lost else 0
    with tempfile.TemporaryDirectory(prefix="seeded-faults-") as folder:
        tree = pathlib.Path(folder).resolve()
        copy_tree(ROOT, tree)
        return _try_all(tree, faults, args.whole)


def _try_all(tree: pathlib.Path, faults: dict[str, Fault], whole: bool) -> int:
    every_test = () if whole else tuple(dict.fromkeys(test for fault in faults.values() for test in fault.tests))
    options = ("-n", "2", "--dist", "worksteal") if whole else ()
    code, output = run_tests(tree, every_test, *options)
    if code != PASSED:
        print(f"The tests fail without any fault:\n{output[-3000:]}", file=sys.stderr)
        return 2
    caught = 0
    for name, fault in faults.items():
        began = time.monotonic()
        with seeded(tree, fault) as path:
            code, output = run_tests(tree, () if whole else fault.tests, *options)
        caught += code == FAILED
        seconds = time.monotonic() - began
        print(f"{name} ({path.relative_to(tree)}): {verdict(code, output)} [{seconds:.0f} s]", flush=True)
    print(f"{caught} of {len(faults)} faults caught")
    return 0 if caught == len(faults) else 1


if __name__ == "__main__":
    sys.exit(main())
