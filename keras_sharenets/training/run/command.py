"""Converts between command-line words of `fit` and options, and builds the command that reproduces a run."""

from __future__ import annotations

import ast
import pathlib
import shlex
from collections.abc import Mapping
from typing import Any

from keras_sharenets.files import as_tuples
from keras_sharenets.training.recipes.named import RECIPES
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.config import run_config, training_config
from keras_sharenets.training.run.record import Run

_FLAGS = ("deterministic", "download", "freeze", "skip_unreadable")  # Options without a value.


def parse_option(text: str) -> tuple[str, object]:
    """Parses `KEY=VALUE` into a pair; the value is a Python literal, or else a string.

    >>> parse_option("blocks_per_stage=(1, 2, 2)"), parse_option("stem=imagenet")
    (('blocks_per_stage', (1, 2, 2)), ('stem', 'imagenet'))
    """
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"`--model-option` (={text!r}) must be KEY=VALUE.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def resume_command(folder: str | pathlib.Path, program: str = "sharenets fit", strategy: str = "default") -> str:
    """The command that resumes the work of a program in a folder, for messages.

    >>> resume_command("my runs/a"), resume_command("b", strategy="mirrored")
    ("sharenets fit --resume 'my runs/a'", 'sharenets fit --resume b --strategy mirrored')
    """
    command = f"{program} --resume {shlex.quote(str(folder))}"
    return command if strategy == "default" else f"{command} --strategy {strategy}"


def fit_words(model: str, options: Mapping[str, object], source: Mapping[str, object], recipe: Recipe) -> list[str]:
    """The words of a `sharenets fit` that trains a network, without `--seed` and `--output`.

    Args:
        model: name of the network.
        options: arguments of its factory.
        source: data source, as returned by `DataSource.to_record`.
        recipe: training recipe.

    Raises:
        ValueError: the recipe is not a named one.
    """
    return _first_words(model, recipe) + config_words(training_config(model, options, source, recipe))


def fit_command_line(run: Run) -> str:
    """The shell command that reproduces a `Run`, without `--seed` and `--output`.

    Options that do not affect the trained network (checkpoints, logs, devices) are omitted. Errors: as `fit_words`.
    """
    config = {name: value for name, value in run_config(run).items() if name != "seed"}
    backend = "" if run.backend == "tensorflow" else f"KERAS_BACKEND={run.backend} "
    return backend + shlex.join(_first_words(run.model, run.recipe) + config_words(config))


def _first_words(model: str, recipe: Recipe) -> list[str]:
    """The words before the options. Errors: as `fit_words`."""
    if recipe.name not in RECIPES:
        raise ValueError(f"The recipe {recipe.name!r} of {model} is not one of `recipes`.")
    return ["sharenets", "fit"]


def config_words(config: Mapping[str, Any]) -> list[str]:
    """Converts options and values to command-line words."""
    words: list[str] = []
    for name, value in config.items():
        if name == "model_option":
            if not isinstance(value, Mapping):
                raise ValueError(f'`model_option` (={value!r}) must be a mapping: {{"name": value}}.')
            words += [word for key, each in value.items() for word in ("--model-option", _option(key, as_tuples(each)))]
        elif name in _FLAGS:
            if not isinstance(value, bool):
                raise ValueError(f"`{name}` (={value!r}) must be true or false.")
            words += _flag(name, value) if value else []
        elif name == "jit_compile":
            words += ["--jit-compile", str(value).lower()]
        else:
            words += _flag(name, value)
    return words


def _option(key: str, value: object) -> str:
    word = f"{key}={value}"
    return word if parse_option(word) == (key, value) else f"{key}={value!r}"


def _flag(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, (tuple, list)) else [value])]
