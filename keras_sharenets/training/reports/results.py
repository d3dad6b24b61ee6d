"""Published runs: which of them are one row of a table, what their seeds say together, and what the papers print."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from keras_sharenets import files
from keras_sharenets.models.counts import NetworkCounts, counts_of
from keras_sharenets.models.registry import VARIANTS, find_variant
from keras_sharenets.timing import Timing
from keras_sharenets.training.papers.entries import DATA, papers, printed_for, recipe_of
from keras_sharenets.training.papers.runs import Group
from keras_sharenets.training.run.record import Run, read_metrics


@dataclasses.dataclass(frozen=True)
class PaperResult:
    """A test accuracy as a paper has it.

    Attributes:
        accuracy: in per cent, with the digits that are printed there.
        deviation: what is printed after "±", or `None`.
        data: the data set.
        epochs: those of the training.
        paper, table: where it stands.
    """

    accuracy: Decimal
    deviation: Decimal | None
    data: str
    epochs: int
    paper: str
    table: str


def paper_result(network: str, data: str) -> PaperResult | None:
    """What the papers print of a named network for a data set, or for another one; `None` if they print nothing.

    >>> paper_result("hgcnet_42_g4", "cifar10").accuracy
    Decimal('93.64')
    """
    found = printed_for(network, data)
    if found is None:
        return None
    paper, entry, row = found
    accuracy = row.accuracy
    assert accuracy is not None
    epochs = recipe_of(paper, row).epochs
    return PaperResult(accuracy, row.deviation, DATA[row.data].name, epochs, paper.name, entry.name)


def comparisons() -> list[tuple[str, str]]:
    """The pairs of networks that the papers compare, the one that is ahead first."""
    return [pair for paper in papers().values() for pair in paper.ahead]


@dataclasses.dataclass(frozen=True)
class Published:
    """A finished run in a folder.

    Attributes:
        folder: where it is.
        run: its record.
        accuracy: on the test split, after the last epoch.
        int8: what `export/export.json` says about the int8 file; `None` if there is none.
    """

    folder: pathlib.Path
    run: Run
    accuracy: float
    int8: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Row(Group):
    """Finished runs that differ only in their seed, ordered by seed, with their folders and files."""

    published: tuple[Published, ...]

    @property
    def mean(self) -> float:
        """The mean of the accuracies."""
        return statistics.fmean(self.accuracies.values())

    @functools.cached_property
    def counts(self) -> NetworkCounts:
        """Those of the network, see `counts_of_run`."""
        return counts_of_run(self.run)

    @property
    def int8_bytes(self) -> int | None:
        """The bytes of the int8 file, the first seed's that has one; `None` if there is none."""
        return next((one.int8["bytes"] for one in self.published if one.int8), None)

    @functools.cached_property
    def arena_bytes(self) -> int | None:
        """The tensor arena of an int8 file, see `SizeReport.arena_bytes`: the first seed's that is there, or `None`."""
        from keras_sharenets.mobile.inspect.size_report import size_report

        files = (one.folder / "export" / one.int8["path"] for one in self.published if one.int8)
        return next((size_report(file).arena_bytes for file in files if file.is_file()), None)

    @property
    def paper(self) -> PaperResult | None:
        """The `PaperResult` of the network; `None` without one, or if the network was given options."""
        return None if self.run.options else paper_result(self.run.model, self.run.data["name"])


@dataclasses.dataclass(frozen=True)
class Times:
    """How long the int8 files of runs took on one machine, side by side.

    Attributes:
        machine: its processor, and the version of LiteRT.
        threads: of the interpreter.
        timings: the last parts of a file's path, from the folder of its run on, to the `Timing` of an inference.
    """

    machine: str
    threads: int
    timings: Mapping[tuple[str, ...], Timing]

    def of(self, row: Row) -> Timing | None:
        """That of the first seed whose file was measured; `None` if there is none."""
        files = (one.folder.resolve() / "export" / one.int8["path"] for one in row.published if one.int8)
        return next((self.timings[key] for key in map(_last_parts, files) if key in self.timings), None)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two rows that a paper compares, and by how much the first is ahead here.

    Attributes:
        first, second: the paper puts the first above the second.
        differences: each seed that both have to the difference of the accuracies in percentage points.
    """

    first: Row
    second: Row
    differences: Mapping[int, float]

    @property
    def mean(self) -> float:
        """The mean of the differences, which is the difference of the means over these seeds."""
        return statistics.fmean(self.differences.values())

    @property
    def papers(self) -> tuple[PaperResult | None, PaperResult | None]:
        """What the paper prints of both networks, without the options that they were given here."""
        first, second = (paper_result(row.run.model, row.run.data["name"]) for row in (self.first, self.second))
        return first, second


def counts_of_run(run: Run) -> NetworkCounts:
    """What the network costs that a record describes: built anew unless it is in the table of counts."""
    height, width, channels = run.data["shape"]
    shape = run.recipe.crop_size or height, run.recipe.crop_size or width, channels
    return counts_of(run.model, run.options, shape, len(run.data["class_names"]))


def read_published(folder: str | pathlib.Path) -> Published:
    """The `Published` run in a folder.

    Raises:
        ValueError: there is no run, or none that can be read, or it is not finished, or its `export.json` is broken.
    """
    folder = pathlib.Path(folder)
    run = read_metrics(folder / "metrics.json")
    if run.test_accuracy is None:
        raise ValueError(f"The run in {folder} is not finished: it is {run.state} and has no test accuracy to quote.")
    return Published(folder, run, run.test_accuracy, int8_file(folder))


def int8_file(folder: str | pathlib.Path) -> Mapping[str, Any] | None:
    """What `export/export.json` in the folder of a run says about the int8 file; `None` if there is none.

    Raises:
        ValueError: it is not what `export` writes.
    """
    path = pathlib.Path(folder) / "export" / "export.json"
    if not path.is_file():
        return None
    try:
        entries = {entry["form"]: entry for entry in files.read_json(path)["files"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what `export` writes: {type(error).__name__} {error}") from error
    return entries.get("int8")


def read_times(path: str | pathlib.Path) -> Times:
    """The `Times` that `sharenets benchmark RUN_DIR/export/int8.tflite ... --json FILE` has written.

    Raises:
        ValueError: it is not such a file, or its files were measured with several numbers of threads.
    """
    try:
        measured = files.read_json(path)
        (threads,) = {each["threads"] for each in measured["files"]}
        timings = {
            _last_parts(pathlib.Path(each["path"])): Timing(each["median_ms"], each["spread_ms"])
            for each in measured["files"]
        }
        machine = measured["machine"]
        return Times(f"{machine['processor']}, LiteRT {machine['versions']['ai-edge-litert']}", threads, timings)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what `benchmark --json` writes: {type(error).__name__} {error}") from error


def _last_parts(file: pathlib.Path) -> tuple[str, ...]:
    return file.parts[-3:]


def make_rows(published: Iterable[Published]) -> list[Row]:
    """Puts runs of one network, data set and recipe together.

    Returns:
        The rows in the order of the papers' tables.

    Raises:
        ValueError: two runs of a row have the same seed, or a network is unknown.
    """
    groups = {}
    for one in sorted(published, key=lambda one: (one.run.seed, one.folder)):
        run = one.run
        group = groups.setdefault((*run.network, *run.conditions), [])
        if group and group[-1].run.seed == run.seed:
            raise ValueError(f"{group[-1].folder} and {one.folder} are the same run: {run.model} with seed {run.seed}.")
        group.append(one)
    rows = (Row(tuple(one.run for one in group), tuple(group)) for group in groups.values())
    return sorted(rows, key=_place)


def _place(row: Row) -> tuple[int, str]:
    find_variant(row.run.model)
    return list(VARIANTS).index(row.run.model), str(row.published[0].folder)


def compare(rows: Sequence[Row]) -> list[Comparison]:
    """The comparisons of the papers that these rows allow: both networks with equal options, data set and recipe."""
    return [
        Comparison(first, second, _differences(first, second))
        for names in comparisons()
        for first in rows
        for second in rows
        if (first.run.model, second.run.model) == names and _alike(first.run, second.run)
    ]


def _alike(first: Run, second: Run) -> bool:
    return first.conditions == second.conditions and first.options == second.options


def _differences(first: Row, second: Row) -> dict[int, float]:
    ours, theirs = first.accuracies, second.accuracies
    # Accuracies are float32: without rounding, equal ones might differ.
    return {seed: round(100 * (ours[seed] - theirs[seed]), 4) for seed in ours if seed in theirs}


def direction(differences: Sequence[float]) -> str:
    """What the differences of the seeds, winner of the paper minus the other, say about its comparison.

    >>> direction([0.4, 0.1]), direction([-0.4, -0.1]), direction([0.4, -0.1])
    ('as in the paper', 'against the paper', 'within the spread of the seeds')
    >>> direction([0.4]), direction([])
    ('as in the paper, but one seed', 'no seed in common')
    """
    if not differences:
        return "no seed in common"
    if all(difference > 0 for difference in differences):
        words = "as in the paper"
    elif all(difference < 0 for difference in differences):
        words = "against the paper"
    else:
        words = "within the spread of the seeds" if len(differences) > 1 else "no difference"
    return words if len(differences) > 1 else f"{words}, but one seed"
