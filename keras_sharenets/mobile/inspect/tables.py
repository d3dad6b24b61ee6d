"""Reports about TFLite files as aligned tables, and as dicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_sharenets.mobile.inspect.benchmark import BenchmarkReport, OperatorTime
from keras_sharenets.mobile.inspect.size_report import SizeReport
from keras_sharenets.rendering.tables import text_table
from keras_sharenets.timing import UNSTEADY_NOTE, in_milliseconds


def size_table(reports: Sequence[SizeReport]) -> str:
    """What the bytes of files are spent on.

    Args:
        reports: sequence of `SizeReport`.

    Returns:
        A str: one line a part, one column a file, the total, and the estimated memory of the values.
    """
    parts = [report.parts for report in reports]
    # Constants first, as they stand in the reports; a part that is in no file is left out.
    constants = dict.fromkeys(name for report in reports for name in sorted(report.constants))
    names = [*constants, *(name for name in parts[0] if name not in reports[0].constants)]
    rows = [["bytes", *(report.path for report in reports)]]
    for name in names:
        counts = [part.get(name, 0) for part in parts]
        if any(counts):
            rows.append([name, *(f"{count:,}" for count in counts)])
    rows.append(["total", *(f"{report.file_bytes:,}" for report in reports)])
    rows.append(["tensor arena (estimate)", *(f"{report.arena_bytes:,}" for report in reports)])
    return text_table(rows) + "\n"


def benchmark_entries(
    reports: Sequence[BenchmarkReport], accuracies: dict[str, float], operators: dict[str, Sequence[OperatorTime]]
) -> list[dict[str, Any]]:
    """What files cost, as dicts for JSON.

    Args:
        reports: sequence of `BenchmarkReport`.
        accuracies: dict from path to a share of 1.
        operators: dict from path to a list of `OperatorTime`.
    """
    return [
        {
            **dataclasses.asdict(report),
            "unsteady": report.unsteady,
            "accuracy": accuracies.get(report.path),
            "operators": [dataclasses.asdict(entry) for entry in operators.get(report.path, ())],
        }
        for report in reports
    ]


def operator_table(path: str, times: Sequence[OperatorTime]) -> str:
    """Where the time of a file goes.

    Args:
        path: str.
        times: list of `OperatorTime`.

    Returns:
        A str: one line a kind of operator, the most expensive first.
    """
    total = sum(entry.milliseconds for entry in times)
    rows = [[path, "count", "ms", "share"]]
    for entry in times:
        rows.append([entry.name, str(entry.count), f"{entry.milliseconds:.4g}", f"{entry.milliseconds / total:.1%}"])
    return f"{text_table(rows)}\nEach operator measured alone: take the times as shares.\n"


def counted(operators: Mapping[str, int]) -> str:
    """Operators and how often they occur, in one cell.

    >>> counted({"SOFTMAX": 1, "GATHER": 2}), counted({})
    ('1 SOFTMAX + 2 GATHER', 'nothing')
    """
    return " + ".join(f"{count} {name}" for name, count in operators.items()) or "nothing"


def benchmark_table(reports: Sequence[BenchmarkReport], accuracies: dict[str, float] | None = None) -> str:
    """What files cost, and what was measured.

    Args:
        reports: sequence of `BenchmarkReport` of one run.
        accuracies: dict from path to a share of 1, or `None`.

    Returns:
        A str: one line a file, and below what the columns mean.
    """
    head = ["", "file bytes", "weight bytes", "median ms", "spread ms", "peak memory"]
    head += ["delegate partitions", "undelegated operators"]
    rows = [[*head, "accuracy"] if accuracies else head]
    for report in reports:
        memory = "?" if report.peak_memory_bytes is None else f"{report.peak_memory_bytes:,}"
        undelegated = counted(report.undelegated_operators)
        counts = [f"{report.file_bytes:,}", f"{report.weight_bytes:,}"]
        times = [in_milliseconds(report.median_ms, unsteady=report.unsteady), f"{report.spread_ms:.2g}"]
        row = [report.path, *counts, *times, memory, str(report.delegate_partitions), undelegated]
        if accuracies:
            row.append(f"{accuracies[report.path]:.2%}" if report.path in accuracies else "")
        rows.append(row)
    first = reports[0]
    unsteady = f"{UNSTEADY_NOTE}\n" if any(report.unsteady for report in reports) else ""
    return f"""{text_table(rows, align="l" + "r" * (len(rows[0]) - 1))}

{first.threads} thread{"s" if first.threads > 1 else ""}, {first.repetitions} inferences of each file after \
{first.warmup} that do not count, in turns; spread: interquartile range.
{unsteady}weight bytes: constants, each buffer once. delegate partitions: parts of the graph that delegates run.
undelegated operators: those that the runtime runs itself.
peak memory: growth of a fresh process that opens the file and runs it; parts of the runtime are in it.
"""
