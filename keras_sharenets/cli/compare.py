"""Compare several runs in tables and figures: accuracy, cost, and differences between their recipes.

sharenets compare runs/a runs/b --output runs/compared
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths
from keras_sharenets.timing import UNSTEADY_NOTE, in_milliseconds
from keras_sharenets.training.recipes.named import changed_fields, differing_fields

if TYPE_CHECKING:
    from keras_sharenets.models.counts import NetworkCounts
    from keras_sharenets.training.run.record import Run

# Two tables: all columns in one would be wider than a page.
HEADER = (
    *("run", "test accuracy", "int8 bytes", "parameters", "effective parameters", "multiply-adds"),
    *("network", "data"),
)
TRAINING = ("run", "recipe", "epochs", "best", "in epoch", "split", "minutes", "seed")
NOTE = (
    "Test accuracy is measured after the last epoch; best is the highest accuracy of any epoch on the given split, and "
    "is optimistic if that is the test split. Parameters are stored, each shared tensor once; effective parameters are "
    "those of the same network without sharing. Multiply-adds are for one image; int8 bytes are the size of the "
    "exported file."
)
TIMES = "Milliseconds are for one image with the int8 file in LiteRT, one thread, on this machine, interleaved."
SAME_RECIPE = "All runs use the same recipe."
BY_SIZE, BY_EPOCH = "Accuracy against size", "Epoch by epoch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for all files; must be empty or new")
    parser.add_argument("--times", action="store_true", help="measure the int8 files written by `export`, interleaved")


def check(arguments: argparse.Namespace) -> None:
    check_paths(*arguments.runs)
    if len({pathlib.Path(folder).resolve() for folder in arguments.runs}) < len(arguments.runs):
        raise ValueError(f"`runs` (={' '.join(arguments.runs)}) must be different folders.")


def run(arguments: argparse.Namespace) -> Answer:
    """Prints the tables; also writes them as Markdown, CSV, and JSON, the figures as PNG, and everything as a page.

    Reads the records of the runs, and their exported int8 files if there are any.
    """
    from keras_sharenets import files
    from keras_sharenets.rendering.page import page
    from keras_sharenets.rendering.tables import markdown_table, short_names, text_table
    from keras_sharenets.training.reports.plots import draw_comparison, draw_comparison_parts
    from keras_sharenets.training.reports.results import counts_of_run, int8_file
    from keras_sharenets.training.run.finished import read_run
    from keras_sharenets.training.run.fit import check_output

    output = check_output(arguments.output)
    names = short_names(arguments.runs)
    runs = dict(zip(names, map(read_run, arguments.runs), strict=True))
    int8 = {name: int8_file(folder) or {} for name, folder in zip(names, arguments.runs, strict=True)}
    times = _times(dict(zip(names, arguments.runs, strict=True)), int8) if arguments.times else {}
    differing = differing_fields(run.recipe for run in runs.values())
    entries = [_entry(name, run, counts_of_run(run), int8[name].get("bytes"), differing) for name, run in runs.items()]
    for entry in entries if arguments.times else ():
        entry |= times.get(entry["run"], {"milliseconds": None, "unsteady": None})
    tables = {
        "": [(*HEADER[:3], *(["ms"] if arguments.times else []), *HEADER[3:]), *map(_row, entries)],
        "Training": [TRAINING, *(_training_row(name, run) for name, run in runs.items())],
        **({"Recipe differences": _recipe_rows(entries, differing)} if differing else {}),
    }
    notes = {run.data["name"]: f"{run.data['note']}." for run in runs.values() if run.data.get("note")}
    measured = [TIMES, *([UNSTEADY_NOTE] if any(time["unsteady"] for time in times.values()) else [])]
    told = [NOTE, *(measured if times else []), *([SAME_RECIPE] if len(runs) > 1 and not differing else [])]
    note = " ".join([*told, *notes.values()])
    figures = {"compare.png": (BY_EPOCH, draw_comparison(runs))}
    by_size = _draw_sizes(entries)
    if by_size:
        figures = {"compare_sizes.png": (BY_SIZE, by_size), **figures}
    shown = {BY_SIZE: [by_size] if by_size else [], BY_EPOCH: draw_comparison_parts(runs)}
    parts = [
        f"## {heading}\n\n{markdown_table(table)}" if heading else markdown_table(table)
        for heading, table in tables.items()
    ]
    parts = [*parts, note, *(f"![{heading}]({file})" for file, (heading, _) in figures.items())]
    data = {"note": note, "runs": entries}
    for file, (_, figure) in figures.items():
        files.write_bytes(output / file, figure)
    files.write_json(output / "compare.json", data)
    files.write_text(output / "compare.csv", _csv(entries))
    files.write_text(output / "compare.md", "\n\n".join(parts) + "\n")
    files.write_text(output / "index.html", page("Comparison of runs", note, {**tables, **shown}))
    text = [*map(text_table, tables.values()), *([" ".join(measured)] if times else [])]
    without = [str(folder) for name, folder in zip(names, arguments.runs, strict=True) if name not in times]
    if arguments.times and without:
        command = shlex.join(["sharenets", "export", without[0]])
        text.append(f"not measured, no int8 file: {', '.join(without)} (`{command}` writes one)")
    text.append(f"files in {output}")
    return Answer("\n\n".join(text), data)


def _times(folders: Mapping[str, str], int8: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Latencies of the existing int8 files by run, measured interleaved."""
    from keras_sharenets.mobile.inspect.benchmark import compare_tflite

    paths = {name: pathlib.Path(folders[name]) / "export" / found["path"] for name, found in int8.items() if found}
    reports = compare_tflite(list(paths.values())) if paths else []
    found = zip(paths, reports, strict=True)
    return {name: {"milliseconds": report.median_ms, "unsteady": report.unsteady} for name, report in found}


def _entry(
    name: str, run: Run, counts: NetworkCounts, int8_bytes: int | None, differing: Sequence[str]
) -> dict[str, Any]:
    return {
        "run": name,
        "model": run.model,
        "options": run.options,
        "data": run.data["name"],
        "recipe": run.recipe.name,
        "recipe_changes": list(changed_fields(run.recipe)),
        "other_changes": list(run.changes),
        "recipe_differences": {field: getattr(run.recipe, field) for field in differing},
        "state": run.state,
        "epochs": len(run.epochs),
        "test_accuracy": run.last.test_accuracy,
        "split": run.split,
        "best": {"epoch": run.best.epoch, f"{run.split}_accuracy": run.best.held_out_accuracy},
        "parameters": counts.stored_parameters,
        "effective_parameters": counts.effective_parameters,
        "multiply_adds": counts.multiply_adds,
        "int8_bytes": int8_bytes,
        "seconds": run.seconds,
        "seed": run.seed,
    }


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    counts = [entry[key] for key in ("int8_bytes", "parameters", "effective_parameters", "multiply_adds")]
    size, *others = ("" if count is None else f"{count:,}" for count in counts)
    time = []
    if "milliseconds" in entry:
        time = [
            "" if entry["milliseconds"] is None else in_milliseconds(entry["milliseconds"], unsteady=entry["unsteady"])
        ]
    return (entry["run"], _share(entry["test_accuracy"]), size, *time, *others, entry["model"], entry["data"])


def _training_row(name: str, run: Run) -> tuple[str, ...]:
    changed = " (changed)" if changed_fields(run.recipe) else ""
    recipe = ", ".join([f"{run.recipe.name}{changed}", *run.changes])
    finished = f"{len(run.epochs)}{'' if run.state == 'finished' else f' of {run.recipe.epochs}'}"
    best = (_share(run.best.held_out_accuracy), str(run.best.epoch), run.split)
    return (name, recipe, finished, *best, f"{run.seconds / 60:.1f}", str(run.seed))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _recipe_rows(entries: Sequence[Mapping[str, Any]], differing: Sequence[str]) -> list[tuple[str, ...]]:
    """A row for each differing recipe field, a column for each run: two runs fit on a phone screen."""
    header = ("recipe field", *(entry["run"] for entry in entries))
    return [header, *((field, *(str(entry["recipe_differences"][field]) for entry in entries)) for field in differing)]


def _draw_sizes(entries: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Test accuracy against int8 bytes, or stored parameters if a run has no int8 file; `None` without accuracies."""
    from keras_sharenets.training.reports.plots import draw_accuracies

    tested = [entry for entry in entries if entry["test_accuracy"] is not None]
    exported = all(entry["int8_bytes"] is not None for entry in tested)
    size, across = ("int8_bytes", "the bytes of the int8 file") if exported else ("parameters", "stored parameters")
    points = {entry["run"]: (entry[size], [entry["test_accuracy"]]) for entry in tested}
    return draw_accuracies(points, across) if points else None


def _csv(entries: Sequence[Mapping[str, Any]]) -> str:
    """A line per run: the values of the JSON file, with a column for each differing recipe field."""
    from keras_sharenets.rendering.tables import csv_table

    lines = []
    for entry in entries:
        best, options = entry["best"], json.dumps(entry["options"]) if entry["options"] else ""
        flat = {"options": options, "recipe_changes": " ".join(entry["recipe_changes"])}
        flat |= {
            "other_changes": "; ".join(entry["other_changes"]),
            "best_epoch": best["epoch"],
            "best_accuracy": best[f"{entry['split']}_accuracy"],
        }
        recipe = {f"recipe.{field}": value for field, value in entry["recipe_differences"].items()}
        kept = {key: value for key, value in entry.items() if key not in ("best", "recipe_differences")}
        lines.append(kept | flat | recipe)
    return csv_table(lines)
