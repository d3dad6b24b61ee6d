"""The pictures of a training run: its curves, and what it makes of some pictures."""

import io
import math
from itertools import cycle

from matplotlib import rcParams
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
    _shape_panels(loss, accuracy)
    loss.set_title("Loss, with the penalty of the weight decay", loc="left", fontsize=11)
    accuracy.set_title("Accuracy", loc="left", fontsize=11)
    if run.last.test_accuracy is not None:
        accuracy.set_title(f"last epoch, test: {run.last.test_accuracy:.2%}", loc="right", fontsize=10, color=TEST)
    loss.legend(frameon=False)
    figure.suptitle(f"{run.model} on {run.data['name']}", fontsize=12)
    return _png(figure)


def draw_comparison(runs):
    """Loss and accuracy of several runs on their test splits, one colour a run.

    Args:
        runs: dict, name to `Run` with at least one epoch.

    Returns:
        bytes: a PNG file.
    """
    figure = Figure(figsize=(10, 4.4 + 0.2 * len(runs)), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2)
    colours = cycle(rcParams["axes.prop_cycle"].by_key()["color"])
    for (name, run), colour in zip(runs.items(), colours, strict=False):
        label = f"{name}: {run.model} on {run.data['name']}"
        for axes, key in zip(panels, ("test_loss", "test_accuracy"), strict=True):
            _plot(axes, run.epochs, key, label, colour)
    for axes, title in zip(panels, ("Test loss, with the penalty of the weight decay", "Test accuracy"), strict=True):
        _frame(axes, max(len(run.epochs) for run in runs.values()))
        axes.set_title(title, loc="left", fontsize=11)
    _shape_panels(*panels)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", frameon=False, fontsize=9)
    return _png(figure)


def draw_accuracies(points):
    """Test accuracy against stored parameters, one point a network: the mean, and bars from lowest to highest.

    Args:
        points: dict, label to a pair: stored parameters, and a sequence of accuracies.

    Returns:
        bytes: a PNG file.
    """
    figure = Figure(figsize=(8, 4.4 + 0.1 * len(points)), dpi=120, layout="constrained")
    axes = figure.subplots()
    colours = cycle(rcParams["axes.prop_cycle"].by_key()["color"])
    for (label, (parameters, accuracies)), colour in zip(points.items(), colours, strict=False):
        mean = sum(accuracies) / len(accuracies)
        bars = [[mean - min(accuracies)], [max(accuracies) - mean]]
        axes.errorbar([parameters], [mean], bars, label=label, color=colour, fmt="o", capsize=4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set_xlabel("stored parameters")
    axes.set_title("Test accuracy after the last epoch", loc="left", fontsize=11)
    _plain(axes)
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
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


def _shape_panels(loss, accuracy):
    # The first test losses can be far above all others: moving statistics take a while to follow young weights.
    loss.set_yscale("log")
    loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_locator(NullLocator())
    accuracy.set_ylim(top=1)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))


def _png(figure):
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()


def _draw(axes, epochs, name):
    for key, label, colour in ((name, "training", TRAIN), (f"test_{name}", "test", TEST)):
        _plot(axes, epochs, key, label, colour)
    _frame(axes, len(epochs))


def _plot(axes, epochs, key, label, colour):
    values = [getattr(epoch, key) for epoch in epochs]
    values = [float("nan") if value is None else value for value in values]
    marker = "o" if len(epochs) <= 20 else ""
    numbers = [epoch.epoch for epoch in epochs]
    axes.plot(numbers, values, label=label, color=colour, marker=marker, markersize=4, linewidth=1.8)


def _frame(axes, count):
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, count + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(axes)


def _plain(axes):
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
