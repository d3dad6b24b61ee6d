"""What a search found: a table, the effects of the choices, and the command that trains the winner in full."""

import dataclasses
import json
import shlex
import statistics

from trainers.recipes import Recipe, changed_fields
from tuning import trials
from tuning.conclusion import read_conclusion
from tuning.references import Reference
from tuning.search import SETTINGS


@dataclasses.dataclass(frozen=True)
class Report:
    """A search, as far as it has come.

    Attributes:
        folder: path.
        settings: dict, what was asked for.
        results: list of `Result`.
        references: list of `Reference`.
        conclusion: dict as `tuning.conclusion` writes it, or `None`.
    """

    folder: object
    settings: dict
    results: list
    references: list[Reference]
    conclusion: dict | None

    @property
    def title(self):
        """One line that says what was searched."""
        settings = self.settings
        return f"{settings['space']} on {settings['data']['name']}: {len(self.results)} trials, {settings['tuner']}"

    @property
    def note(self):
        """What the figures are, in some sentences."""
        settings = self.settings
        limits = {name: value for name, value in settings.items() if name.startswith("max_") and value is not None}
        budget = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in limits.items()) or "none"
        return (
            f"{settings['data']['note']}. Limits: {budget}. Seed {settings['seed']}. Accuracies of trials are those on "
            f"{settings['validation']:.0%} of the training split, held out. Bytes and time are those of the exported "
            "int8 file of the trained network; time: LiteRT on the machine of the search, one thread, median."
        )


def load(folder, references=()):
    """The `Report` on the search in a folder; a `ValueError` if there is none."""
    path = folder / SETTINGS
    if not path.is_file():
        raise ValueError(f"There is no {path}: {folder} holds no search.")
    settings = json.loads(path.read_text())
    return Report(folder, settings, trials.read_all(folder), list(references), read_conclusion(folder))


def rows(report):
    """The trials as cells, the best first, under a line of headings; the first cell says where a trial stands.

    `*`: on the Pareto front of accuracy and bytes, `+`: of accuracy and time.
    """
    fronts = {
        mark: {result.id for result in trials.pareto_front(report.results, cost)}
        for mark, cost in (("*", "int8_bytes"), ("+", "latency_ms"))
    }
    head = [
        "trial",
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
        marks = "".join(mark for mark, ids in fronts.items() if result.id in ids)
        counts = [f"{result.parameters:,}", f"{result.multiply_adds:,}"]
        measured = ["failed", "", "", ""]
        if result.state == "finished":
            over = "" if result.within_budget else " (over)"
            measured = [f"{result.accuracy:.4f}{over}", f"{result.float32_bytes:,}", f"{result.int8_bytes:,}"]
            measured.append(f"{result.latency_ms:.3g}")
        accuracy, *costs = measured
        network = ", ".join(f"{name} {_text(value)}" for name, value in result.choices.items())
        table.append([f"{result.id} {marks}".strip(), accuracy, str(result.epochs), *counts, *costs, network])
    return table


def effects(report):
    """`[(argument, value, trials, mean accuracy, highest accuracy)]` of the candidates, for arguments that vary."""
    found = {}
    for result in trials.candidates(report.results):
        for name, value in [("network", result.name), *result.choices.items()]:
            found.setdefault(name, {}).setdefault(_text(value), []).append(result.accuracy)
    return [
        (name, value, len(accuracies), statistics.mean(accuracies), max(accuracies))
        for name, by_value in found.items()
        if len(by_value) > 1
        for value, accuracies in sorted(by_value.items(), key=lambda entry: -statistics.mean(entry[1]))
    ]


def full_training(folder):
    """The command that trains the winner of a search on the whole training split; `None` if there is no winner."""
    report = load(folder)
    best = trials.winner(report.results)
    if best is None:
        return None
    source, recipe = report.settings["source"], Recipe(**report.settings["recipe"])
    words = ["python", "-m", "trainers", "fit", "--model", best.name]
    for name, value in best.choices.items():
        words += ["--model-option", f"{name}={value!r}"]
    words += ["--data", source["data"]]
    for name in ("data_dir", "input_shape", "skip_unreadable"):
        if source[name]:
            words += _option(name, source[name])
    words += ["--recipe", recipe.name]
    for name in changed_fields(recipe):
        words += _option(name, getattr(recipe, name))
    words += ["--seed", str(report.settings["seed"]), "--output", str(folder / "fit")]
    return shlex.join(words)


def _option(name, value):
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    return [f"--{flag}", *map(str, value if isinstance(value, (list, tuple)) else [value])]


def _text(value):
    """`((8, 8), (16, 16))` as `8x8/16x16`."""
    if isinstance(value, tuple):
        return "/".join("x".join(map(str, entry)) if isinstance(entry, tuple) else str(entry) for entry in value)
    return str(value)


def to_dict(report):
    """What `report.json` holds."""
    best = trials.winner(report.results)
    return {
        "settings": report.settings,
        "winner": best and best.id,
        "conclusion": report.conclusion,
        "command": full_training(report.folder),
        "pareto_bytes": [result.id for result in trials.pareto_front(report.results, "int8_bytes")],
        "pareto_latency": [result.id for result in trials.pareto_front(report.results, "latency_ms")],
        "effects": [
            dict(zip(("argument", "value", "trials", "mean_accuracy", "highest_accuracy"), effect, strict=True))
            for effect in effects(report)
        ],
        "references": [dataclasses.asdict(reference) for reference in report.references],
        "trials": [dataclasses.asdict(result) for result in report.results],
    }
