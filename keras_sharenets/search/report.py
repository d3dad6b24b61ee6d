"""What a search found: tables, figures, the effects of the choices, and the command that trains the winner in full."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from keras_sharenets import _checks, files
from keras_sharenets.cli.fit import fit_words
from keras_sharenets.machine import describe_machine
from keras_sharenets.rendering import figures
from keras_sharenets.rendering.page import page
from keras_sharenets.rendering.tables import markdown_table
from keras_sharenets.search import settings as search_settings
from keras_sharenets.search import trials
from keras_sharenets.search.conclusion import FOLDER as WINNER
from keras_sharenets.search.conclusion import read_conclusion
from keras_sharenets.search.measuring import Peer, latencies, make_peers, writes_files
from keras_sharenets.training.data.sources import DataSource
from keras_sharenets.training.recipes.named import changed_fields
from keras_sharenets.training.recipes.recipe import Recipe

Table = list[list[str]]

FIGURES = {
    "Accuracy against stored bytes": ("int8_bytes", "size of the int8 file in kB (1000 bytes)", 1000),
    "Accuracy against time": ("latency_ms", "milliseconds for one image, int8, one thread", 1),
}


@dataclasses.dataclass(frozen=True)
class Report:
    """A search, as far as it has come.

    Attributes:
        folder: of the search.
        settings: what was asked for.
        results: of its trials.
        peers: networks of other papers to compare with.
        conclusion: as `keras_sharenets.search.conclusion` writes it, or `None`.
        machine: what the times were measured on.
    """

    folder: pathlib.Path
    settings: dict[str, Any]
    results: list[trials.Result]
    peers: list[Peer]
    conclusion: dict[str, Any] | None
    machine: dict[str, Any]

    @property
    def title(self) -> str:
        """One line that says what was searched."""
        settings = self.settings
        return f"{settings['space']} on {settings['data']['name']}: {len(self.results)} trials, {settings['tuner']}"

    @property
    def winner(self) -> trials.Result | None:
        """The trial that the search concluded with; before that the best one, `None` if there is none."""
        if self.conclusion is None:
            return next(iter(trials.ranked(self.results)), None)
        return next(result for result in self.results if result.id == self.conclusion["winner"])

    @property
    def note(self) -> str:
        """What the figures are, in some sentences."""
        settings = self.settings
        limits = {name: value for name, value in settings.items() if name.startswith("max_") and value is not None}
        budget = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in limits.items()) or "none"
        recipe, held = Recipe(**settings["recipe"]), settings["validation"]
        changes = [f"{name} {getattr(recipe, name)}" for name in changed_fields(recipe)] or [f"{recipe.epochs} epochs"]
        return (
            f"{settings['data']['note']}. Limits: {budget}. Recipe {recipe.name}, {', '.join(changes)}. Seed "
            f"{settings['seed']}. Trials are trained on {1 - held:.0%} of the {settings['data']['train']:,} images "
            f"of the training split; their accuracies are those on the other {held:.0%}. Bytes and time are those of "
            "the int8 file; time: LiteRT, one thread, one image, the median of each file, all files in turns when "
            f"this report was made, on {self.machine['processor']}, {self.machine['cores']} cores."
        )

    @property
    def command(self) -> str | None:
        """The command that trains the winner on the whole training split; `None` without a winner."""
        return self.winner and full_training(self.winner, self.folder, self.settings)


def full_training(best: trials.Result, folder: pathlib.Path, settings: Mapping[str, Any]) -> str:
    """The command that trains the network of a trial on the whole training split.

    Args:
        best: the trial.
        folder: of the search.
        settings: record of the search.
    """
    words = fit_words(best.name, best.choices, settings["source"], Recipe(**settings["recipe"]))
    return shlex.join([*words, "--seed", str(settings["seed"]), "--output", str(folder / "fit")])


def make_report(folder: pathlib.Path) -> Report:
    """The report on the search in a folder, with times measured now: those of the search were taken at different times.

    The files of the peers are made where they are not there yet.

    Raises:
        ValueError: the folder holds no search, or its data cannot be loaded.
    """
    settings = search_settings.read(folder)
    dataset = DataSource.from_record(settings["source"]).load()
    results, conclusion = trials.read_all(folder), read_conclusion(folder)
    peers = make_peers(folder, dataset, Recipe(**settings["recipe"])) if writes_files() else []
    paths = {result.id: folder / result.id / "int8.tflite" for result in results if result.int8_bytes is not None}
    paths |= {peer.name: peer.file for peer in peers}
    if conclusion and conclusion["int8_bytes"] is not None:
        paths[WINNER] = folder / WINNER / "int8.tflite"
    times = dict(zip(paths, latencies([path.read_bytes() for path in paths.values()]), strict=True)) if paths else {}
    return Report(
        folder,
        settings,
        [dataclasses.replace(result, latency_ms=times.get(result.id)) for result in results],
        [dataclasses.replace(peer, latency_ms=times[peer.name]) for peer in peers],
        conclusion and {**conclusion, "latency_ms": times.get(WINNER)},
        describe_machine(),
    )


def _text(value: object) -> str:
    """A cell; `((8, 8), (16, 16))` as `8x8/16x16`."""
    if isinstance(value, tuple):
        return "/".join("x".join(map(str, entry)) if isinstance(entry, tuple) else str(entry) for entry in value)
    return str(value)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def peer_table(report: Report) -> Table:
    """The winner as `conclude` trained it and the networks to compare with, under a line of headings."""
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
    """The finalists, the best first, under a line of headings; headings alone if there was no last round."""
    return [["trial", "accuracies", "mean"]] + [
        [
            finalist["id"],
            ", ".join(f"{accuracy:.4f}" for accuracy in finalist["accuracies"]),
            f"{statistics.mean(finalist['accuracies']):.4f}",
        ]
        for finalist in (report.conclusion or {}).get("finalists", [])
    ]


def trial_table(report: Report) -> Table:
    """The trials, the best first, under a line of headings.

    The second column says on which front a trial is: that of accuracy and bytes, that of accuracy and time, or both.
    """
    fronts = {
        name: {result.id for result in trials.pareto_front(report.results, cost)}
        for name, cost in (("bytes", "int8_bytes"), ("time", "latency_ms"))
    }
    counts = ["epochs", "parameters", "multiply-adds"]
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
                ", ".join(f"{name} {_text(value)}" for name, value in result.choices.items()),
            ]
        )
    return table


def effects(report: Report) -> list[dict[str, Any]]:
    """For arguments that vary, each value with its number of trials, mean accuracy and highest accuracy.

    Only trials count that were trained longest: the others are no measure of a network's value beside them.
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
    """What `report.json` holds."""
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
    """Headings with what is below them."""
    tables = {"Beside other networks": peer_table(report)}
    finalists, found = finalist_table(report), effects(report)
    if len(finalists) > 1:
        tables["Finalists, their accuracies on several held-out parts"] = finalists
    tables["Trials (front: none is as accurate for less)"] = trial_table(report)
    if found:
        epochs = trials.longest(report.results)[0].epochs
        rows = [[f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in found]
        head = ["choice", "value", "trials", "mean accuracy", "highest accuracy"]
        tables[f"Effects of the choices, trials of {epochs} epochs"] = [head, *rows]
    return tables


def _outcome(report: Report) -> str:
    """The winner in a sentence."""
    best, conclusion = report.winner, report.conclusion
    if best is None:
        return "No trial has ended with a network within the limits."
    text = f"Winner: trial {best.id}, validation accuracy {best.accuracy:.4f}, {best.parameters:,} parameters."
    if conclusion is not None:
        text += f" Trained anew on the whole training split: test accuracy {conclusion['test_accuracy']:.4f}"
        if conclusion["int8_bytes"] is not None:
            text += f", its int8 file {conclusion['int8_test_accuracy']:.4f}, {conclusion['int8_bytes']:,} bytes"
        text += "."
    return text


def write(report: Report) -> str:
    """Leaves `report.md`, its figures, `report.json` and `report.html` in the folder; returns the text of the first."""
    folder, outcome, command, tables = report.folder, _outcome(report), report.command, _tables(report)
    images = {
        heading: draw_front(report.results, report.peers, cost=cost, label=label, unit=unit)
        for heading, (cost, label, unit) in FIGURES.items()
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
    sections = {"Winner": f"{outcome}\n\n{command}" if command else outcome, **images, **tables}
    files.write_text(folder / "report.html", page(report.title, report.note, sections))
    return text


def draw_front(
    results: Sequence[trials.Result], peers: Sequence[Peer], *, cost: str, label: str, unit: float = 1
) -> bytes:
    """The candidates of a search, those on the Pareto front joined; networks to compare with beside them.

    Trials that were trained for a part of the epochs are shown on the front alone, as circles. A network to compare
    with whose accuracy is not known is a vertical line at what it costs.

    Args:
        results: at least one of them a candidate with this cost.
        peers: to compare with.
        cost: `"int8_bytes"` or `"latency_ms"`.
        label: of the axis.
        unit: what costs are divided by.

    Returns:
        A PNG file.
    """
    figure = figures.new_figure(7.5, 4.4)
    axes = figure.subplots()
    front, full = trials.pareto_front(results, cost), trials.longest(results)
    known = [result for result in trials.candidates(results) if getattr(result, cost) is not None]
    shown = [result for result in known if result in full or result in front]
    kinds = {}
    for result in shown:
        kinds.setdefault((result in front, result in full), []).append(result)
    for (on_front, in_full), group in sorted(kinds.items(), reverse=True):
        axes.scatter(
            [getattr(result, cost) / unit for result in group],
            [result.accuracy for result in group],
            edgecolors=figures.BLUE if on_front else figures.GRAY,
            facecolors=(figures.BLUE if on_front else figures.GRAY) if in_full else "white",
            s=30,
            zorder=3,
            label=("on the front" if on_front else "other trials") + ("" if in_full else ", fewer epochs"),
        )
    across = [getattr(result, cost) / unit for result in front]
    up = [_checks.known("accuracy", result.accuracy) for result in front]
    axes.step(across, up, where="post", color=figures.BLUE, linewidth=1.2, zorder=2)
    text: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8, "ha": "right"}
    for result, place in zip(front, across, strict=True):
        # Above and to the left of the front there is no trial.
        axes.annotate(result.id, (place, result.accuracy), (-4, 4), color=figures.DARK, **text)
    for index, peer in enumerate(peers):
        place = getattr(peer, cost) / unit
        if peer.accuracy is None:
            axes.axvline(place, linewidth=1, linestyle=":", zorder=1, color=figures.ORANGE)
            # The lines of others do not go through the name.
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            look = {"color": figures.ORANGE, "fontsize": 8, "ha": "right", "bbox": box, "zorder": 2}
            name = f"{peer.name}, accuracy unknown "
            axes.text(place, 0.04 + 0.07 * index, name, None, transform=axes.get_xaxis_transform(), **look)
        else:
            axes.scatter([place], [peer.accuracy], marker="s", s=32, zorder=3, color=figures.ORANGE)
            axes.annotate(f"{peer.name}, test split", (place, peer.accuracy), (-6, -3), color=figures.ORANGE, **text)
    axes.set_xscale("log")
    figures.log_ticks(axes.xaxis)
    figures.percent(axes.yaxis)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy on the held-out part")
    if any(peer.accuracy is None for peer in peers):
        # Room for their names below all trials.
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.35 * (high - low), high)
    left_out = len(known) - len(shown)
    title = f"{left_out} of fewer epochs left out" if left_out else None
    axes.legend(title=title, fontsize=8, title_fontsize=8, loc="best", framealpha=1)
    figures.frame(axes)
    return figures.png(figure)
