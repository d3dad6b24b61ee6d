"""Finds runs of the papers' networks and groups those that differ only in their seed."""

from __future__ import annotations

import dataclasses
import pathlib
import statistics
from collections.abc import Iterable, Sequence

from keras_sharenets.training.papers.entries import Row
from keras_sharenets.training.run.record import Run, network_key, read_metrics


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, ordered by seed."""

    runs: tuple[Run, ...]

    @property
    def run(self) -> Run:
        """The first run, which represents all except for accuracies."""
        return self.runs[0]

    @property
    def accuracies(self) -> dict[int, float]:
        """Maps the seeds of the finished runs to test accuracy after the last epoch."""
        return {run.seed: run.test_accuracy for run in self.runs if run.test_accuracy is not None}

    @property
    def top5_accuracies(self) -> dict[int, float]:
        """The same for top-5 accuracy, where measured."""
        finished = {run.seed: run.last.test_top5_accuracy for run in self.runs if run.test_accuracy is not None}
        return {seed: value for seed, value in finished.items() if value is not None}


def mean_and_deviation(values: Iterable[float]) -> tuple[float, float | None]:
    """The mean and the sample standard deviation (divisor n - 1), which is `None` for a single value.

    >>> mean_and_deviation([0.5, 0.75, 1.0])
    (0.75, 0.25)
    """
    values = list(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def percent(values: Iterable[float], *, error: bool = False) -> str:
    """Mean and deviation of fractions in percent, `"65.30 ± 0.69"`; `error` converts accuracies to error rates.

    >>> percent([0.5, 0.75, 1.0]), percent([0.9], error=True), percent([])
    ('75.00 ± 25.00', '10.00', '-')
    """
    values = list(values)
    if not values:
        return "-"
    mean, deviation = mean_and_deviation(values)
    text = f"{100 * (1 - mean if error else mean):.2f}"
    return text if deviation is None else f"{text} ± {100 * deviation:.2f}"


def find_runs(folders: Iterable[pathlib.Path]) -> list[Run]:
    """The runs in the subfolders of `folders` with at least one finished epoch; ignores broken records."""
    found = []
    for folder in folders:
        for path in sorted(folder.glob("*/metrics.json")):
            try:
                run = read_metrics(path)
            except ValueError:
                continue
            found += [run] if run.epochs else []
    return found


def group_runs(runs: Iterable[Run], rows: Sequence[Row]) -> list[Group]:
    """Groups the runs of the networks in `rows`, on any data set, in the order of the rows.

    Of several runs with the same seed, only the first finished one counts.
    """
    networks = list(dict.fromkeys(network_key(row.network, row.options) for row in rows if row.network))
    groups: dict[tuple, dict[int, Run]] = {}
    for run in runs:
        if run.network in networks:
            seeds = groups.setdefault((networks.index(run.network), *run.conditions), {})
            if run.seed not in seeds or seeds[run.seed].test_accuracy is None:
                seeds[run.seed] = run
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], item[1][min(item[1])].data["name"]))
    return [Group(tuple(seeds[seed] for seed in sorted(seeds))) for _, seeds in ordered]


def groups_of(groups: Iterable[Group], row: Row, data: str) -> list[Group]:
    """The groups of one row on one data set."""
    wanted = network_key(row.network, row.options) if row.network else None
    return [group for group in groups if group.run.network == wanted and group.run.data["name"] == data]
