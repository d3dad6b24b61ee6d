"""Write report.html on a run or a search into its folder.

sharenets report runs/mine
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_sharenets.cli.arguments import add_data_arguments, data_source, load_data
from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths
from keras_sharenets.timing import in_words

if TYPE_CHECKING:
    import numpy as np

    from keras_sharenets.training.data.dataset import Dataset
    from keras_sharenets.training.run.record import Run

WORST = 10  # Number of confused class pairs to list.
WRONG_IMAGES = 30  # Number of misclassified images to show, most confident first.
NAMED_CLASSES = 20  # Maximum number of classes for a confusion matrix with counts and names.
_SIDE = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="RUN_DIR|SEARCH_DIR", help="folder of the run or of the search")
    add_data_arguments(parser, required=False, note="Default: the data of the run or search.")


def check(arguments: argparse.Namespace) -> None:
    check_paths(arguments.folder)


def run(arguments: argparse.Namespace) -> Answer:
    """Reports metrics, curves, classes, and misclassified images; evaluates the network of the last epoch again."""
    from keras_sharenets import files
    from keras_sharenets.cli import search_report
    from keras_sharenets.search import settings
    from keras_sharenets.training.run.finished import check_classes, open_run

    folder = pathlib.Path(arguments.folder)
    if (folder / settings.FILE).is_file():
        return search_report.run(arguments)
    trained = open_run(folder)
    dataset = load_data(data_source(arguments, trained.source))
    check_classes(dataset, folder, trained)
    html, figures = report_page(trained, folder, dataset)
    path = folder / "report.html"
    files.write_text(path, html)
    return Answer(f"report: {path}", figures | {"report": str(path)})


def report_page(run: Run, folder: pathlib.Path, dataset: Dataset) -> tuple[str, dict[str, object]]:
    """The report on the run in `folder` as HTML, and its metrics as data for JSON."""
    from sklearn.metrics import classification_report, confusion_matrix

    import keras_sharenets as ksn
    from keras_sharenets import analysis, files
    from keras_sharenets.rendering.page import COUNTS, Confusion, page
    from keras_sharenets.training.data.dataset import chunks
    from keras_sharenets.training.recipes.named import describe_changes
    from keras_sharenets.training.reports.evaluate import count_top5, predict_test_split
    from keras_sharenets.training.reports.plots import draw_confusion, draw_loss_and_accuracy, show_predictions
    from keras_sharenets.training.run.finished import network_file, tested_crops
    from keras_sharenets.training.run.record import FEW_CLASSES

    profile = ksn.profile(files.load_model(network_file(folder)))
    labels = dataset.test.labels
    probabilities = predict_test_split(network_file(folder), dataset, tested_crops(run.recipe))
    guesses = probabilities.argmax(axis=1)
    classes = range(len(dataset.class_names))
    top5 = [count_top5(probabilities, labels) / len(labels)] if len(classes) > FEW_CLASSES else []
    matrix = confusion_matrix(labels, guesses, labels=classes)
    by_class = {"labels": classes, "target_names": dataset.class_names, "zero_division": 0}
    correct, count = int(matrix.trace()), int(matrix.sum())
    pairs = most_confused(matrix, dataset.class_names)
    wrong = most_confident_mistakes(probabilities, labels)
    facts = dict(
        [
            ("test accuracy, last epoch", f"{correct / count:.4f} ({correct} of {count})"),
            ("test error, last epoch", f"{1 - correct / count:.4f}"),
            *(("top-5 accuracy, last epoch", f"{share:.4f}") for share in top5),
            (f"best epoch, chosen on the {run.split} split", f"{run.best.epoch} ({run.best.held_out_accuracy:.4f})"),
            ("epochs", f"{len(run.epochs)} of {run.recipe.epochs}, run {run.state}"),
            ("recipe", f"{run.recipe.name}: {run.recipe.source}"),
            ("changed fields", ", ".join(describe_changes(run.recipe).values()) or "none"),
            ("stored parameters", f"{profile.stored_parameters:,}"),
            ("effective parameters", f"{profile.effective_parameters:,}"),
            ("multiply-adds", f"{profile.multiply_adds:,}"),
            ("training time", f"{in_words(run.seconds)}, seed {run.seed}, {run.backend} backend"),
        ]
    )
    title = f"{run.model} on {run.data['name']}"
    sections = {
        "": facts,
        "Training": draw_loss_and_accuracy(run),
        "Precision and recall by class": class_table(labels, guesses, dataset.class_names),
        "Confusion matrix, test split": Confusion(dataset.class_names, matrix.tolist())
        if len(classes) <= NAMED_CLASSES
        else draw_confusion(matrix, title),
        "Most frequent mistakes": [("true class", "predicted class", "images"), *pairs] if pairs else [],
    }
    if len(wrong):
        heading = f"Misclassified images: {len(wrong)} of {count - correct}, most confident first"
        images = [_thumbnail(image) for few in chunks(dataset.test.part(wrong)) for image in few]
        sections[heading] = show_predictions(images, labels[wrong], probabilities[wrong], dataset.class_names)
    sections[COUNTS] = analysis.to_text(profile)
    figures = {
        "test_accuracy": correct / count,
        "test_error_rate": 1 - correct / count,
        "test_top5_accuracy": top5[0] if top5 else None,
        "test_correct": correct,
        "test_images": count,
        "class_names": list(dataset.class_names),
        "confusion_matrix": matrix.tolist(),
        "classes": classification_report(labels, guesses, output_dict=True, **by_class),
        "stored_parameters": profile.stored_parameters,
        "effective_parameters": profile.effective_parameters,
        "multiply_adds": profile.multiply_adds,
    }
    return page(title, f"{dataset.note}.", sections), figures


def _thumbnail(image: np.ndarray) -> np.ndarray:
    """An image of at most `_SIDE` pixels per side: thirty photos of many megapixels would take gigabytes."""
    from keras_sharenets.training.data.augmentation import resized

    scale = min(_SIDE / max(image.shape[:2]), 1)
    return resized(image, (max(round(scale * image.shape[0]), 1), max(round(scale * image.shape[1]), 1)))


def class_table(labels: np.ndarray, guesses: np.ndarray, class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """Number, name, precision, recall, and F1 of each class and their means over the classes, below a header row."""
    import numpy as np
    from sklearn.metrics import precision_recall_fscore_support

    classes = range(len(class_names))
    *shares, images = precision_recall_fscore_support(labels, guesses, labels=classes, zero_division=0)
    table = [*zip(*shares, strict=True), np.mean(shares, axis=1)]
    rows = zip([*map(str, classes), ""], [*class_names, "mean"], table, [*images, images.sum()], strict=True)
    cells = [(number, name, *(f"{share:.4f}" for share in row), f"{count:,}") for number, name, row, count in rows]
    return [("number", "class", "precision", "recall", "F1", "images"), *cells]


def most_confident_mistakes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The indices of misclassified images, most confident first."""
    import numpy as np

    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")[:WRONG_IMAGES]]


def most_confused(matrix: np.ndarray, class_names: Sequence[str]) -> list[tuple[str, str, str]]:
    """The most frequent mistakes, worst first: true class, predicted class, number of images."""
    import numpy as np

    wrong = matrix - np.diag(np.diag(matrix))
    worst = [index for index in np.argsort(-wrong, axis=None, kind="stable")[:WORST] if wrong.flat[index]]
    pairs = [divmod(int(index), len(class_names)) for index in worst]
    return [(class_names[row], class_names[column], f"{wrong[row, column]:,}") for row, column in pairs]
