"""Reports about TFLite files as aligned tables and as dicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_sharenets.mobile.inspect.benchmark import BenchmarkReport, OperatorTime
from keras_sharenets.mobile.inspect.size_report import SizeReport
from keras_sharenets.rendering.tables import text_table
from keras_sharenets.timing import UNSTEADY_NOTE, in_milliseconds


def size_table(reports: Sequence[SizeReport]) -> str:
    """Size breakdown of files: a row per part, a column per file, the total, and the estimated activation memory."""
    parts = [report.parts for report in reports]
    # Constants first, in the order of the reports; a part that no file has is omitted.
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
    """Benchmarks of files as dicts for JSON, with their accuracies from 0 to 1 and times of operators by path."""
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
    """Time per kind of operator of a file, one row each, in the order of `times`."""
    total = sum(entry.milliseconds for entry in times)
    rows = [[path, "count", "ms", "share"]]
    for entry in times:
        rows.append([entry.name, str(entry.count), f"{entry.milliseconds:.4g}", f"{entry.milliseconds / total:.1%}"])
    return f"{text_table(rows)}\nEach operator is measured separately: read the times as shares.\n"


def counted(operators: Mapping[str, int]) -> str:
    """Operators with their counts, as text of one table cell.

    >>> counted({"SOFTMAX": 1, "GATHER": 2}), counted({})
    ('1 SOFTMAX + 2 GATHER', 'nothing')
    """
    return " + ".join(f"{count} {name}" for name, count in operators.items()) or "nothing"


def benchmark_table(reports: Sequence[BenchmarkReport], accuracies: dict[str, float] | None = None) -> str:
    """Benchmarks of files from one run, one row each, followed by the meaning of the columns.

    `accuracies` maps paths to accuracies from 0 to 1, if known.
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
{first.warmup} for warm-up, interleaved; spread: interquartile range.
{unsteady}weight bytes: constants, each buffer once. delegate partitions: graph partitions that delegates run.
undelegated operators: operators that the runtime runs itself.
peak memory: growth of a new process that opens and runs the file, including parts of the runtime.
"""
