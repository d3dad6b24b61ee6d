"""Which learning rate to train with: the loss of a few steps while the rate rises from far too low to far too high."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets.rendering.figures import BLUE, GRAY, RED, frame, new_figure, png
from keras_sharenets.training.data.batches import training_batches
from keras_sharenets.training.data.dataset import Dataset
from keras_sharenets.training.devices.devices import Devices, check_parts
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.network import build, compile_model, set_seed
from keras_sharenets.training.run.record import Run

SMOOTHING = 0.9  # Of the mean of the losses so far.
DIVERGED = 4.0  # Times the lowest smoothed loss, after which no further step is taken.


@dataclasses.dataclass(frozen=True)
class Rates:
    """The steps of a search for a learning rate, and the one at which the loss falls fastest.

    `losses` are those of the steps, `smoothed` their running means; the last step may be the one that diverged.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float


def find_rate(
    model_name: str,
    dataset: Dataset,
    *,
    recipe: Recipe,
    options: Mapping[str, object] | None = None,
    seed: int = 0,
    steps: int = 100,
    lowest: float = 1e-5,
    highest: float = 10.0,
) -> Rates:
    """Trains an untrained network for some steps at rising rates, `lowest * (highest / lowest) ** (i / (steps - 1))`.

    Args:
        model_name, options: as in `fit`.
        dataset: its training split is used.
        recipe: all but its schedule.
        seed: of weights, order and changes.
        steps: at least 10; fewer are taken when the loss diverges.
        lowest, highest: the first rate and the last.

    Raises:
        ValueError: an argument breaks a rule, as in `fit`, or the loss diverged at once.
    """
    _checks.positive("steps", steps)
    _checks.above_zero("lowest", lowest)
    if steps < 10:
        raise ValueError(f"`steps` (={steps}) must be at least 10.")
    if not highest > lowest:
        raise ValueError(f"`highest` (={highest}) must be above `lowest` (={lowest}).")
    set_seed(seed)
    run = Run(model=model_name, options=dict(options or {}), data={}, recipe=recipe, backend="", versions={}, seed=seed)
    check_parts(Devices(), run)
    batches = training_batches(dataset, recipe, seed)
    model = compile_model(build(model_name, dataset, options, recipe), run, batches.steps, Devices())
    schedule = keras.optimizers.schedules.ExponentialDecay(lowest, steps - 1, highest / lowest)
    model.optimizer.learning_rate = schedule
    rates: list[float] = []
    losses: list[float] = []
    for step in range(steps):
        model.reset_metrics()  # They are means over all steps otherwise.
        loss = float(model.train_on_batch(*batches.batch(*divmod(step, batches.steps)))[0])
        if not math.isfinite(loss):
            break
        rates.append(lowest * (highest / lowest) ** (step / (steps - 1)))
        losses.append(loss)
        if smooth(losses)[-1] > DIVERGED * min(smooth(losses)):
            break
    if len(losses) < 3:
        raise ValueError(f"The loss diverged after {len(losses)} steps: `lowest` (={lowest}) must be a lower rate.")
    return Rates(tuple(rates), tuple(losses), smooth(losses), steepest(rates, losses))


def smooth(losses: Sequence[float]) -> tuple[float, ...]:
    """Running means with weights that fade, and add up to 1 from the first on.

    >>> smooth([2.0, 2.0, 2.0])
    (2.0, 2.0, 2.0)
    """
    means, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**number))
    return tuple(round(each, 12) for each in means)


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """The rate at which the loss falls fastest, before its smoothed curve is lowest.

    That is the middle of those steps in a row, a fifth of all, whose line of least squares falls fastest: from one step
    to the next the loss changes more by the batch than by the rate. As rates rise by the same factor each step, it is
    the steepest place of the curve over their logarithm.
    """
    means = smooth(losses)
    falling = np.asarray(losses[: max(means.index(min(means)) + 1, 3)])
    half = min(max(len(losses) // 10, 1), (len(falling) - 1) // 2)
    slopes = np.correlate(falling, np.arange(-half, half + 1), "valid")
    return rates[int(slopes.argmin()) + half]


def draw_rates(found: Rates, title: str) -> bytes:
    """The loss over the learning rate, with the one that is suggested, as a PNG file."""
    figure = new_figure(7, 4.5, title)
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color=GRAY, linewidth=1, label="loss of a step")
    axes.plot(found.rates, found.smoothed, color=BLUE, linewidth=2, label="smoothed")
    axes.axvline(found.suggested, color=RED, linewidth=1.5, linestyle="--", label=f"suggested: {found.suggested:.2g}")
    axes.set_xscale("log")
    axes.set_ylim(0, 2 * max(found.smoothed[:3]))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss, with the penalty of the weight decay")
    axes.legend(frameon=False)
    frame(axes)
    return png(figure)
