"""What a search found: a table, the effects of the choices, and the command that trains the winner in full."""

import dataclasses
import json
import shlex
import statistics

from keras_sharenets.machine import describe_machine
from keras_sharenets.search import trials
from keras_sharenets.search.conclusion import FOLDER as WINNER
from keras_sharenets.search.conclusion import read_conclusion
from keras_sharenets.search.measuring import latencies
from keras_sharenets.search.references import Reference
from keras_sharenets.search.search import SETTINGS
from keras_sharenets.training.recipes.named import changed_fields
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.reports.rerun import fit_words


@dataclasses.dataclass(frozen=True)
class Report:
    """A search, as far as it has come.

    Attributes:
        folder: path.
        settings: dict, what was asked for.
        results: list of `Result`.
        references: list of `Reference`.
        conclusion: dict as `keras_sharenets.search.conclusion` writes it, or `None`.
        machine: dict, what the times were measured on.
    """

    folder: object
    settings: dict
    results: list
    references: list[Reference]
    conclusion: dict | None
    machine: dict

    @property
    def title(self):
        """One line that says what was searched."""
        settings = self.settings
        return f"{settings['space']} on {settings['data']['name']}: {len(self.results)} trials, {settings['tuner']}"

    @property
    def winner(self):
        """The `Result` that the search concluded with; before that the best one, `None` if there is none."""
        if self.conclusion is None:
            return next(iter(trials.ranked(self.results)), None)
        return next(result for result in self.results if result.id == self.conclusion["winner"])

    @property
    def note(self):
        """What the figures are, in some sentences."""
        settings = self.settings
        limits = {name: value for name, value in settings.items() if name.startswith("max_") and value is not None}
        budget = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in limits.items()) or "none"
        recipe, held = Recipe(**settings["recipe"]), settings["validation"]
        changes = [f"{name} {getattr(recipe, name)}" for name in changed_fields(recipe)] or [f"{recipe.epochs} epochs"]
        return (
            f"{settings['data']['note']}. Limits: {budget}. Recipe {recipe.name}, {', '.join(changes)}. Seed "
            f"{settings['seed']}. Trials are trained on {1 - held:.0%} of the {settings['data']['train']:,} pictures "
            f"of the training split; their accuracies are those on the other {held:.0%}. Bytes and time are those of "
            "the int8 file; time: LiteRT, one thread, one picture, the median of each file, all files in turns when "
            f"this report was made, on {self.machine['processor']}, {self.machine['cores']} cores."
        )


def load(folder):
    """The `Report` on the search in a folder, without references; a `ValueError` if there is none."""
    path = folder / SETTINGS
    if not path.is_file():
        raise ValueError(f"There is no {path}: {folder} holds no search.")
    settings = json.loads(path.read_text())
    return Report(folder, settings, trials.read_all(folder), [], read_conclusion(folder), describe_machine())


def measured(report):
    """The report with times measured now: those of the search were taken at different times."""
    finished = [result for result in report.results if result.state == "finished"]
    paths = [report.folder / result.id / "int8.tflite" for result in finished]
    paths += [reference.file for reference in report.references]
    paths += [report.folder / WINNER / "int8.tflite"] if report.conclusion else []
    times = iter(latencies([path.read_bytes() for path in paths]))
    by_id = {result.id: next(times) for result in finished}
    return dataclasses.replace(
        report,
        results=[dataclasses.replace(result, latency_ms=by_id.get(result.id)) for result in report.results],
        references=[dataclasses.replace(reference, latency_ms=next(times)) for reference in report.references],
        conclusion=report.conclusion and {**report.conclusion, "latency_ms": next(times)},
    )


def beside(report):
    """The winner as `conclude` trained it and the networks to compare with, as cells under a line of headings."""
    table = [["network", "int8 bytes", "ms", "test accuracy"]]
    if report.conclusion:
        found = report.conclusion
        costs = [f"{found['int8_bytes']:,}", f"{found['latency_ms']:.3g}", f"{found['test_accuracy']:.4f}"]
        table.append([f"winner, trial {found['winner']}", *costs])
    for reference in report.references:
        accuracy = "" if reference.accuracy is None else f"{reference.accuracy:.4f}"
        table.append([reference.name, f"{reference.int8_bytes:,}", f"{reference.latency_ms:.3g}", accuracy])
    return table


def last_round(report):
    """The finalists, the best first, as cells under a line of headings; headings alone if there was no last round."""
    finalists = (report.conclusion or {}).get("finalists", [])
    head = ["trial", "accuracies", "mean"]
    return [head] + [
        [
            finalist["id"],
            ", ".join(f"{accuracy:.4f}" for accuracy in finalist["accuracies"]),
            f"{statistics.mean(finalist['accuracies']):.4f}",
        ]
        for finalist in finalists
    ]


def rows(report):
    """The trials as cells, the best first, under a line of headings.

    The second column says on which front a trial is: that of accuracy and bytes, that of accuracy and time, or both.
    """
    fronts = {
        name: {result.id for result in trials.pareto_front(report.results, cost)}
        for name, cost in (("bytes", "int8_bytes"), ("time", "latency_ms"))
    }
    head = [
        "trial",
        "front",
        "accuracy",
        "epochs",
        "parameters",
        "multiply-adds",
        "float32 bytes",
        "int8 bytes",
        "ms",
        "network",
    ]
    table = [head]
    for result in sorted(report.results, key=lambda result: -(result.accuracy or 0)):
        on = ", ".join(name for name, ids in fronts.items() if result.id in ids)
        counts = [f"{result.parameters:,}", f"{result.multiply_adds:,}"]
        measured = ["failed", "", "", ""]
        if result.state == "finished":
            over = "" if result.within_budget else " (over)"
            measured = [f"{result.accuracy:.4f}{over}", f"{result.float32_bytes:,}", f"{result.int8_bytes:,}"]
            measured.append(f"{result.latency_ms:.3g}")
        accuracy, *costs = measured
        network = ", ".join(f"{name} {_text(value)}" for name, value in result.choices.items())
        table.append([result.id, on, accuracy, str(result.epochs), *counts, *costs, network])
    return table


def effects(report):
    """`[(argument, value, trials, mean accuracy, highest accuracy)]` for arguments that vary.

    Only trials count that were trained longest: the others are no measure of a network's value beside them.
    """
    found = {}
    for result in trials.longest(report.results):
        for name, value in [("network", result.name), *result.choices.items()]:
            found.setdefault(name, {}).setdefault(_text(value), []).append(result.accuracy)
    return [
        (name, value, len(accuracies), statistics.mean(accuracies), max(accuracies))
        for name, by_value in found.items()
        if len(by_value) > 1
        for value, accuracies in sorted(by_value.items(), key=lambda entry: -statistics.mean(entry[1]))
    ]


def full_training(report):
    """The command that trains the winner of a search on the whole training split; `None` if there is no winner."""
    best = report.winner
    if best is None:
        return None
    words = fit_words(best.name, best.choices, report.settings["source"], Recipe(**report.settings["recipe"]))
    return shlex.join([*words, "--seed", str(report.settings["seed"]), "--output", str(report.folder / "fit")])


def _text(value):
    """`((8, 8), (16, 16))` as `8x8/16x16`."""
    if isinstance(value, tuple):
        return "/".join("x".join(map(str, entry)) if isinstance(entry, tuple) else str(entry) for entry in value)
    return str(value)


def to_dict(report):
    """What `report.json` holds."""
    best = report.winner
    return {
        "settings": report.settings,
        "machine": report.machine,
        "winner": best and best.id,
        "conclusion": report.conclusion,
        "command": full_training(report),
        "pareto_bytes": [result.id for result in trials.pareto_front(report.results, "int8_bytes")],
        "pareto_latency": [result.id for result in trials.pareto_front(report.results, "latency_ms")],
        "effects": [
            dict(zip(("argument", "value", "trials", "mean_accuracy", "highest_accuracy"), effect, strict=True))
            for effect in effects(report)
        ],
        "references": [
            dataclasses.asdict(reference) | {"file": str(reference.file)} for reference in report.references
        ],
        "trials": [dataclasses.asdict(result) for result in report.results],
    }
