"""Figures of training runs, as PNG files: curves, accuracies, predictions, confusion."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import PIL.Image
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from keras_sharenets.rendering.figures import (
    BLUE,
    DPI,
    GRAY,
    NARROW_DPI,
    caption,
    frame,
    log_ticks,
    name_lines,
    name_points,
    new_figure,
    percent,
    png,
    usual_range,
)
from keras_sharenets.rendering.page import Photo
from keras_sharenets.training.run.record import Epoch, Run

FEW_POINTS = 8  # Maximum number of points for a small figure of accuracies.
SIDE = 112  # Images whose longer side is shorter are enlarged on a page; in pixels.


def draw_curves(run: Run) -> bytes:
    """Loss and accuracy per epoch of a run (at least one epoch), on the training split and on the held-out split."""
    figure = new_figure(10, 4)
    _curves(run, figure, figure, *figure.subplots(1, 2))
    figure.suptitle(f"{run.model} on {run.data['name']}", fontsize=12)
    return png(figure)


def draw_loss_and_accuracy(run: Run) -> list[bytes]:
    """`draw_curves` as two figures, for a page that stacks them on a phone."""
    loss, accuracy = new_figure(5, 3.6), new_figure(5, 3.6)
    _curves(run, loss, accuracy, loss.subplots(), accuracy.subplots())
    return [png(loss, dpi=NARROW_DPI), png(accuracy, dpi=NARROW_DPI)]


def _curves(run: Run, of_loss: Figure, of_accuracy: Figure, loss: Axes, accuracy: Axes) -> None:
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        _plot(axes, run.epochs, name, "training", GRAY)
        _plot(axes, run.epochs, f"{run.split}_{name}", run.split, BLUE)
        _epochs(axes, len(run.epochs))
    _shape_panels(loss, accuracy)
    loss.set_title("Loss, including weight decay", loc="left", fontsize=11)
    accuracy.set_title("Accuracy", loc="left", fontsize=11)
    if run.last.test_accuracy is not None:
        accuracy.set_title(f"last epoch, test: {run.last.test_accuracy:.2%}", loc="right", fontsize=10, color=BLUE)
    name_lines(of_loss, loss)
    name_lines(of_accuracy, accuracy)


def draw_comparison(runs: Mapping[str, Run]) -> bytes:
    """Loss and accuracy of several named runs on their held-out splits, one color per run."""
    # Stacked, since side by side, long names would leave no room for the curves.
    figure = new_figure(7, 7 + 0.1 * len(runs))
    panels = figure.subplots(2, 1)
    _compare(runs, panels)
    # A run may lack losses: its name is shown only where it has a curve.
    for axes in panels:
        name_lines(figure, axes)
    return png(figure)


def draw_comparison_parts(runs: Mapping[str, Run]) -> list[bytes]:
    """`draw_comparison` as two figures, for a page that stacks them on a phone, with the names below."""
    parts = [new_figure(5, 3.6 + 0.2 * len(runs)) for _ in range(2)]
    _compare(runs, [figure.subplots() for figure in parts])
    for figure in parts:
        figure.legend(loc="outside lower left", frameon=False, fontsize=9)
    return [png(figure, dpi=NARROW_DPI) for figure in parts]


def _compare(runs: Mapping[str, Run], panels: Sequence[Axes]) -> None:
    mixed = len({run.split for run in runs.values()}) > 1
    for (name, run), color in zip(runs.items(), _colors(), strict=False):
        label = f"{name}, {run.split} split" if mixed else name
        for axes, key in zip(panels, ("loss", "accuracy"), strict=True):
            _plot(axes, run.epochs, f"{run.split}_{key}", label, color)
    held_out = "Held-out" if mixed else next(iter(runs.values())).split.capitalize()
    titles = (f"{held_out} loss, including weight decay", f"{held_out} accuracy")
    for axes, title in zip(panels, titles, strict=True):
        _epochs(axes, max(len(run.epochs) for run in runs.values()))
        axes.set_title(title, loc="left", fontsize=11)
    _shape_panels(*panels)


def draw_accuracies(
    points: Mapping[str, tuple[float, Sequence[float]]],
    across: str,
    title: str = "Test accuracy after the last epoch",
) -> bytes:
    """Test accuracy against size, one labeled point per network: the mean, with bars from lowest to highest.

    Networks far less accurate than the others are listed below the figure instead of compressing its axis.

    Args:
        points: maps each label to its size and accuracies.
        across: label of the size axis.
        title: title of the figure.
    """
    # A few names fit into a small figure, which is readable on a phone.
    figure, dpi = (new_figure(5.6, 4), NARROW_DPI) if len(points) <= FEW_POINTS else (new_figure(9, 6), DPI)
    axes = figure.subplots()
    means = {name: sum(accuracies) / len(accuracies) for name, (_, accuracies) in points.items()}
    low, _ = usual_range(list(means.values()))
    below = [
        f"not shown: {name} at {points[name][0]:,.10g} ({across}), {mean:.1%}"
        for name, mean in means.items()
        if mean < low
    ]
    means = {name: mean for name, mean in means.items() if mean >= low}
    sizes = [points[name][0] for name in means]
    for name, mean in means.items():
        size, accuracies = points[name]
        bars = [[mean - min(accuracies)], [max(accuracies) - mean]]
        axes.errorbar([size], [mean], bars, color=BLUE, fmt="o", markersize=5, capsize=3)
    axes.set_xscale("log")
    log_ticks(axes.xaxis, "{x:,.10g}")
    # Leave room for the names to the right of the last points and above the highest.
    axes.set_xlim(min(sizes) / 1.3, max(sizes) * 2.2)
    axes.margins(y=0.1)
    percent(axes.yaxis)
    axes.set_xlabel(across)
    axes.set_title(title, loc="left", fontsize=11)
    frame(axes)
    if below:
        caption(figure, "\n".join(below))
    name_points(figure, axes, sizes, list(means.values()), list(means))
    return png(figure, dpi=dpi)


def show_predictions(
    images: Sequence[np.ndarray] | np.ndarray, labels: np.ndarray, probabilities: np.ndarray, class_names: Sequence[str]
) -> list[Photo]:
    """Images with the predicted class and its probability; a wrong prediction also has the true class.

    Args:
        images: arrays `(height, width, channels)` of pixel values from 0 to 255, with 1 or 3 channels.
        labels: int array `(n,)`, the true classes.
        probabilities: array `(n, classes)`.
        class_names: names of the classes.
    """
    shown = []
    for image, label, row in zip(images, labels, probabilities, strict=True):
        best = int(row.argmax())
        text, wrong = f"{class_names[best]} {row[best]:.0%}", bool(best != label)
        text = f"{text} (is {class_names[label]})" if wrong else text
        pixels = image[..., 0] if image.shape[-1] == 1 else image
        small, file = PIL.Image.fromarray(np.asarray(pixels, np.uint8)), io.BytesIO()
        # Enlarged here, because a browser blurs the pixels of images that it enlarges.
        factor = max(1, SIDE // max(small.size))
        small.resize((factor * small.width, factor * small.height), PIL.Image.Resampling.NEAREST).save(file, "PNG")
        shown.append(Photo(file.getvalue(), text, wrong))
    return shown


def draw_confusion(matrix: np.ndarray, title: str) -> bytes:
    """A confusion matrix of many classes: a row per true class and a column per predicted class, with their numbers.

    Colors show fractions of a row.
    """
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = new_figure(8.6, 8, title)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted class, by number")
    axes.set_ylabel("true class, by number")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="fraction of the true class")
    return png(figure)


def _colors() -> cycle:
    return cycle(rcParams["axes.prop_cycle"].by_key()["color"])


def _shape_panels(loss: Axes, accuracy: Axes) -> None:
    # A logarithmic scale requires a value: a run that diverged at once has none, nor has one without losses.
    if any(np.isfinite(value) and value > 0 for line in loss.get_lines() for value in np.ravel(line.get_ydata())):
        # Early test losses can be far higher: moving statistics lag behind the weights at first.
        loss.set_yscale("log")
        log_ticks(loss.yaxis, "{x:g}")
    accuracy.set_ylim(top=1)
    percent(accuracy.yaxis)


def _plot(axes: Axes, epochs: Sequence[Epoch], key: str, label: str, color: str) -> None:
    values = [getattr(epoch, key) for epoch in epochs]
    values = [float("nan") if value is None else value for value in values]
    marker = "o" if len(epochs) <= 20 else ""
    numbers = [epoch.epoch for epoch in epochs]
    axes.plot(numbers, values, label=label, color=color, marker=marker, markersize=4, linewidth=1.8)


def _epochs(axes: Axes, count: int) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, count + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # By default, two: 0.8 and 1.
    frame(axes)
