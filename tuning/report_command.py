"""Report on a search, finished or not: a table in Markdown, `report.json` and `report.html`.

python -m tuning report runs/search
"""

import pathlib

from keras_sharenets import files
from trainers.data import load as load_data
from trainers.page import page
from trainers.recipe import Recipe
from trainers.tables import markdown_table
from tuning import report, trials
from tuning.front_picture import draw_front
from tuning.references import measure_references

_EFFECTS = ["choice", "value", "trials", "mean accuracy", "highest accuracy"]


def add_arguments(parser):
    parser.add_argument("folder", metavar="DIR", help="folder of the search")


def _outcome(found):
    """The winner in a sentence, and what trains it."""
    best, conclusion = trials.winner(found.results), found.conclusion
    if best is None:
        return "No trial has ended with a network within the limits.", None
    text = f"Winner: trial {best.id}, validation accuracy {best.accuracy:.4f}, {best.parameters:,} parameters."
    if conclusion is not None:
        text += (
            f" Trained anew on the whole training split: test accuracy {conclusion['test_accuracy']:.4f}, its int8 "
            f"file {conclusion['int8_test_accuracy']:.4f}, {conclusion['int8_bytes']:,} bytes."
        )
    return text, report.full_training(found.folder)


def run(args):
    """Prints the table; leaves `report.json` and `report.html` in the folder."""
    folder = pathlib.Path(args.folder)
    settings = report.load(folder).settings
    source, recipe = settings["source"], Recipe(**settings["recipe"])
    dataset = load_data(source.pop("data"), **source)
    found = report.load(folder, measure_references(folder, dataset, recipe))
    outcome, command = _outcome(found)
    table = report.rows(found)
    effects = [
        [name, value, str(count), f"{mean:.4f}", f"{best:.4f}"]
        for name, value, count, mean, best in report.effects(found)
    ]
    sections = {"Trials (* and +: none is better at the same bytes or time)": table}
    if command:
        pictures = {
            "Accuracy against stored bytes": ("int8_bytes", "size of the int8 file in kB (1000 bytes)", 1000),
            "Accuracy against time": ("latency_ms", "milliseconds for one picture, int8, one thread", 1),
        }
        drawn = {name: draw_front(found.results, found.references, *what) for name, what in pictures.items()}
        sections = {"Winner": f"{outcome}\n\n{command}", **drawn, **sections}
    if effects:
        sections["Effects of the choices"] = [_EFFECTS, *effects]
    files.write_json(folder / "report.json", report.to_dict(found))
    files.write_text(folder / "report.html", page(found.title, found.note, sections))
    print(f"# {found.title}\n\n{found.note}\n\n{markdown_table(table)}\n\n{outcome}")
    if effects:
        print(f"\n{markdown_table([_EFFECTS, *effects])}")
    if command:
        print(f"\n    {command}")
    print(f"\nreport: {folder / 'report.html'}")
