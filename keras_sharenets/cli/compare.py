"""Puts several runs into one picture and one table.

python -m trainers compare runs/a runs/b --output runs/compared
"""

import pathlib

from keras_sharenets import files
from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.rendering.page import page
from keras_sharenets.rendering.tables import markdown_table, text_table
from keras_sharenets.training.recipes.named import changed_fields
from keras_sharenets.training.reports.plots import draw_comparison
from keras_sharenets.training.run.finished import network_file, open_run
from keras_sharenets.training.run.fit import check_output

HEADER = ("run", "network", "data", "recipe", "epochs", "test accuracy", "best", "parameters", "minutes", "seed")
NOTE = (
    "Test accuracy is that of the last epoch; best is the highest of all, chosen on the test split, so it flatters. "
    "Parameters are stored ones, each shared tensor once."
)


def add_arguments(parser):
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for all files; must be empty or new")


def run(args):
    """Prints the table; leaves it as Markdown and JSON, the picture as PNG, and both as a page."""
    output = check_output(args.output)
    names = short_names(args.runs)
    runs = dict(zip(names, map(open_run, args.runs), strict=True))
    parameters = [count_parameters(files.load_model(network_file(folder))) for folder in args.runs]
    rows = [HEADER, *(_row(name, runs[name], count) for name, count in zip(names, parameters, strict=True))]
    picture = draw_comparison(runs)
    data = {run.data["name"]: f"{run.data['note']}." for run in runs.values()}
    note = " ".join([NOTE, *data.values()])
    entries = [_entry(name, runs[name], count) for name, count in zip(names, parameters, strict=True)]
    files.write_bytes(output / "compare.png", picture)
    files.write_json(output / "compare.json", {"note": note, "runs": entries})
    files.write_text(output / "compare.md", f"{markdown_table(rows)}\n\n{note}\n\n![Loss and accuracy](compare.png)\n")
    files.write_text(
        output / "index.html", page("Runs compared", note, {"": rows, "Test split, epoch by epoch": picture})
    )
    print(text_table(rows))
    print(f"files in {output}")


def short_names(folders):
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


def _recipe(run):
    return f"{run.recipe.name}{' (changed)' if changed_fields(run.recipe) else ''}"


def _row(name, run, parameters):
    finished = f"{len(run.epochs)}{'' if run.state == 'finished' else f' of {run.recipe.epochs}'}"
    accuracies = (_share(run.last.test_accuracy), f"{_share(run.best.test_accuracy)} in epoch {run.best.epoch}")
    time = f"{run.seconds / 60:.1f}"
    return (
        *(name, run.model, run.data["name"], _recipe(run), finished),
        *(*accuracies, f"{parameters:,}", time, str(run.seed)),
    )


def _share(value):
    return "-" if value is None else f"{value:.2%}"


def _entry(name, run, parameters):
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
        "best": {"epoch": run.best.epoch, "test_accuracy": run.best.test_accuracy},
        "parameters": parameters,
        "seconds": run.seconds,
        "seed": run.seed,
    }
