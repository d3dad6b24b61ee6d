"""Report on a search, finished or not: tables in Markdown, pictures, `report.json` and `report.html`.

python -m tuning report runs/search
"""

import dataclasses
import pathlib

from keras_sharenets import files
from keras_sharenets.rendering.page import page
from keras_sharenets.rendering.tables import markdown_table
from keras_sharenets.search import report, trials
from keras_sharenets.search.front_figure import draw_front
from keras_sharenets.search.references import make_references
from keras_sharenets.training.data.sources import load as load_data
from keras_sharenets.training.recipes.recipe import Recipe

PICTURES = {
    "Accuracy against stored bytes": ("int8_bytes", "size of the int8 file in kB (1000 bytes)", 1000),
    "Accuracy against time": ("latency_ms", "milliseconds for one picture, int8, one thread", 1),
}
_EFFECTS = ["choice", "value", "trials", "mean accuracy", "highest accuracy"]


def add_arguments(parser):
    parser.add_argument("folder", metavar="DIR", help="folder of the search")


def _outcome(found):
    """The winner in a sentence, and what trains it."""
    best, conclusion = found.winner, found.conclusion
    if best is None:
        return "No trial has ended with a network within the limits.", None
    text = f"Winner: trial {best.id}, validation accuracy {best.accuracy:.4f}, {best.parameters:,} parameters."
    if conclusion is not None:
        text += (
            f" Trained anew on the whole training split: test accuracy {conclusion['test_accuracy']:.4f}, its int8 "
            f"file {conclusion['int8_test_accuracy']:.4f}, {conclusion['int8_bytes']:,} bytes."
        )
    return text, report.full_training(found)


def run(args):
    """Prints what `report.md` holds; leaves that, its pictures, `report.json` and `report.html` in the folder."""
    folder = pathlib.Path(args.folder)
    found = report.load(folder)
    source, recipe = dict(found.settings["source"]), Recipe(**found.settings["recipe"])
    dataset = load_data(source.pop("data"), **source)
    found = report.measured(dataclasses.replace(found, references=make_references(folder, dataset, recipe)))
    outcome, command = _outcome(found)
    sections = {"Winner": f"{outcome}\n\n{command}" if command else outcome}
    if command:
        sections |= {heading: draw_front(found.results, found.references, *what) for heading, what in PICTURES.items()}
    sections |= _tables(found)
    for heading, (cost, *_) in PICTURES.items():
        if heading in sections:
            files.write_bytes(folder / f"{cost}.png", sections[heading])
    text = _markdown(found, outcome, command)
    files.write_text(folder / "report.md", text)
    files.write_json(folder / "report.json", report.to_dict(found))
    files.write_text(folder / "report.html", page(found.title, found.note, sections))
    print(f"{text}\nreport: {folder / 'report.html'}")


def _tables(found):
    """Headings with what is below them."""
    effects = [
        [name, value, str(count), f"{mean:.4f}", f"{best:.4f}"]
        for name, value, count, mean, best in report.effects(found)
    ]
    last_round = report.last_round(found)
    tables = {"Beside other networks": report.beside(found)}
    if len(last_round) > 1:
        tables["Finalists, their accuracies on several held-out parts"] = last_round
    tables["Trials (front: none is as accurate for less)"] = report.rows(found)
    if effects:
        epochs = trials.longest(found.results)[0].epochs
        tables[f"Effects of the choices, trials of {epochs} epochs"] = [_EFFECTS, *effects]
    return tables


def _markdown(found, outcome, command):
    """The report in Markdown, its pictures as files beside it."""
    parts = [f"# {found.title}", found.note, outcome]
    if command:
        parts.append(f"```shell\n{command}\n```")
        parts += [f"![{heading}]({cost}.png)" for heading, (cost, *_) in PICTURES.items()]
    for heading, table in _tables(found).items():
        parts += [f"## {heading}", markdown_table(table)]
    return "\n\n".join(parts) + "\n"
