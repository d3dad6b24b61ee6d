"""Put several runs into one figure and one table.

sharenets compare runs/a runs/b --output runs/compared
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_sharenets.cli.command import Answer
from keras_sharenets.training.recipes.named import changed_fields

if TYPE_CHECKING:
    from keras_sharenets.training.run.record import Run

HEADER = ("run", "network", "data", "recipe", "epochs", "test accuracy", "best", "parameters", "minutes", "seed")
NOTE = (
    "Test accuracy is that of the last epoch; best is the highest of all on the split that is named with it. Chosen on "
    "the test split, it flatters. Parameters are stored ones, each shared tensor once."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for all files; must be empty or new")


def run(arguments: argparse.Namespace) -> Answer:
    """The table; also left as Markdown and JSON, the figure as PNG, and both as a page. The records are enough."""
    from keras_sharenets import files
    from keras_sharenets.rendering.page import page
    from keras_sharenets.rendering.tables import markdown_table, text_table
    from keras_sharenets.training.reports.plots import draw_comparison
    from keras_sharenets.training.reports.results import profile_of
    from keras_sharenets.training.run.finished import read_run
    from keras_sharenets.training.run.fit import check_output

    output = check_output(arguments.output)
    runs = dict(zip(short_names(arguments.runs), map(read_run, arguments.runs), strict=True))
    parameters = {name: profile_of(run).stored_parameters for name, run in runs.items()}
    rows = [HEADER, *(_row(name, run, parameters[name]) for name, run in runs.items())]
    figure = draw_comparison(runs)
    notes = {run.data["name"]: f"{run.data['note']}." for run in runs.values()}
    note = " ".join([NOTE, *notes.values()])
    data = {"note": note, "runs": [_entry(name, run, parameters[name]) for name, run in runs.items()]}
    files.write_bytes(output / "compare.png", figure)
    files.write_json(output / "compare.json", data)
    files.write_text(output / "compare.md", f"{markdown_table(rows)}\n\n{note}\n\n![Loss and accuracy](compare.png)\n")
    files.write_text(output / "index.html", page("Runs compared", note, {"": rows, "Epoch by epoch": figure}))
    return Answer(f"{text_table(rows)}\nfiles in {output}", data)


def short_names(folders: Sequence[str]) -> list[str]:
    """The folders' own names, or their whole paths where two would be called alike.

    >>> short_names(["runs/a", "runs/b"]), short_names(["x/run", "y/run"])
    (['a', 'b'], ['x/run', 'y/run'])

    Raises:
        ValueError: a folder is named twice.
    """
    if len({pathlib.Path(folder).resolve() for folder in folders}) < len(folders):
        raise ValueError(f"`runs` (={' '.join(folders)}) must be different folders.")
    names = [pathlib.Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def _row(name: str, run: Run, parameters: int) -> tuple[str, ...]:
    recipe = f"{run.recipe.name}{' (changed)' if changed_fields(run.recipe) else ''}"
    finished = f"{len(run.epochs)}{'' if run.state == 'finished' else f' of {run.recipe.epochs}'}"
    best = f"{_share(run.best.held_out_accuracy)} of {run.split} in epoch {run.best.epoch}"
    accuracies = (_share(run.last.test_accuracy), best)
    time = f"{run.seconds / 60:.1f}"
    return (name, run.model, run.data["name"], recipe, finished, *accuracies, f"{parameters:,}", time, str(run.seed))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _entry(name: str, run: Run, parameters: int) -> dict[str, object]:
    return {
        "run": name,
        "model": run.model,
        "options": run.options,
        "data": run.data["name"],
        "recipe": run.recipe.name,
        "recipe_changes": list(changed_fields(run.recipe)),
        "state": run.state,
        "epochs": len(run.epochs),
        "test_accuracy": run.last.test_accuracy,
        "split": run.split,
        "best": {"epoch": run.best.epoch, f"{run.split}_accuracy": run.best.held_out_accuracy},
        "parameters": parameters,
        "seconds": run.seconds,
        "seed": run.seed,
    }
