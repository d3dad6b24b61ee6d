"""Rules that a text search can check, for every file in git."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PROGRAMS = ("trainers", "tuning", "benchmarks", "tools", "examples")
TENSORFLOW = (("keras_sharenets", "mobile"), ("keras_sharenets", "training"))
SOURCES = sorted(path for folder in ("keras_sharenets", *PROGRAMS) for path in (ROOT / folder).rglob("*.py"))


def found_in(paths, find):
    """`{path: what find(path) returns}` of the files for which it returns anything: one test, not one per file."""
    assert len(paths) > 200
    return {path.relative_to(ROOT).as_posix(): found for path in paths if (found := find(path))}


def broken_rules(path):
    text = path.read_text()
    place = path.relative_to(ROOT).parts
    rules = {
        "bare except": r"^\s*except:",
        "locals()": r"\blocals\(\)",
        "private Keras or tf.keras": r"\bkeras\.src\b|\btf\.keras\b|tensorflow\.keras",
    }
    if place[:2] not in TENSORFLOW and place[0] not in PROGRAMS and path.name != "fused.py":
        rules["TensorFlow outside its rooms"] = r"^\s*(import|from) (tensorflow|tf_keras)"
    if place[0] == "keras_sharenets":
        rules["the library uses its programs"] = r"^\s*(import|from) (trainers|tuning|benchmarks)\b"
        if place[1] != "cli" and path.name != "evaluate.py":
            rules["print outside the command line"] = r"^\s*print\("
    return [rule for rule, pattern in rules.items() if re.search(pattern, text, re.M)]


def test_source_files():
    assert not found_in(SOURCES, broken_rules)


def excess_lines(path):
    return max(0, len(path.read_text().splitlines()) - 400)


def test_files_have_at_most_400_lines():
    assert not found_in([*SOURCES, *(ROOT / "tests").rglob("*.py")], excess_lines)


def lacks_encoding(call):
    """Whether a call opens, reads or writes text in the default encoding of the machine."""
    function, given = call.func, {keyword.arg for keyword in call.keywords}
    owner = ast.unparse(function.value) if isinstance(function, ast.Attribute) else ""
    name = function.attr if owner else getattr(function, "id", "")
    if owner in ("files", "PIL.Image", "archive") or (owner, name) == ("os", "open") or "encoding" in given:
        return False
    if name in ("read_text", "write_text"):
        return bool(owner)
    place = 1 if name == "open" and not owner else 0  # The mode follows the path if the path is an argument.
    modes = [argument for argument in call.args[place:] if isinstance(argument, ast.Constant)]
    modes += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    opens_text = name in ("open", "fdopen") or (name.endswith("TemporaryFile") and modes)
    return opens_text and not any("b" in str(mode.value) for mode in modes)


def calls_without_encoding(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [f"line {call.lineno}: {ast.unparse(call)}" for call in calls if lacks_encoding(call)]


def test_text_files_have_an_encoding():
    """Records and labels are in UTF-8, regardless of the encoding of the machine."""
    assert not found_in(SOURCES, calls_without_encoding)


def test_calls_that_lack_an_encoding():
    lacking = [
        "open(p)",
        "open(p, 'w')",
        "p.open()",
        "p.open('w')",
        "p.read_text()",
        "f().write_text(t)",
        "os.fdopen(3)",
    ]
    fine = [
        "open(p, 'rb')",
        "p.open(mode='rb')",
        "p.read_text(encoding='utf-8')",
        "files.write_text(p, t)",
        "os.open(p)",
    ]
    found = [lacks_encoding(ast.parse(line, mode="eval").body) for line in (*lacking, *fine)]
    assert found == [True] * len(lacking) + [False] * len(fine)


def public_functions(tree, inside=""):
    """All public functions and methods, with their class; without nested functions."""
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


def unannotated(path):
    found = {found[0]: lacking_annotations(*found) for found in public_functions(ast.parse(path.read_text()))}
    return {name: lacking for name, lacking in found.items() if lacking}


def test_public_functions_are_annotated():
    assert not found_in([path for path in SOURCES if "keras_sharenets" in path.relative_to(ROOT).parts], unannotated)


def test_import_leaves_tensorflow_out():
    script = "import sys, keras_sharenets; sys.exit('tensorflow' in sys.modules)"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


@pytest.mark.parametrize("name", ["", ".layers", ".mobile", ".models", ".ops", ".sharing"])
def test_completion_offers_public_names_alone(name):
    """Without the modules that define them."""
    module = importlib.import_module(f"keras_sharenets{name}")
    assert set(dir(module)) == {*module.__all__, *([] if name else ["__version__"])}
