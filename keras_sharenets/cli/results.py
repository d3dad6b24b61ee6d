"""Generate the tables of published runs, next to the results in the papers, with figures and model cards.

sharenets results saved_models/*_seed* --benchmark saved_models/times.json --update docs/results.md --cards
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths
from keras_sharenets.models.variant import network_label
from keras_sharenets.rendering.tables import markdown_table
from keras_sharenets.timing import UNSTEADY_NOTE, in_milliseconds
from keras_sharenets.training.papers.runs import mean_and_deviation, percent
from keras_sharenets.training.recipes.named import changed_fields
from keras_sharenets.training.reports.card import describe_trainer
from keras_sharenets.training.run.command import fit_command_line
from keras_sharenets.training.run.record import Run, describe_training

if TYPE_CHECKING:
    from keras_sharenets.training.reports.results import Comparison, PaperResult, Row, Times

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
FIGURE, TIMES_FIGURE = "results.png", "results_ms.png"
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
# At the end of the command of a network that another program trained.
OTHERWISE = "# closest equivalent"
MILLISECONDS = "milliseconds of an inference of the int8 file"
ACCURACY_NOTE = (
    "Test accuracy is measured after the last epoch: mean and sample standard deviation over the seeds, and the range; "
    "test error is 100 % minus accuracy. The int8 file is measured on the same test split; arena estimates the bytes "
    "for its activations on a microcontroller (fewer with `sharenets export --prefer memory`). Stored parameters count "
    "each shared tensor once, multiply-adds each call."
)
FIGURES_NOTE = (
    "The figures show each network once: the run with the usual number of epochs, else with the most; among several, "
    "the one closest to its original recipe. Runs with less than a quarter of the usual epochs are left out."
)
PAIRS_NOTE = (
    'Accuracy of the first minus accuracy of the second, in percentage points, over the seeds that both have. "As in '
    'the paper": the first, which is ahead in the paper, is ahead with every seed; "against the paper": it is behind '
    'with every seed; "within the spread of the seeds": neither. A single seed shows no spread. Options apply to both '
    "networks; the paper's value is for the networks without them."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN_DIR", help="folder of a finished run; all must be in the same folder"
    )
    parser.add_argument("--update", metavar="PAGE", help=f"write the tables into this page, between {BEGIN} and {END}")
    benchmark_help = (
        "output of `sharenets benchmark RUN_DIR/export/int8.tflite ... --json`: adds a column and a figure of latencies"
    )
    parser.add_argument("--benchmark", metavar="FILE.json", help=benchmark_help)
    parser.add_argument(
        "--cards", action="store_true", help="write a model card, README.md, for each run with an int8 file"
    )


def check(arguments: argparse.Namespace) -> None:
    check_paths(*arguments.runs)


def run(arguments: argparse.Namespace) -> Answer:
    """The tables, or the updated page; `results.png` is written next to the runs, model cards into them."""
    from keras_sharenets import files
    from keras_sharenets.analysis.catalog import replace_table
    from keras_sharenets.training.reports.card import CARD, model_card
    from keras_sharenets.training.reports.results import compare, make_rows, read_published, read_times

    places = {pathlib.Path(folder).resolve().parent for folder in arguments.runs}
    if len(places) > 1:
        raise ValueError(f"`runs` (={' '.join(arguments.runs)}) must be in the same folder.")
    page = pathlib.Path(arguments.update) if arguments.update else None
    rows = make_rows(map(read_published, arguments.runs))
    times = read_times(arguments.benchmark) if arguments.benchmark else None
    text = to_markdown(rows, page.parent if page else pathlib.Path(), times)
    changed = replace_table(page.read_text(encoding="utf-8"), text, begin=BEGIN, end=END) if page else ""
    place = places.pop()
    files.write_bytes(place / FIGURE, draw(rows))
    if times:
        files.write_bytes(place / TIMES_FIGURE, draw_times(rows, times))
    for row in rows if arguments.cards else ():
        for one in row.published:
            if one.int8:
                files.write_text(one.folder / CARD, model_card(one, row.counts))
    data = {"networks": [_entry(row, times) for row in rows], "pairs": [_pair_entry(pair) for pair in compare(rows)]}
    if page:
        files.write_text(page, changed)
        return Answer("", data)
    return Answer(text, data)


def _entry(row: Row, times: Times | None) -> dict[str, object]:
    took = times.of(row) if times else None
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
        "int8_ms": took and took.median_ms,
        "stored_parameters": row.counts.stored_parameters,
        "multiply_adds": row.counts.multiply_adds,
    }


def _pair_entry(pair: Comparison) -> dict[str, object]:
    from keras_sharenets.training.reports.results import direction

    return {
        "first": pair.first.run.model,
        "second": pair.second.run.model,
        "options": dict(pair.first.run.options),
        "points": dict(pair.differences),
        "direction": direction(list(pair.differences.values())),
    }


def to_markdown(rows: Sequence[Row], place: pathlib.Path, times: Times | None = None) -> str:
    """The Markdown text on published runs; `place` is the folder of the page, for its links."""
    from keras_sharenets.training.reports.results import compare

    runs = rows[0].published[0].folder.parent
    table = [NETWORKS, *(_network(row, place) for row in rows)]
    notes = [ACCURACY_NOTE, *_trainer_notes(rows), *_papers_note(rows), *_data_notes(rows)]
    figures = [f"![Test accuracy against {_size(rows)[0]}]({_link(runs / FIGURE, place)})", _fill(FIGURES_NOTE)]
    if times:
        before = NETWORKS.index("stored parameters")
        table = [(*line[:before], took, *line[before:]) for line, took in zip(table, _ms(rows, times), strict=True)]
        notes[1:1] = _times_notes(rows, times)
        figures.append(f"![Test accuracy against {MILLISECONDS}]({_link(runs / TIMES_FIGURE, place)})")
    parts = [markdown_table(table), _fill(" ".join(notes)), *figures]
    comparisons = compare(rows)
    if comparisons:
        parts += [markdown_table([PAIRS, *map(_pair, comparisons)]), _fill(PAIRS_NOTE)]
    commands = "\n".join(line for row in rows for line in shell_lines(row))
    return "\n\n".join([*parts, f"```\n{commands}\n```"]) + "\n"


def _ms(rows: Sequence[Row], times: Times) -> list[str]:
    """The cells of the latency column: its title, and the milliseconds of each row."""
    measured = map(times.of, rows)
    return [
        "ms",
        *("-" if each is None else in_milliseconds(each.median_ms, unsteady=each.unsteady) for each in measured),
    ]


def _times_notes(rows: Sequence[Row], times: Times) -> list[str]:
    threads = f"{times.threads} thread{_plural(times.threads)}"
    measured = f"ms: median latency of the int8 file with {threads} ({times.machine})."
    unsteady = any(each and each.unsteady for each in map(times.of, rows))
    return [measured, *([UNSTEADY_NOTE] if unsteady else [])]


def draw(rows: Sequence[Row]) -> bytes:
    """A PNG file with accuracy against the bytes of the int8 files, or stored parameters if there are none."""
    return _draw(rows, *_size(rows))


def draw_times(rows: Sequence[Row], times: Times) -> bytes:
    """A PNG file with accuracy against the latency of the int8 file."""
    measured = map(times.of, rows)
    return _draw(rows, MILLISECONDS, [each and round(each.median_ms, 3) for each in measured])


def _draw(rows: Sequence[Row], across: str, sizes: Sequence[float | None]) -> bytes:
    """A plot of accuracy against `sizes`, for the rows of `one_of_each`."""
    from keras_sharenets.training.reports.plots import draw_accuracies

    shown, usual, points = one_of_each(rows), usual_epochs(rows), {}
    for row, size in zip(rows, sizes, strict=True):
        if size is None or not any(row is each for each in shown):
            continue
        epochs = row.run.recipe.epochs
        what = [f"{epochs} epoch{_plural(epochs)}"] if epochs != usual else []
        # Facts shared by all rows are given once, in the table.
        what += [row.run.data["name"]] if len({each.run.data["name"] for each in rows}) > 1 else []
        points[", ".join([_name(row.run), *what, *row.run.changes])] = (size, tuple(row.accuracies.values()))
    told = f"Test accuracy after {usual} epoch{_plural(usual)}, unless the label has another number"
    return draw_accuracies(points, across, told)


def usual_epochs(rows: Sequence[Row]) -> int:
    """The most common number of epochs."""
    return statistics.mode(row.run.recipe.epochs for row in rows)


def one_of_each(rows: Sequence[Row]) -> list[Row]:
    """A row for each network and data set: with the usual number of epochs, else the most; then closest to its recipe.

    Networks without a row of at least a quarter of the usual epochs are left out. The choice ignores accuracies, since
    they are measured on the test split.
    """
    usual = usual_epochs(rows)
    chosen: dict[tuple[str, str, str], tuple[tuple[bool, int, int], Row]] = {}
    for row in rows:
        run = row.run
        epochs = run.recipe.epochs
        rank = (epochs == usual, epochs, -len(changed_fields(run.recipe)) - len(run.changes))
        network = (*run.network, run.data["name"])
        if 4 * epochs >= usual and (network not in chosen or rank > chosen[network][0]):
            chosen[network] = (rank, row)
    return [row for _, row in chosen.values()]


def _size(rows: Sequence[Row]) -> tuple[str, list[int | None]]:
    """The quantity on the horizontal axis, and its value for each row; `None` where it is unknown."""
    sizes = [row.int8_bytes for row in rows]
    if any(sizes):
        return "the bytes of the int8 file", sizes
    return "stored parameters", [row.counts.stored_parameters for row in rows]


def _network(row: Row, place: pathlib.Path) -> tuple[str, ...]:
    run = row.run
    seeds = ", ".join(f"[{one.run.seed}]({_link(one.folder, place)})" for one in row.published)
    counts = (f"{row.counts.stored_parameters:,}", f"{row.counts.multiply_adds / 1e6:,.1f} M")
    error = f"{percent(row.accuracies.values(), error=True)} %"
    arena = "-" if row.arena_bytes is None else f"{row.arena_bytes:,}"
    figures = (_accuracy(row), error, *_int8(row), arena, *counts, _paper(row.paper))
    return (_name(run, "`"), run.data["name"], describe_training(run), str(run.recipe.epochs), seeds, *figures)


def _name(run: Run, quote: str = "") -> str:
    return network_label(f"{quote}{run.model}{quote}", run.options)


def _plural(count: int) -> str:
    return "" if count == 1 else "s"


def _accuracy(row: Row) -> str:
    accuracies = row.accuracies.values()
    spread = f" ({100 * min(accuracies):.2f} to {100 * max(accuracies):.2f})" if len(accuracies) > 1 else ""
    top5 = row.top5_accuracies.values()
    return f"{percent(accuracies)} %{spread}{f'; top-5 {percent(top5)} %' if top5 else ''}"


def _int8(row: Row) -> tuple[str, str]:
    """The accuracies and the bytes of the existing int8 files."""
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
        f"The papers' results are for the lossless images of the data set named with them, after {theirs} epochs; the "
        f"runs here have {here}."
    ]


def _trainer_notes(rows: Sequence[Row]) -> list[str]:
    """Notes on rows that were trained by another program than `fit`."""
    recipes: dict[str, list[str]] = {}
    for row in rows:
        if row.run.trainer:
            names = recipes.setdefault(describe_trainer(row.run.trainer), [])
            names += [row.run.recipe.name] if row.run.recipe.name not in names else []
    return [
        f'Networks with the recipe {", ".join(names)} whose command ends in "{OTHERWISE}" were not trained by `fit` '
        f"but by {trainer}; their records list the differences."
        for trainer, names in recipes.items()
    ]


def _data_notes(rows: Sequence[Row]) -> list[str]:
    notes = dict.fromkeys((row.run.data["name"], row.run.data["note"]) for row in rows)
    return [f"`{name}` is {note}." for name, note in notes]


def _pair(comparison: Comparison) -> tuple[str, ...]:
    from keras_sharenets.training.reports.results import direction

    first, second = comparison.papers
    differences = comparison.differences
    mean = _points_text(comparison.mean) if differences else "-"
    each = ", ".join(f"{_points_text(value)} (seed {seed})" for seed, value in differences.items())
    paper = "-"
    if first and second and first.data == second.data:
        paper = f"{first.accuracy - second.accuracy:+} on {first.data}"
    names = f"`{comparison.first.run.model}` - {_name(comparison.second.run, '`')}"
    epochs = f"{comparison.first.run.recipe.epochs}"
    return (names, epochs, mean, each or "-", paper, direction(list(differences.values())))


def shell_lines(row: Row) -> list[str]:
    """The commands that reproduce the runs of a `Row`, usually as a loop over its seeds."""
    seeds = {}
    for one in row.published:
        stem = shlex.quote(one.folder.name.removesuffix(f"_seed{one.run.seed}"))
        seeds.setdefault((fit_command_line(one.run), stem), []).append(str(one.run.seed))
    lines = []
    # Same recipe, another program.
    trained_otherwise = f"  {OTHERWISE}" if row.run.trainer else ""
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
