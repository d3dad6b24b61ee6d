"""Writes report.html into the folder of a run: figures, curves and which classes are taken for which.

python -m trainers report runs/mine
"""

import pathlib

import numpy as np

import keras_sharenets as ksn
from keras_sharenets import analysis, files
from keras_sharenets.cli.arguments import add_data_arguments
from keras_sharenets.rendering.page import COUNTS, page
from keras_sharenets.training.recipes.named import changed_fields
from keras_sharenets.training.reports.confusion import confusion_matrix, draw_confusion, most_confused
from keras_sharenets.training.reports.evaluate import predict_test_split
from keras_sharenets.training.reports.plots import draw_curves
from keras_sharenets.training.run.finished import load_run_data, network_file, open_run, tested_crops


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN_DIR", help="folder of the run")
    add_data_arguments(parser, required=False)


def run(args):
    """Tests the network of the last epoch again and prints where the page is."""
    trained = open_run(args.run)
    dataset = load_run_data(args, args.run, trained)
    path = pathlib.Path(args.run) / "report.html"
    files.write_text(path, report_page(trained, args.run, dataset))
    print(f"report: {path}")


def report_page(run, folder, dataset):
    """The page about a `Run` in `folder`, whose data is `dataset`, as HTML."""
    profile = ksn.profile(files.load_model(network_file(folder)))
    guesses = predict_test_split(network_file(folder), dataset, tested_crops(run)).argmax(axis=1)
    matrix = confusion_matrix(dataset.test.labels, guesses, len(dataset.class_names))
    correct = int(np.trace(matrix))
    changed = ", ".join(f"{name} {getattr(run.recipe, name)}" for name in changed_fields(run.recipe))
    minutes, seconds = divmod(round(run.seconds), 60)
    rows = [
        ("test accuracy, last epoch", f"{correct / matrix.sum():.4f} ({correct} of {matrix.sum()})"),
        ("best epoch, chosen on the test split", f"{run.best.epoch} ({run.best.test_accuracy:.4f})"),
        ("epochs", f"{len(run.epochs)} of {run.recipe.epochs}, run {run.state}"),
        ("recipe", f"{run.recipe.name}: {run.recipe.source}"),
        ("changed in it", changed or "nothing"),
        ("stored parameters", f"{profile.stored_parameters:,}"),
        ("effective parameters", f"{profile.effective_parameters:,}"),
        ("multiply-adds", f"{profile.multiply_adds:,}"),
        ("training time", f"{minutes} min {seconds} s, seed {run.seed}, {run.backend} backend"),
        *(("mistake", words) for words in most_confused(matrix, dataset.class_names)),
    ]
    sections = {
        "": rows,
        "Training": draw_curves(run),
        "Which classes are taken for which": draw_confusion(
            matrix, dataset.class_names, f"{run.model} on {run.data['name']}, test split"
        ),
        COUNTS: analysis.to_text(profile),
    }
    return page(f"{run.model} on {run.data['name']}", f"{dataset.note}.", sections)
