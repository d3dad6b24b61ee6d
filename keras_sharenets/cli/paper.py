"""Show a table or figure of a paper next to the counts and training results here, and train missing runs.

sharenets paper hscnet table2
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from keras_sharenets import _checks
from keras_sharenets.cli.arguments import (
    add_recipe_arguments,
    given_fields,
    load_data,
    named_recipe,
)
from keras_sharenets.cli.command import Answer, load_keras, say, say_over
from keras_sharenets.cli.fit import JIT_COMPILE, tell_epochs
from keras_sharenets.files import check_writable
from keras_sharenets.models.variant import network_label
from keras_sharenets.rendering.tables import Rows, text_table
from keras_sharenets.training.data.sources import DataSource
from keras_sharenets.training.papers.entries import DATA, Entry, Paper, Row, counts_of, papers, recipe_of
from keras_sharenets.training.papers.runs import Group, find_runs, group_runs, percent
from keras_sharenets.training.recipes.named import override
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.record import PRECISIONS, STRATEGIES, describe_training

if TYPE_CHECKING:
    from keras_sharenets.training.papers.experiments import Experiment

NEEDS_KERAS = False  # Everything that is listed or shown is stored.
PLACES = ("saved_models", "runs")
Chosen = Mapping[str, Sequence[Row]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paper", nargs="?", help=f"{', '.join(papers())} (default: list all tables and figures)")
    parser.add_argument("entry", nargs="?", help="table1, figure4, ... (default: list all of the paper)")
    parser.add_argument(
        "--rows",
        nargs="+",
        metavar="ROW",
        help="only these rows: numbers, or patterns of labels, networks, or data sets, quoted",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help=f"folder with a subfolder for each run (runs in {' and '.join(PLACES)} are also shown)",
    )
    parser.add_argument(
        "--run", action="store_true", help="train the runs that are missing in --output, one after another"
    )
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], metavar="N", help="random seeds, one run for each (default: 0)"
    )
    parser.add_argument(
        "--limit-images", type=int, metavar="N", help="use at most N images of each split, for a quick trial"
    )
    parser.add_argument("--data", metavar="NAME|FOLDER", help="train on this instead of the paper's data sets")
    parser.add_argument(
        "--data-dir",
        nargs="+",
        default=[],
        metavar="D",
        help="folder of the data sets, as for `fit`; NAME=FOLDER for a data set elsewhere",
    )
    parser.add_argument("--plot", metavar="FILE.png", help="plot the figure, or accuracy against parameters")
    parser.add_argument("--precision", choices=(*PRECISIONS, "auto"), help="as for `fit`")
    parser.add_argument("--jit-compile", choices=JIT_COMPILE, help="compile with XLA (default: auto)")
    parser.add_argument("--strategy", choices=STRATEGIES, default="default", help="devices, as for `fit`")
    add_recipe_arguments(parser)


def check(arguments: argparse.Namespace) -> None:
    named_recipe(arguments)
    _, entries, chosen = _asked(arguments)
    if arguments.run or arguments.plot:
        name = "run" if arguments.run else "plot"
        if arguments.entry is None:
            raise ValueError(f"`--{name}` requires a table or figure: `sharenets paper` lists them.")
        if not any(chosen.values()):
            raise ValueError(f"`--{name}`: {entries[0].key} has no rows. {entries[0].note}")
    analysis = next((entry.analysis for entry in entries if entry.analysis), None)
    if arguments.plot and analysis:
        raise ValueError(
            f"`--plot` draws accuracies, but {entries[0].key} has none. Draw it with `sharenets analyze RUN_DIR ... "
            f"{analysis}` from the runs that `--run` writes."
        )
    if arguments.run and arguments.output is None:
        raise ValueError("`--run` requires `--output DIR`, which gets a folder for each run.")
    if arguments.limit_images is not None:
        _checks.positive("--limit-images", arguments.limit_images)
    if arguments.plot and not arguments.plot.endswith(".png"):
        raise ValueError(f"`--plot` (={arguments.plot}) must end in .png.")
    if arguments.plot:
        check_writable(arguments.plot, "--plot")


def run(arguments: argparse.Namespace) -> Answer:
    """The requested tables as text; with `--run`, after training."""
    paper, entries, chosen = _asked(arguments)
    if paper is None or arguments.entry is None:
        listed = papers() if arguments.paper is None else {arguments.paper: papers()[arguments.paper]}
        return _list(listed)
    trained = _train(arguments, paper, chosen) if arguments.run else []
    folders = [pathlib.Path(place) for place in (*([arguments.output] if arguments.output else ()), *PLACES)]
    rows = [row for each in chosen.values() for row in each]
    groups = group_runs(find_runs(folder for folder in folders if folder.is_dir()), rows)
    text = "\n\n".join(_show(paper, entry, chosen[entry.key]) for entry in entries)
    text = f"{text}\n\n{_show_runs(groups, folders)}" if rows else text
    if trained and entries[0].analysis:
        words = shlex.join(["sharenets", "analyze", *map(str, trained), *entries[0].analysis.split()])
        text += f"\n\ndraw it with: {words} --output DIR"
    data = [_as_data(arguments.paper, paper, entry, chosen[entry.key], groups) for entry in entries]
    if arguments.plot:
        # After installation, matplotlib first scans all fonts.
        say_over("plotting ...")
        from keras_sharenets import files
        from keras_sharenets.training.papers.figure import draw

        name = None if arguments.data is None else pathlib.PurePath(arguments.data).name
        files.write_bytes(arguments.plot, draw(paper, entries, chosen, groups, name))
        say_over("")
        text += f"\n\nfigure: {arguments.plot}"
    return Answer(text, data)


def _asked(arguments: argparse.Namespace) -> tuple[Paper | None, Sequence[Entry], Chosen]:
    """The requested paper, entries, and rows; a `ValueError` with the nearest names if they do not exist."""
    if arguments.paper is None:
        return None, (), {}
    _known("paper", arguments.paper, list(papers()))
    paper = papers()[arguments.paper]
    if arguments.entry is None:
        return paper, paper.entries, {}
    asked = arguments.entry.lower().replace(" ", "").replace("_", "")
    entries = [entry for entry in paper.entries if asked in (entry.key, entry.key.rstrip("abcd"))]
    if not entries:
        _known("entry", asked, [entry.key for entry in paper.entries])
    chosen = {entry.key: _matching(entry.rows, arguments.rows) for entry in entries}
    if arguments.rows and not any(chosen.values()):
        raise ValueError(f"`--rows` (={' '.join(arguments.rows)}) matches no row of {', '.join(chosen)}.")
    return paper, entries, chosen


def _known(name: str, value: str, names: Sequence[str]) -> None:
    if value not in names:
        raise ValueError(f"`{name}` (={value!r}) is not known. {_checks.suggestion(value, names)}")


def _matching(rows: Sequence[Row], wanted: Sequence[str] | None) -> list[Row]:
    if wanted is None:
        return list(rows)

    def matches(number: int, row: Row) -> bool:
        words = [word.lower() for word in (row.label, row.network or "", row.data)]
        return any(pattern == str(number) or fnmatch.filter(words, pattern.lower()) for pattern in wanted)

    return [row for number, row in enumerate(rows, start=1) if matches(number, row)]


# Training


def _train(arguments: argparse.Namespace, paper: Paper, chosen: Chosen) -> list[pathlib.Path]:
    """Trains the missing runs; returns the folders of all requested runs."""
    load_keras()
    from keras_sharenets.training.devices.devices import connect
    from keras_sharenets.training.papers.experiments import train_all

    connect(arguments.strategy)
    rows = list({str(row): row for each in chosen.values() for row in each}.values())
    for note in dict.fromkeys(f"{row.label}: {row.note}" for row in rows if row.network is None):
        say(f"not trained: {note}")
    experiments = _experiments(arguments, paper, rows)
    # Not every shell expands ~ behind an equals sign.
    named = (word.split("=", 1) for word in arguments.data_dir if "=" in word)
    places = {name: os.path.expanduser(folder) for name, folder in named}
    others = [word for word in arguments.data_dir if "=" not in word]

    def load(name: str):
        return load_data(DataSource(name, data_dir=places.get(name, others[0] if others else None)))

    options = {"jit_compile": JIT_COMPILE[arguments.jit_compile or "auto"], "strategy": arguments.strategy}
    options |= {} if arguments.precision is None else {"precision": arguments.precision}
    output = pathlib.Path(arguments.output)
    return train_all(
        experiments, output, load, limit=arguments.limit_images, run_options=options, say=say, tell=tell_epochs
    )


def _experiments(arguments: argparse.Namespace, paper: Paper, rows: Sequence[Row]) -> list[Experiment]:
    """The runs of some rows without duplicates: a network may be in several rows."""
    from keras_sharenets.training.papers.experiments import Experiment

    found = {}
    for row in rows:
        for seed in arguments.seeds:
            if row.network is None:
                continue
            recipe = _recipe(arguments, paper, row)
            data = arguments.data or row.data
            each = Experiment(row.network, row.options, data, recipe, seed, counts_of(paper, row).multiply_adds)
            found.setdefault((row.network, str(row.options), data, recipe, seed), each)
    return list(found.values())


def _recipe(arguments: argparse.Namespace, paper: Paper, row: Row) -> Recipe:
    """The recipe given by the options, else the paper's recipe for the data set."""
    from keras_sharenets.training.recipes.named import recipe_for

    named = named_recipe(arguments)
    if named is None and arguments.data is not None and row.network is not None:
        named = recipe_for(row.network, pathlib.PurePath(arguments.data).name)
    return override(named or recipe_of(paper, row), **given_fields(arguments))


# Display


def _list(listed: Mapping[str, Paper]) -> Answer:
    rows: list[Sequence[str]] = [("paper", "entry", "rows", "networks", "data", "what it shows")]
    data = []
    for key, paper in listed.items():
        for entry in paper.entries:
            networks = {(row.network, str(row.options)) for row in entry.rows if row.network}
            sets = ", ".join(dict.fromkeys(row.data for row in entry.rows)) or "-"
            shows = entry.title if entry.rows else f"{entry.title}. {entry.note}"
            counts = (str(len(entry.rows)), str(len(networks))) if entry.rows else ("-", "-")
            rows.append((key, entry.key, *counts, sets, shows))
            about = {"title": entry.title, "note": entry.note, "rows": len(entry.rows), "networks": len(networks)}
            data.append({"paper": key, "entry": entry.key, **about})
    return Answer(f"{text_table(rows)}\n\n`sharenets paper PAPER ENTRY` shows one; `--run` trains it.", data)


def _show(paper: Paper, entry: Entry, rows: Sequence[Row]) -> str:
    """An entry as a table, with notes on its rows, and its recipes."""
    heading = f"{paper.name}, {entry.name}: {entry.title}"
    if not rows:
        return f"{heading}\n{entry.note}"
    sizes = tuple(dict.fromkeys(name for row in rows for name in row.sizes))
    table: list[Sequence[str]] = [_HEADER + sizes]
    for row in rows:
        derived = (f"{row.sizes[name]:,}" if name in row.sizes else "" for name in sizes)
        table.append((*_cells(paper, row, entry.rows), *derived))
    lines = [heading, text_table(_without_empty(table))]
    notes: dict[str, dict[str, None]] = {}
    for row in rows:
        notes.setdefault(row.note, {})[row.label] = None
    lines += [f"- {', '.join(labels)}: {note}." for note, labels in notes.items() if note]
    lines += [f"- {entry.note}"] if entry.note else []
    if entry.analysis:
        lines += [f"- `--run` trains this; `sharenets analyze RUN_DIR ... {entry.analysis}` draws the figure."]
    recipes = dict.fromkeys(recipe_of(paper, row) for row in rows if row.network)
    lines += [f"- recipe {recipe.name}, {recipe.epochs} epochs: {recipe.source}." for recipe in recipes]
    return "\n".join(lines)


_HEADER = (
    *("row", "in the paper", "network here", "data", "parameters", "parameters here", "stored here"),
    *("multiply-adds", "multiply-adds here", "accuracy %", "error %", "top-5 %", "top-5 error %"),
)


def _cells(paper: Paper, row: Row, all_rows: Sequence[Row]) -> tuple[str, ...]:
    counted = stored = multiply_adds = ""
    if row.network:
        counts = counts_of(paper, row)
        counted = f"{counts.counted_parameters:,}"
        stored = f"{counts.stored_parameters:,}" if counts.stored_parameters != counts.counted_parameters else ""
        multiply_adds = f"{counts.multiply_adds / 1e6:,.1f} M"
    deviation = f" ± {row.deviation}" if row.deviation is not None else ""
    error = None if row.accuracy is None else 100 - row.accuracy
    top5 = row.top5_accuracy
    return (
        *(str(all_rows.index(row) + 1), row.label, _network(row), DATA[row.data].name, row.parameters or ""),
        *(counted, stored, row.multiply_adds or "", multiply_adds),
        *("" if value is None else f"{value}{deviation}" for value in (row.accuracy, error)),
        *("" if value is None else str(value) for value in (top5, None if top5 is None else 100 - top5)),
    )


def _network(row: Row) -> str:
    return network_label(row.network or "-", row.options)


def _without_empty(rows: Rows) -> Rows:
    """The columns that are not empty; empty cells become dashes."""
    kept = [index for index in range(len(rows[0])) if any(row[index] for row in rows[1:])]
    return [tuple(row[index] or "-" for index in kept) for row in rows]


_RUNS = ("run here", "data", "recipe", "epochs", "seeds", "accuracy %", "error %", "top-5 %", "top-5 error %")


def _show_runs(groups: Sequence[Group], folders: Sequence[pathlib.Path]) -> str:
    if not groups:
        return f"There are no runs of these networks in {', '.join(map(str, folders))}."
    rows: list[Sequence[str]] = [_RUNS]
    for group in groups:
        run = group.run
        name = network_label(run.model, run.options)
        data = f"{run.data['name']}, {run.data['train']:,} images" if "train" in run.data else run.data["name"]
        finished = sorted({len(each.epochs) for each in group.runs})
        epochs = f"{run.recipe.epochs}" if finished == [run.recipe.epochs] else f"{finished[0]} of {run.recipe.epochs}"
        values, top5 = group.accuracies.values(), group.top5_accuracies.values()
        figures = (percent(values), percent(values, error=True))
        figures += (percent(top5), percent(top5, error=True)) if top5 else ("", "")
        seeds = ", ".join(str(each.seed) for each in group.runs)
        rows.append((name, data, describe_training(group.run), epochs, seeds, *figures))
    return f"{text_table(_without_empty(rows))}\nMean and standard deviation over the seeds, after the last epoch."


_COUNTS = ("stored_parameters", "counted_parameters", "multiply_adds")


def _as_data(key: str, paper: Paper, entry: Entry, rows: Sequence[Row], groups: Sequence[Group]) -> dict[str, object]:
    shown = []
    for row in rows:
        about = {"label": row.label, "network": row.network, "options": dict(row.options), "data": row.data}
        printed = {"printed": row.printed, "top5": row.top5, "is_error": row.is_error, "parameters": row.parameters}
        printed |= {"multiply_adds": row.multiply_adds}
        counts = {name: getattr(counts_of(paper, row), name) for name in _COUNTS} if row.network else None
        recipe = recipe_of(paper, row).name if row.network else None
        about["sizes"] = dict(row.sizes)
        shown.append({**about, "paper": printed, "counts": counts, "recipe": recipe, "note": row.note})
    runs = [
        {
            "model": group.run.model,
            "options": dict(group.run.options),
            "data": group.run.data["name"],
            "train_images": group.run.data.get("train"),
            "recipe": describe_training(group.run),
            "epochs": {run.seed: len(run.epochs) for run in group.runs},
            "of_epochs": group.run.recipe.epochs,
            "test_accuracy": group.accuracies,
            "test_top5_accuracy": group.top5_accuracies,
        }
        for group in groups
        if any((row.network, dict(row.options)) == (group.run.model, dict(group.run.options)) for row in rows)
    ]
    return {"paper": key, "entry": entry.key, "title": entry.title, "note": entry.note, "rows": shown, "runs": runs}
