"""The pictures of a training run: its curves, and what it makes of some pictures."""

import io
import math

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter

TRAIN, TEST, GRID, WRONG = "#9aa5b1", "#1f5fbf", "#e4e7eb", "#c62828"


def draw_curves(run):
    """Loss and accuracy of every epoch, training beside test split.

    Args:
        run: `Run` with at least one epoch.

    Returns:
        bytes: a PNG file.
    """
    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    _draw(loss, run.epochs, "loss")
    _draw(accuracy, run.epochs, "accuracy")
    # The first test losses can be far above all others: moving statistics take a while to follow young weights.
    loss.set_yscale("log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_locator(NullLocator())
    accuracy.set_ylim(top=1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    loss.set_title("Loss, with the penalty of the weight decay", loc="left", fontsize=11)
    accuracy.set_title("Accuracy", loc="left", fontsize=11)
    if run.last.test_accuracy is not None:
        accuracy.set_title(f"last epoch, test: {run.last.test_accuracy:.2%}", loc="right", fontsize=10, color=TEST)
    loss.legend(frameon=False)
    figure.suptitle(f"{run.model} on {run.data['name']}", fontsize=12)
    return _png(figure)


def draw_predictions(pictures, labels, probabilities, class_names, columns=10):
    """A grid of pictures, each with the class that comes first and its probability; wrong ones in red.

    Args:
        pictures: uint8 array `(n, height, width, channels)`.
        labels: int array `(n,)`, the right classes.
        probabilities: array `(n, classes)`.
        class_names: sequence of str.
        columns: int, pictures a row.

    Returns:
        bytes: a PNG file.
    """
    rows = math.ceil(len(pictures) / columns)
    figure = Figure(figsize=(columns, 1.25 * rows), dpi=120, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, picture, label, row in zip(grid, pictures, labels, probabilities, strict=False):
        axes.imshow(picture.squeeze(), cmap="gray_r" if picture.shape[-1] == 1 else None)
        best = int(row.argmax())
        text = f"{class_names[best]} {row[best]:.0%}"
        if best == label:
            axes.set_title(text, fontsize=8)
        else:
            axes.set_title(f"{text}\n(is {class_names[label]})", fontsize=8, color=WRONG)
    return _png(figure)


def _png(figure):
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw(axes, epochs, name):
    numbers = [epoch.epoch for epoch in epochs]
    marker = "o" if len(epochs) <= 20 else ""
    for key, label, colour in ((name, "training", TRAIN), (f"test_{name}", "test", TEST)):
        values = [getattr(epoch, key) for epoch in epochs]
        values = [float("nan") if value is None else value for value in values]
        axes.plot(numbers, values, label=label, color=colour, marker=marker, markersize=4, linewidth=1.8)
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, len(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
