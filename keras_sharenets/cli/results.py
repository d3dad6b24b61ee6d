"""Make the tables of published runs from their records, beside what the papers print, a figure, and model cards.

sharenets results saved_models/*_seed* --update docs/results.md --cards
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_sharenets.cli.command import Answer
from keras_sharenets.rendering.tables import markdown_table
from keras_sharenets.training.papers.runs import mean_and_deviation, percent
from keras_sharenets.training.recipes.named import changed_fields
from keras_sharenets.training.reports.card import describe_trainer
from keras_sharenets.training.run.command import fit_command_line

if TYPE_CHECKING:
    from keras_sharenets.training.reports.results import Comparison, PaperResult, Row
    from keras_sharenets.training.run.record import Run

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
FIGURE = "results.png"
NETWORKS = (
    "network",
    "data",
    "recipe",
    "epochs",
    "seeds",
    "test accuracy",
    "test error",
    "int8 file",
    "its bytes",
    "arena",
    "stored parameters",
    "multiply-adds",
    "paper",
)
PAIRS = ("pair", "epochs", "here", "seed by seed", "paper", "direction")
ACCURACY_NOTE = (
    "Test accuracy is that of the last epoch: the mean over the seeds and the deviation of a sample, and from the "
    "lowest to the highest; the error is what it lacks. The int8 file is measured on the same test split; arena is an "
    "estimate of the bytes that its values need on a microcontroller (less with `sharenets export --prefer memory`). "
    "Stored parameters count each shared tensor once, multiply-adds each call."
)
FIGURE_NOTE = (
    "The figure has each network once: its longest training, and of several of that length the one that is nearest to "
    "its recipe as it is."
)
PAIRS_NOTE = (
    'Accuracy of the first minus that of the second, in percentage points, over the seeds that both have. "As in the '
    'paper": the first, which is ahead in the paper, is ahead with every seed; "against the paper": it is behind with '
    'every seed; "within the spread of the seeds": neither. One seed shows no spread.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folder of a finished run; all lie in one folder")
    parser.add_argument("--update", metavar="PAGE", help=f"write into this page, between {BEGIN} and {END}")
    parser.add_argument("--cards", action="store_true", help="leave a model card, README.md, beside each int8 file")


def run(arguments: argparse.Namespace) -> Answer:
    """The tables, also written into the page if there is one; `results.png` is left beside the runs, cards in them."""
    from keras_sharenets import files
    from keras_sharenets.analysis.catalog import replace_table
    from keras_sharenets.training.reports.card import CARD, model_card
    from keras_sharenets.training.reports.results import compare, direction, make_rows, read_published

    places = {pathlib.Path(folder).resolve().parent for folder in arguments.runs}
    if len(places) > 1:
        raise ValueError(f"`runs` (={' '.join(arguments.runs)}) must lie in one folder.")
    page = pathlib.Path(arguments.update) if arguments.update else None
    rows = make_rows(map(read_published, arguments.runs))
    text = to_markdown(rows, page.parent if page else pathlib.Path())
    changed = replace_table(page.read_text(encoding="utf-8"), text, begin=BEGIN, end=END) if page else ""
    files.write_bytes(places.pop() / FIGURE, draw(rows))
    for row in rows if arguments.cards else ():
        for one in row.published:
            if one.int8:
                files.write_text(one.folder / CARD, model_card(one, row.profile))
    pairs = [(pair.first.run.model, pair.second.run.model, pair.differences) for pair in compare(rows)]
    data = {
        "networks": [_entry(row) for row in rows],
        "pairs": [
            {"first": first, "second": second, "points": dict(points), "direction": direction(list(points.values()))}
            for first, second, points in pairs
        ],
    }
    if page:
        files.write_text(page, changed)
        return Answer("", data)
    return Answer(text, data)


def _entry(row: Row) -> dict[str, object]:
    return {
        "model": row.run.model,
        "options": dict(row.run.options),
        "data": row.run.data["name"],
        "recipe": describe_training(row.run),
        "epochs": row.run.recipe.epochs,
        "test_accuracy_by_seed": row.accuracies,
        "test_accuracy": row.mean,
        "test_accuracy_deviation": mean_and_deviation(row.accuracies.values())[1],
        "test_error_rate": 1 - row.mean,
        "test_top5_accuracy_by_seed": row.top5_accuracies,
        "int8_bytes": row.int8_bytes,
        "int8_arena_bytes": row.arena_bytes,
        "stored_parameters": row.profile.stored_parameters,
        "multiply_adds": row.profile.multiply_adds,
    }


def to_markdown(rows: Sequence[Row], place: pathlib.Path) -> str:
    """All that is published about some runs, up to a line break; `place` is the page's folder, for its links."""
    from keras_sharenets.training.reports.results import compare

    figure = _link(rows[0].published[0].folder.parent / FIGURE, place)
    parts = [
        markdown_table([NETWORKS, *(_network(row, place) for row in rows)]),
        _fill(" ".join([ACCURACY_NOTE, *_trainer_notes(rows), *_papers_note(rows), *_data_notes(rows)])),
        f"![Test accuracy against {_size(rows)[0]}]({figure})",
        _fill(FIGURE_NOTE),
    ]
    comparisons = compare(rows)
    if comparisons:
        parts += [markdown_table([PAIRS, *map(_pair, comparisons)]), _fill(PAIRS_NOTE)]
    commands = "\n".join(line for row in rows for line in shell_lines(row))
    return "\n\n".join([*parts, f"```\n{commands}\n```"]) + "\n"


def draw(rows: Sequence[Row]) -> bytes:
    """The figure as a PNG file: accuracies against the bytes of int8 files, or stored parameters if there is none.

    A network that was trained in several ways is there once: see `longest`.
    """
    from keras_sharenets.training.reports.plots import draw_accuracies

    across, sizes = _size(rows)
    points = {}
    shown = longest(rows)
    for row, size in zip(rows, sizes, strict=True):
        if row not in shown:
            continue
        what = [f"{row.run.recipe.epochs} epoch{_plural(row.run.recipe.epochs)}"]
        # What all rows have in common is told once, in the table.
        what += [row.run.data["name"]] if len({each.run.data["name"] for each in rows}) > 1 else []
        if size is not None:
            name = ", ".join([_name(row.run), *what, *row.run.changes])
            points[name] = (size, tuple(row.accuracies.values()))
    return draw_accuracies(points, across)


def longest(rows: Sequence[Row]) -> list[Row]:
    """One row for each network and data set: that of the most epochs, and of these the one nearest to its recipe.

    Their accuracies, which are those of the test split, have no say in it.
    """
    chosen: dict[tuple[str, str, str], tuple[tuple[int, int], Row]] = {}
    for row in rows:
        run = row.run
        rank = (run.recipe.epochs, -len(changed_fields(run.recipe)) - len(run.changes))
        network = (run.model, str(run.options), run.data["name"])
        if network not in chosen or rank > chosen[network][0]:
            chosen[network] = (rank, row)
    return [row for _, row in chosen.values()]


def _size(rows: Sequence[Row]) -> tuple[str, list[int | None]]:
    """What the figure shows accuracies against, and that of each row; `None` where it is not known."""
    sizes = [row.int8_bytes for row in rows]
    if any(sizes):
        return "the bytes of the int8 file", sizes
    return "stored parameters", [row.profile.stored_parameters for row in rows]


def _network(row: Row, place: pathlib.Path) -> tuple[str, ...]:
    run = row.run
    seeds = ", ".join(f"[{one.run.seed}]({_link(one.folder, place)})" for one in row.published)
    counts = (f"{row.profile.stored_parameters:,}", f"{row.profile.multiply_adds / 1e6:,.1f} M")
    error = f"{percent(row.accuracies.values(), error=True)} %"
    arena = "-" if row.arena_bytes is None else f"{row.arena_bytes:,}"
    figures = (_accuracy(row), error, *_int8(row), arena, *counts, _paper(row.paper))
    return (_name(run, "`"), run.data["name"], describe_training(run), str(run.recipe.epochs), seeds, *figures)


def _name(run: Run, quote: str = "") -> str:
    return " ".join([f"{quote}{run.model}{quote}", *(f"{key}={value}" for key, value in run.options.items())])


def describe_training(run: Run) -> str:
    """Name of the recipe, and what was changed but for the epochs."""
    recipe = run.recipe
    names = [name for name in changed_fields(recipe) if name != "epochs"]
    fields = [
        f"{'batch' if name == 'batch_size' else name.replace('_', ' ')} {getattr(recipe, name)}" for name in names
    ]
    return ", ".join([recipe.name, *fields, *run.changes])


def _plural(count: int) -> str:
    return "" if count == 1 else "s"


def _accuracy(row: Row) -> str:
    accuracies = row.accuracies.values()
    spread = f" ({100 * min(accuracies):.2f} to {100 * max(accuracies):.2f})" if len(accuracies) > 1 else ""
    top5 = row.top5_accuracies.values()
    return f"{percent(accuracies)} %{spread}{f'; top-5 {percent(top5)} %' if top5 else ''}"


def _int8(row: Row) -> tuple[str, str]:
    """The accuracies and the bytes of the int8 files that there are."""
    delivered = [(one, one.int8) for one in row.published if one.int8]
    accuracies = []
    for one, int8 in delivered:
        measured = _percent(int8["test_accuracy"]) if "test_accuracy" in int8 else "not measured"
        of_which = f" (seed {one.run.seed}; {_percent(one.accuracy)} in Keras)" if len(row.published) > 1 else ""
        accuracies.append(measured + of_which)
    sizes = dict.fromkeys(f"{int8['bytes']:,}" for _, int8 in delivered)
    return ", ".join(accuracies) or "-", ", ".join(sizes) or "-"


def _paper(paper: PaperResult | None) -> str:
    if paper is None:
        return "-"
    deviation = f" ± {paper.deviation}" if paper.deviation else ""
    return f"{paper.accuracy}{deviation} % on {paper.data}, {paper.epochs} epochs ({paper.paper}, {paper.table})"


def _papers_note(rows: Sequence[Row]) -> list[str]:
    epochs = {row.paper.paper: row.paper.epochs for row in rows if row.paper}
    if not epochs:
        return []
    theirs = ", ".join(f"{count} ({paper})" for paper, count in epochs.items())
    ours = sorted({row.run.recipe.epochs for row in rows if row.paper})
    here = f"{ours[0]} to {ours[-1]}" if len(ours) > 1 else f"{ours[0]}"
    return [
        f"The papers' figures are of the lossless images of the data set named with them, after {theirs} epochs; the "
        f"runs here have {here}."
    ]


def _trainer_notes(rows: Sequence[Row]) -> list[str]:
    """Which rows another program than `fit` trained."""
    recipes: dict[str, list[str]] = {}
    for row in rows:
        if row.run.trainer:
            names = recipes.setdefault(describe_trainer(row.run.trainer), [])
            names += [row.run.recipe.name] if row.run.recipe.name not in names else []
    return [
        f"Networks with the recipe {', '.join(names)} were not trained by `fit`, but by {trainer}; their records say "
        "what differs."
        for trainer, names in recipes.items()
    ]


def _data_notes(rows: Sequence[Row]) -> list[str]:
    notes = {row.run.data["name"]: row.run.data["note"] for row in rows}
    return [f"`{name}` is {note}." for name, note in notes.items()]


def _pair(comparison: Comparison) -> tuple[str, ...]:
    from keras_sharenets.training.reports.results import direction

    first, second = comparison.first.paper, comparison.second.paper
    differences = comparison.differences
    mean = _points_text(comparison.mean) if differences else "-"
    each = ", ".join(f"{_points_text(value)} (seed {seed})" for seed, value in differences.items())
    paper = "-"
    if first and second and first.data == second.data:
        paper = f"{first.accuracy - second.accuracy:+} on {first.data}"
    names = f"`{comparison.first.run.model}` - `{comparison.second.run.model}`"
    epochs = f"{comparison.first.run.recipe.epochs}"
    return (names, epochs, mean, each or "-", paper, direction(list(differences.values())))


def shell_lines(row: Row) -> list[str]:
    """The commands that make the runs of a `Row` again: a loop over its seeds, mostly."""
    seeds = {}
    for one in row.published:
        stem = shlex.quote(one.folder.name.removesuffix(f"_seed{one.run.seed}"))
        seeds.setdefault((fit_command_line(one.run), stem), []).append(str(one.run.seed))
    lines = []
    # The recipe is the same, the program is not.
    trained_otherwise = "  # the nearest to what trained it" if row.run.trainer else ""
    for (command, stem), numbers in seeds.items():
        seed = "$seed" if len(numbers) > 1 else numbers[0]
        line = f"{command} --seed {seed} --output runs/{stem}_seed{seed}"
        line = f"for seed in {' '.join(numbers)}; do {line}; done" if len(numbers) > 1 else line
        lines.append(line + trained_otherwise)
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _points_text(difference: float) -> str:
    return f"{difference:+.2f}"


def _link(path: pathlib.Path, place: pathlib.Path) -> str:
    return pathlib.PurePath(os.path.relpath(path, place)).as_posix()


def _fill(text: str) -> str:
    return textwrap.fill(text, 125, break_long_words=False, break_on_hyphens=False)
