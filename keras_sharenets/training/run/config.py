"""`run.yaml`: the options of a training run, to read, edit, and reuse.

Each line is an option of `fit`, `name: value`. A value is a number, a word, or JSON. All of these are valid YAML; no
other YAML is accepted.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from keras_sharenets import files
from keras_sharenets.training.data.sources import TWO_SPLITS
from keras_sharenets.training.recipes.named import RECIPES, changed_fields
from keras_sharenets.training.recipes.recipe import OPTIONS, Recipe, unused_fields
from keras_sharenets.training.run.record import Run, RunOptions

CONFIG = "run.yaml"
# Options that do not affect the trained network, or that hinder training on another machine.
_LEFT_OUT = (
    "strategy",
    "tensorboard",
    "checkpoint_minutes",
    "checkpoint_steps",
    "keep_checkpoints",
    "epochs_on_device",
)
_NO_WORDS = ("null", "~", "yes", "no", "on", "off")
_HEAD = "# `sharenets fit --config run.yaml --output FOLDER` repeats this training. Command-line options come first."


def training_config(
    model: str, options: Mapping[str, Any], source: Mapping[str, Any], recipe: Recipe
) -> dict[str, Any]:
    """The network, data, and recipe of a training run as options of `fit`.

    Args:
        model: name of the network.
        options: arguments of its factory.
        source: data source, as returned by `DataSource.to_record`.
        recipe: training recipe; all fields that have an effect are included if it is not a named one.
    """
    config: dict[str, Any] = {"model": model, "model_option": dict(options)}
    config |= {name: source.get(name) for name in ("data", "data_dir", "input_shape")}
    config |= {name: source.get(name) or None for name in ("skip_unreadable", "split_seed")}
    validation = source.get("validation")
    if validation != "auto" and (validation is not None or source["data"] not in TWO_SPLITS):
        config["validation"] = validation or "none"
    named = recipe.name in RECIPES
    config["recipe"] = recipe.name if named else None
    changed = changed_fields(recipe) if named else tuple(field.name for field in OPTIONS)
    config |= {name: getattr(recipe, name) for name in changed if name not in unused_fields(recipe)}
    if source["data"] not in TWO_SPLITS:  # The default depends on the number of images.
        config["batch_size"] = recipe.batch_size
    return {name: value for name, value in config.items() if value not in (None, {})}


def run_config(run: Run) -> dict[str, Any]:
    """The options of a run, with its seed and everything else that affects the trained network."""
    config = training_config(run.model, run.options, run.source or {"data": run.data["name"]}, run.recipe)
    names = [field.name for field in dataclasses.fields(RunOptions) if field.name not in _LEFT_OUT]
    changed = {name: getattr(run, name) for name in names if getattr(run, name) != getattr(RunOptions, name)}
    if run.start is not None:  # The default rate would differ.
        config |= {"learning_rate": run.recipe.learning_rate, "from": run.start["source"]}
        config |= {"freeze": True} if run.start["freeze"] else {}
    return config | {"seed": run.seed} | {key: value for key, value in changed.items() if value != "float32"}


def write_config(run: Run, path: pathlib.Path) -> None:
    """Writes the options that reproduce a run, one per line, atomically."""
    lines = [f"{name}: {to_yaml(value)}" for name, value in run_config(run).items()]
    files.write_text(path, "\n".join([_HEAD, *lines, ""]))


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Reads a mapping from names to values.

    Raises:
        ValueError: the file does not exist or a line is malformed; the message names it.
    """
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}.") from error
    found: dict[str, Any] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#") or line.strip() == "---":
            continue
        pair = re.fullmatch(r"([A-Za-z][\w-]*):(?:\s+(\S.*?))?\s*", line)
        value = None if pair is None or pair[2] is None else _read(pair[2])
        if pair is None or value is None:
            raise ValueError(f"Line {number} of {path} (={line!r}) must be `name: value`, with a JSON value or a word.")
        name = pair[1].replace("-", "_")
        if name in found:
            raise ValueError(f"Line {number} of {path} repeats `{name}`.")
        found[name] = value
    return found


def to_yaml(value: Any) -> str:
    """A value as YAML on one line: as a plain word if no reader takes it for something else, otherwise as JSON.

    >>> print(to_yaml("cifar10"), to_yaml("./photos"), to_yaml("a: b"), to_yaml("2024-05-01"), to_yaml((1, 2)))
    cifar10 ./photos "a: b" "2024-05-01" [1, 2]
    """
    # Words that begin with a digit, a sign, or a dot may be numbers or dates.
    plain = isinstance(value, str) and _read(value) == value and re.fullmatch(r"([^\W\d]|~/|\.{0,2}/)[\w./~+-]*", value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _read(text: str) -> Any:
    """Parses JSON, `True`, `False`, or a word, without a trailing comment; `None` for anything else.

    >>> _read("0.3  # a third"), _read("AdamW"), _read("[1, 2]"), _read("[1,"), _read("True")
    (0.3, 'AdamW', [1, 2], None, True)
    """
    for part in (text, re.sub(r"\s+#.*$", "", text)):
        try:
            return json.loads(part)
        except ValueError:
            continue
    if part.lower() in ("true", "false"):
        return part.lower() == "true"
    # YAML would not read these as plain words.
    return None if re.match(r"[\[\]{}\"'&*!|>%@`]", part) or part.lower() in _NO_WORDS else part
