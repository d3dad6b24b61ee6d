"""The command that trains a network as a record says."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from keras_sharenets.cli.arguments import parse_option
from keras_sharenets.training.recipes.named import RECIPES, changed_fields
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.record import Run


def fit_words(model: str, options: Mapping[str, object], source: Mapping[str, object], recipe: Recipe) -> list[str]:
    """The words of a `python -m trainers fit` that trains a network, without `--seed` and `--output`.

    Args:
        model: its name.
        options: arguments of its factory.
        source: where its data comes from, as `DataSource.to_record` says it.
        recipe: how it is trained.

    Raises:
        ValueError: the recipe is none of those that the command line knows by name.
    """
    if recipe.name not in RECIPES:
        raise ValueError(f"The recipe {recipe.name!r} of {model} is none of `recipes`.")
    words = ["python", "-m", "trainers", "fit", "--model", model]
    words += [word for item in options.items() for word in ("--model-option", _option(*item))]
    words += [word for name in ("data", "data_dir", "input_shape") for word in _flag(name, source.get(name))]
    words += ["--skip-unreadable"] if source.get("skip_unreadable") else []
    words += ["--recipe", recipe.name]
    return words + [word for name in changed_fields(recipe) for word in _flag(name, getattr(recipe, name))]


def fit_command_line(run: Run) -> str:
    """What makes a `Run` again, as one line of a shell without `--seed` and `--output`.

    What does not change the trained network (checkpoints, logs, the devices) is left out. Errors: as `fit_words`.
    """
    words = fit_words(run.model, run.options, run.source or {"data": run.data["name"]}, run.recipe)
    words += ["--jit-compile", str(run.jit_compile).lower()] if run.jit_compile != "auto" else []
    words += ["--deterministic"] if run.deterministic else []
    backend = "" if run.backend == "tensorflow" else f"KERAS_BACKEND={run.backend} "
    return backend + shlex.join(words)


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
