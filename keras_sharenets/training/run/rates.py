"""Learning rate range test: the loss over a few steps while the rate rises from far too low to far too high."""

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

SMOOTHING = 0.9  # Momentum of the running mean of the losses.
DIVERGED = 4.0  # Stop when the smoothed loss exceeds its minimum by this factor.


@dataclasses.dataclass(frozen=True)
class Rates:
    """The steps of a learning rate range test, and the rate at which the loss falls fastest.

    `losses` has the loss of each step, `smoothed` their running means; the last step may be the one that diverged.
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
    """Trains an untrained network for a few steps at rising rates, `lowest * (highest / lowest) ** (i / (steps - 1))`.

    Args:
        model_name, options: as in `fit`.
        dataset: provides the training split.
        recipe: training recipe; its schedule is ignored.
        seed: random seed for initialization, shuffling, and augmentation.
        steps: at least 10; stops early if the loss diverges.
        lowest, highest: the first and the last rate.

    Raises:
        ValueError: an argument is invalid, as in `fit`, or the loss diverged immediately.
    """
    _checks.positive("steps", steps)
    _checks.above_zero("lowest", lowest)
    if steps < 10:
        raise ValueError(f"`steps` (={steps}) must be at least 10.")
    _checks.above_zero("highest", highest)
    if highest <= lowest:
        raise ValueError(f"`highest` (={highest}) must be above `lowest` (={lowest}).")
    run = Run(model=model_name, options=dict(options or {}), data={}, recipe=recipe, backend="", versions={}, seed=seed)
    check_parts(Devices(), run)
    set_seed(seed)
    batches = training_batches(dataset, recipe, seed)
    model = compile_model(build(model_name, dataset, options, recipe), run, batches.steps, Devices())
    schedule = keras.optimizers.schedules.ExponentialDecay(lowest, steps - 1, highest / lowest)
    model.optimizer.learning_rate = schedule
    rates: list[float] = []
    losses: list[float] = []
    for step in range(steps):
        model.reset_metrics()  # Otherwise the loss would be a mean over all steps.
        loss = float(model.train_on_batch(*batches.batch(*divmod(step, batches.steps)))[0])
        if not math.isfinite(loss):
            break
        rates.append(lowest * (highest / lowest) ** (step / (steps - 1)))
        losses.append(loss)
        if smooth(losses)[-1] > DIVERGED * min(smooth(losses)):
            break
    if len(losses) < 3:
        raise ValueError(f"The loss diverged after {len(losses)} steps: `lowest` (={lowest}) must be lower.")
    return Rates(tuple(rates), tuple(losses), smooth(losses), steepest(rates, losses))


def smooth(losses: Sequence[float]) -> tuple[float, ...]:
    """Exponential running means with bias correction.

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

    This is the center of the window of consecutive steps, a fifth of all, whose least-squares line is steepest: between
    single steps the loss depends more on the batch than on the rate. Since the rate grows by a constant factor, this is
    the steepest point of the curve over the logarithm of the rate.
    """
    means = smooth(losses)
    falling = np.asarray(losses[: max(means.index(min(means)) + 1, 3)])
    half = min(max(len(losses) // 10, 1), (len(falling) - 1) // 2)
    slopes = np.correlate(falling, np.arange(-half, half + 1), "valid")
    return rates[int(slopes.argmin()) + half]


def draw_rates(found: Rates, title: str) -> bytes:
    """A plot of the loss against the learning rate, with the suggested rate, as a PNG file."""
    figure = new_figure(7, 4.5, title)
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, color=GRAY, linewidth=1, label="loss of a step")
    axes.plot(found.rates, found.smoothed, color=BLUE, linewidth=2, label="smoothed")
    axes.axvline(found.suggested, color=RED, linewidth=1.5, linestyle="--", label=f"suggested: {found.suggested:.2g}")
    axes.set_xscale("log")
    axes.set_ylim(0, 2 * max(found.smoothed[:3]))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss, including the weight decay penalty")
    axes.legend(frameon=False)
    frame(axes)
    return png(figure)
