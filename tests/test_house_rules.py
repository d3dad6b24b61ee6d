"""Rules that a search can check. They hold for every file that git knows."""

import ast
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PROGRAMS = ("trainers", "tuning", "benchmarks", "tools")
TENSORFLOW = (("keras_sharenets", "mobile"), ("keras_sharenets", "training"))
SOURCES = sorted(path for folder in ("keras_sharenets", *PROGRAMS) for path in (ROOT / folder).rglob("*.py"))
IDS = [path.relative_to(ROOT).as_posix() for path in SOURCES]


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_source_file(path):
    text = path.read_text()
    place = path.relative_to(ROOT).parts
    assert len(text.splitlines()) <= 400
    assert not re.search(r"\bkeras\.src\b|\btf\.keras\b|tensorflow\.keras", text), "private Keras or tf.keras"
    if place[:2] not in TENSORFLOW and place[0] not in PROGRAMS and path.name != "fused.py":
        assert not re.search(r"^\s*(import|from) (tensorflow|tf_keras)", text, re.M), "TensorFlow outside its rooms"
    if place[0] == "keras_sharenets":
        assert not re.search(r"^\s*(import|from) (trainers|tuning|benchmarks)\b", text, re.M), (
            "the library uses its programs"
        )
        may_print = place[1] == "cli" or path.name == "evaluate.py"
        assert may_print or not re.search(r"^\s*print\(", text, re.M), "print outside the command line"
    assert not re.search(r"^\s*except:", text, re.M), "bare except"
    assert not re.search(r"\blocals\(\)", text), "locals()"


def public_functions(tree, inside=""):
    """All functions and methods that a user may call, with the class around them; not those inside functions."""
    for node in tree.body:
        private = getattr(node, "name", "").startswith("_") and not getattr(node, "name", "").endswith("__")
        if isinstance(node, ast.ClassDef) and not private:
            yield from public_functions(node, f"{node.name}.")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not private:
            yield f"{inside}{node.name}", node, bool(inside)


def lacking_annotations(name, function, is_method):
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    static = any(getattr(decorator, "id", None) == "staticmethod" for decorator in function.decorator_list)
    lacking = [argument.arg for argument in arguments[is_method and not static :] if argument.annotation is None]
    return lacking + ["return"] * (function.returns is None and function.name != "__init__")


@pytest.mark.parametrize("path", [path for path in SOURCES if "keras_sharenets" in path.relative_to(ROOT).parts])
def test_public_functions_are_annotated(path):
    found = {found[0]: lacking_annotations(*found) for found in public_functions(ast.parse(path.read_text()))}
    assert not {name: lacking for name, lacking in found.items() if lacking}


def test_import_leaves_tensorflow_out():
    script = "import sys, keras_sharenets; sys.exit('tensorflow' in sys.modules)"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
