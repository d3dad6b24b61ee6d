"""Which classes a network takes for which."""

import io

import numpy as np
from matplotlib.figure import Figure

NUMBERED = 20  # Classes up to which counts and names are written.


def confusion_matrix(labels, guesses, classes):
    """Pictures by class and guess.

    Args:
        labels, guesses: int arrays `(n,)`.
        classes: int, their number.

    Returns:
        An int array `(classes, classes)`, a row for each right class, a column for each guess.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (labels, guesses), 1)
    return matrix


def most_confused(matrix, class_names, count=5):
    """The most frequent mistakes as lines of text, the worst first."""
    wrong = matrix - np.diag(np.diag(matrix))
    worst = [index for index in np.argsort(-wrong, axis=None, kind="stable")[:count] if wrong.flat[index]]
    pairs = [divmod(int(index), len(class_names)) for index in worst]
    return [f"{class_names[row]} taken for {class_names[column]}: {wrong[row, column]}" for row, column in pairs]


def draw_confusion(matrix, class_names, title):
    """A confusion matrix as a PNG file; each row is coloured by its shares.

    Args:
        matrix: as `confusion_matrix` returns it.
        class_names: sequence of str.
        title: str.

    Returns:
        bytes: a PNG file.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    numbered = len(matrix) <= NUMBERED
    side = max(4.5, 0.55 * len(matrix) + 2) if numbered else 8
    figure = Figure(figsize=(side + 0.6, side), dpi=120, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("what the network says")
    axes.set_ylabel("what it is")
    axes.set_title(title, loc="left", fontsize=11)
    if numbered:
        axes.set_xticks(range(len(matrix)), class_names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(matrix)), class_names)
        for row, column in np.ndindex(matrix.shape):
            colour = "white" if shares[row, column] > 0.5 else "#1f2933"
            if matrix[row, column]:
                axes.text(column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the class")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
