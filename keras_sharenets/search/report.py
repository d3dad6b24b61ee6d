"""Report on a search: tables, figures, the effects of the choices, and the command that trains the winner in full."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras_sharenets import _checks, files
from keras_sharenets.machine import describe_machine
from keras_sharenets.rendering import figures
from keras_sharenets.rendering.page import Section, page
from keras_sharenets.rendering.tables import markdown_table
from keras_sharenets.search import settings as search_settings
from keras_sharenets.search import trials
from keras_sharenets.search.conclusion import FOLDER as WINNER
from keras_sharenets.search.conclusion import read_conclusion
from keras_sharenets.search.measuring import Peer, latencies, make_original, make_peers, writes_files
from keras_sharenets.search.training import hold_out
from keras_sharenets.timing import UNSTEADY
from keras_sharenets.training.data.dataset import Dataset
from keras_sharenets.training.data.sources import DataSource
from keras_sharenets.training.recipes.named import describe_changes
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.command import fit_words
from keras_sharenets.training.run.finished import tested_crops

Table = list[list[str]]
_UNSTEADY = f" Unsteady: the spread of a file exceeds {UNSTEADY:.0%} of its median. Measure again on an idle machine."

FIGURES = {
    "Accuracy against file size": ("int8_bytes", "size of the int8 file in kB (1000 bytes)", 1000, "kB"),
    "Accuracy against latency": ("latency_ms", "latency in ms for one image, int8, one thread", 1, "ms"),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """The state of a search, finished or not.

    Attributes:
        folder: folder of the search.
        settings: record of the search.
        results: results of its trials.
        peers: networks to compare with.
        conclusion: as `keras_sharenets.search.conclusion` writes it, or `None`.
        machine: the machine that the latencies were measured on, and whether they were unsteady.
    """

    folder: pathlib.Path
    settings: dict[str, Any]
    results: list[trials.Result]
    peers: list[Peer]
    conclusion: dict[str, Any] | None
    machine: dict[str, Any]

    @property
    def title(self) -> str:
        """Space, data set, number of trials and tuner in one line."""
        settings = self.settings
        return f"{settings['space']} on {settings['data']['name']}: {len(self.results)} trials, {settings['tuner']}"

    @property
    def winner(self) -> trials.Result | None:
        """The winner of a finished search, otherwise the best trial so far; `None` if there is none."""
        if self.conclusion is None:
            return next(iter(trials.ranked(self.results)), None)
        return next(result for result in self.results if result.id == self.conclusion["winner"])

    @property
    def note(self) -> str:
        """How the numbers were obtained, in a few sentences."""
        settings = self.settings
        limits = {name: value for name, value in settings.items() if name.startswith("max_") and value is not None}
        budget = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in limits.items()) or "none"
        recipe, held = Recipe(**settings["recipe"]), settings["validation"]
        changes = describe_changes(recipe).values() or [f"{recipe.epochs} epochs"]
        of_files = (
            " Bytes and latency refer to the int8 file. Latency: LiteRT, one thread, one image, the median of each "
            f"file, with all files interleaved when this report was made, on {self.machine['processor']}, "
            f"{self.machine['cores']} cores.{_UNSTEADY if self.machine['unsteady'] else ''}"
        )
        return (
            f"{settings['data']['note']}. Limits: {budget}. Recipe {recipe.name}, {', '.join(changes)}. Seed "
            f"{settings['seed']}. Trials are trained on {1 - held:.0%} of the {settings['data']['train']:,} images "
            f"of the training split; their accuracies are measured on the other {held:.0%}."
            f"{of_files if any(result.int8_bytes for result in self.results) else ''}"
        )

    @property
    def command(self) -> str | None:
        """The command that trains the winner on the whole training split; `None` without one."""
        return self.winner and full_training(self.winner, self.folder, self.settings)


def full_training(best: trials.Result, folder: pathlib.Path, settings: Mapping[str, Any]) -> str | None:
    """The command that trains the network of a trial on the whole training split.

    `None` in a search of sharing, whose networks have no name.

    Args:
        best: the trial.
        folder: folder of the search.
        settings: record of the search.
    """
    if settings.get("sharing"):
        return None
    words = fit_words(best.name, best.choices, settings["source"], Recipe(**settings["recipe"]))
    return shlex.join([*words, "--seed", str(settings["seed"]), "--output", str(folder / "fit")])


def _peers(
    folder: pathlib.Path, settings: Mapping[str, Any], dataset: Dataset, show: Callable[[str], object]
) -> list[Peer]:
    """The original network in a search of sharing, otherwise networks of other papers."""
    recipe = Recipe(**settings["recipe"])
    if not settings.get("sharing"):
        return make_peers(folder, dataset, recipe, show)
    held, crops = hold_out(dataset, settings["validation"], settings["seed"]), tested_crops(recipe)
    original = make_original(folder, settings["sharing"]["network"], dataset, held, crops, show)
    return [] if original is None else [original]


def make_report(
    folder: pathlib.Path, show: Callable[[str], object] = lambda text: None, source: DataSource | None = None
) -> Report:
    """Creates the report on the search in a folder.

    Latencies are measured again: those of the search were taken at different times and cannot be compared. Missing
    files of the peers are created.

    Args:
        folder: folder of the search.
        show: function that is called with a progress message before each step that takes seconds.
        source: where the data of the search are now; `None` if they are where they were.

    Raises:
        ValueError: the folder contains no search, its data cannot be loaded, or they have other classes.
    """
    settings = search_settings.read(folder)
    dataset = (source or DataSource.from_record(settings["source"])).load()
    if list(dataset.class_names) != settings["data"]["class_names"]:
        raise ValueError(f"The classes of {dataset.name} must match those of the search in {folder}.")
    results, conclusion = trials.read_all(folder), read_conclusion(folder)
    peers = _peers(folder, settings, dataset, show) if writes_files() else []
    paths = {result.id: folder / result.id / "int8.tflite" for result in results if result.int8_bytes is not None}
    paths |= {peer.name: peer.file for peer in peers}
    if conclusion and conclusion["int8_bytes"] is not None:
        paths[WINNER] = folder / WINNER / "int8.tflite"
    show(f"measuring {len(paths)} files, interleaved ...")
    timings = latencies([path.read_bytes() for path in paths.values()]) if paths else []
    times = {name: timing.median_ms for name, timing in zip(paths, timings, strict=True)}
    return Report(
        folder,
        settings,
        [dataclasses.replace(result, latency_ms=times.get(result.id)) for result in results],
        [dataclasses.replace(peer, latency_ms=times[peer.name]) for peer in peers],
        conclusion and {**conclusion, "latency_ms": times.get(WINNER)},
        {**describe_machine(), "unsteady": any(timing.unsteady for timing in timings)},
    )


def _text(value: object) -> str:
    """The text of a cell; `((8, 8), (16, 16))` becomes `8x8/16x16`."""
    if isinstance(value, tuple):
        return "/".join("x".join(map(str, entry)) if isinstance(entry, tuple) else str(entry) for entry in value)
    return str(value)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def peer_table(report: Report) -> Table:
    """The winner as trained by `conclude` and the networks to compare with; the first row holds the headings."""
    table = [["network", "int8 bytes", "ms", "test accuracy"]]
    if report.conclusion:
        found = report.conclusion
        costs = [_number(found["int8_bytes"], ","), _number(found["latency_ms"], ".3g")]
        table.append([f"winner, trial {found['winner']}", *costs, f"{found['test_accuracy']:.4f}"])
    for peer in report.peers:
        table.append(
            [peer.name, f"{peer.int8_bytes:,}", _number(peer.latency_ms, ".3g"), _number(peer.accuracy, ".4f")]
        )
    return table


def finalist_table(report: Report) -> Table:
    """The finalists, best first; the first row holds the headings, the only row if there was no final round."""
    return [["trial", "accuracies", "mean"]] + [
        [
            finalist["id"],
            ", ".join(f"{accuracy:.4f}" for accuracy in finalist["accuracies"]),
            f"{statistics.mean(finalist['accuracies']):.4f}",
        ]
        for finalist in (report.conclusion or {}).get("finalists", [])
    ]


def trial_table(report: Report) -> Table:
    """The trials, best first; the first row holds the headings.

    The second column names the Pareto fronts that a trial is on: accuracy and bytes, accuracy and time, or both.
    """
    fronts = {
        name: {result.id for result in trials.pareto_front(report.results, cost)}
        for name, cost in (("bytes", "int8_bytes"), ("time", "latency_ms"))
    }
    counts = ["epochs", "parameters", "multiply-adds"]
    of_space = functools.partial(trials.describe_choices, text=_text)
    describe = trials.describe_sharing if report.settings.get("sharing") else of_space
    table = [["trial", "front", "accuracy", *counts, "float32 bytes", "int8 bytes", "ms", "network"]]
    for result in sorted(report.results, key=lambda result: -(result.accuracy or 0)):
        accuracy = "failed"
        if result.state == "finished":
            accuracy = f"{result.accuracy:.4f}{'' if result.within_budget else ' (over)'}"
        table.append(
            [
                result.id,
                ", ".join(name for name, ids in fronts.items() if result.id in ids),
                accuracy,
                str(result.epochs),
                f"{result.parameters:,}",
                f"{result.multiply_adds:,}",
                _number(result.float32_bytes, ","),
                _number(result.int8_bytes, ","),
                _number(result.latency_ms, ".3g"),
                describe(result.choices),
            ]
        )
    return table


def effects(report: Report) -> list[dict[str, Any]]:
    """Number of trials, mean accuracy and highest accuracy for each value of the arguments that vary.

    Only the trials with the most epochs count: accuracies after fewer epochs are not comparable with theirs.
    """
    found = {}
    for result in trials.longest(report.results):
        for name, value in [("network", result.name), *result.choices.items()]:
            found.setdefault(name, {}).setdefault(_text(value), []).append(result.accuracy)
    return [
        {
            "argument": name,
            "value": value,
            "trials": len(accuracies),
            "mean_accuracy": statistics.mean(accuracies),
            "highest_accuracy": max(accuracies),
        }
        for name, by_value in found.items()
        if len(by_value) > 1
        for value, accuracies in sorted(by_value.items(), key=lambda entry: -statistics.mean(entry[1]))
    ]


def to_dict(report: Report) -> dict[str, Any]:
    """The contents of `report.json`."""
    return {
        "settings": report.settings,
        "machine": report.machine,
        "winner": report.winner and report.winner.id,
        "conclusion": report.conclusion,
        "command": report.command,
        "pareto_bytes": [result.id for result in trials.pareto_front(report.results, "int8_bytes")],
        "pareto_latency": [result.id for result in trials.pareto_front(report.results, "latency_ms")],
        "effects": effects(report),
        "references": [dataclasses.asdict(peer) | {"file": str(peer.file)} for peer in report.peers],
        "trials": [dataclasses.asdict(result) for result in report.results],
    }


def _tables(report: Report) -> dict[str, Table]:
    """The tables by heading."""
    tables = {"Comparison with other networks": peer_table(report)}
    finalists, found = finalist_table(report), effects(report)
    if len(finalists) > 1:
        tables["Finalists: accuracies on several held-out parts"] = finalists
    tables["Trials (front: Pareto-optimal in bytes or time)"] = trial_table(report)
    if found:
        epochs = trials.longest(report.results)[0].epochs
        rows = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in found]
        head = ["choice", "value", "trials", "mean accuracy", "highest accuracy"]
        tables[f"Effects of the choices in trials of {epochs} epochs"] = [head, *rows]
    return tables


def _outcome(report: Report) -> str:
    """The winner in a sentence."""
    best, conclusion = report.winner, report.conclusion
    if best is None:
        return "No trial has finished with a network within the limits."
    text = f"Winner: trial {best.id}, validation accuracy {best.accuracy:.4f}, {best.parameters:,} parameters."
    if conclusion is not None:
        text += f" Retrained on the whole training split: test accuracy {conclusion['test_accuracy']:.4f}"
        if conclusion["int8_bytes"] is not None:
            text += f"; int8 file: {conclusion['int8_test_accuracy']:.4f}, {conclusion['int8_bytes']:,} bytes"
        text += "."
    return text


def write(report: Report) -> str:
    """Writes `report.md`, figures, `report.json` and `report.html` to the folder; returns the text of `report.md`."""
    folder, outcome, command, tables = report.folder, _outcome(report), report.command, _tables(report)
    images = {
        heading: draw_front(report.results, report.peers, cost=cost, label=label, divisor=divisor, unit=unit)
        for heading, (cost, label, divisor, unit) in FIGURES.items()
        if trials.pareto_front(report.results, cost)
    }
    parts = [f"# {report.title}", report.note, outcome]
    parts += [f"```shell\n{command}\n```"] if command else []
    for heading, image in images.items():
        name = f"{FIGURES[heading][0]}.png"
        files.write_bytes(folder / name, image)
        parts.append(f"![{heading}]({name})")
    parts += [f"## {heading}\n\n{markdown_table(table)}" for heading, table in tables.items()]
    text = "\n\n".join(parts) + "\n"
    files.write_text(folder / "report.md", text)
    files.write_json(folder / "report.json", to_dict(report))
    sections: dict[str, Section] = {"Winner": f"{outcome}\n\n{command}" if command else outcome}
    sections["Accuracy against cost"] = list(images.values())
    files.write_text(folder / "report.html", page(report.title, report.note, {**sections, **tables}))
    return text


def draw_front(
    results: Sequence[trials.Result], peers: Sequence[Peer], *, cost: str, label: str, divisor: float, unit: str
) -> bytes:
    """Plots the candidates of a search with their Pareto front, joined and labeled, and the networks to compare with.

    Trials of fewer epochs appear only if they are on the front, as open circles. The axes fit the trials without
    outliers: a line below lists what is outside, and networks of unknown accuracy.

    Args:
        results: trials; at least one must be a candidate with this cost.
        peers: networks to compare with.
        cost: `"int8_bytes"` or `"latency_ms"`.
        label: label of the axis.
        divisor, unit: number to divide the costs by, and the unit of the quotients.

    Returns:
        A PNG file.
    """
    # Narrow enough that the text stays readable on a phone.
    figure = figures.new_figure(5, 4.2)
    axes = figure.subplots()
    front, full = trials.pareto_front(results, cost), trials.longest(results)
    known = [result for result in trials.candidates(results) if getattr(result, cost) is not None]
    shown = [result for result in known if result in full or result in front]

    def place(each: trials.Result | Peer) -> tuple[float, float]:
        return getattr(each, cost) / divisor, _checks.known("accuracy", each.accuracy)

    for result in shown:
        color = figures.BLUE if result in front else figures.GRAY
        axes.scatter(*place(result), edgecolors=color, facecolors=color if result in full else "white", s=30, zorder=3)
    axes.step(*zip(*map(place, front), strict=True), where="post", color=figures.BLUE, linewidth=1.2, zorder=2)
    within = [peer for peer in peers if peer.accuracy is not None and _near(peer, shown, cost)]
    for peer in within:
        axes.scatter(*place(peer), marker="s", s=32, zorder=3, color=figures.ORANGE)
    axes.set_xscale("log")
    figures.log_ticks(axes.xaxis)
    figures.percent(axes.yaxis)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy on held-out images")
    accuracies = [place(each)[1] for each in (*shown, *within)]
    low = min(figures.usual_range(accuracies)[0], *(place(each)[1] for each in (*front, *within)))
    margin = 0.08 * (max(accuracies) - low) or 0.01
    axes.set_ylim(low - margin, max(accuracies) + 2 * margin)
    lines = ["blue: Pareto front" + ("" if all(result in full for result in front) else "; open circles: fewer epochs")]
    counts = {
        "with fewer epochs": len(known) - len(shown),
        f"below {low:.0%}": sum(accuracy < low for accuracy in accuracies),
    }
    lines += [f"trials not shown: {count} {what}" for what, count in counts.items() if count]
    for peer in peers:
        if peer not in within:
            at = "accuracy unknown" if peer.accuracy is None else f"{peer.accuracy:.1%}"
            value = getattr(peer, cost) / divisor
            lines.append(f"not shown: {peer.name} at {value:{',.0f' if value >= 1000 else '.4g'}} {unit}, {at}")
    figures.caption(figure, "\n".join(lines))
    figures.frame(axes)
    names = [result.id for result in front] + [f"{peer.name}, test" for peer in within]
    across, up = zip(*map(place, [*front, *within]), strict=True)
    nameless = [place(result) for result in shown if result not in front]
    figures.name_points(figure, axes, across, up, names, nameless=nameless)
    return figures.png(figure, dpi=180)


def _near(peer: Peer, shown: Sequence[trials.Result], cost: str) -> bool:
    """Whether the cost of a network is within a factor of three of the costs of the trials."""
    costs = [getattr(result, cost) for result in shown]
    return min(costs) / 3 <= getattr(peer, cost) <= 3 * max(costs)
