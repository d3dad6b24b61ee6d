"""Learning rate schedule, optimizer, weight decay, and early stopping of a recipe."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets.training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from keras_sharenets.training.run.record import Epoch

FORGETTING = 10  # Minimum number of time constants of moving statistics in a training run.
# Wrappers around other optimizers.
_HOLDERS = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")


@keras.saving.register_keras_serializable("keras_sharenets")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak` over `steps` steps, followed by the schedule `after` from its start."""

    def __init__(self, peak: float, steps: int, after: keras.optimizers.schedules.LearningRateSchedule) -> None:
        super().__init__()
        self.peak = peak
        self.steps = steps
        self.after = after

    def __call__(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        return ops.where(step < self.steps, self.peak * (step + 1) / self.steps, self.after(step - self.steps))

    def get_config(self) -> dict:
        after = keras.saving.serialize_keras_object(self.after)
        return {"peak": self.peak, "steps": self.steps, "after": after}

    @classmethod
    def from_config(cls, config: dict) -> WarmUp:
        return cls(**{**config, "after": keras.saving.deserialize_keras_object(config["after"])})


def build_schedule(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate as a function of the step, counted from 0.

    Milestones are fractions of all epochs, so a shortened run keeps the shape of the schedule. The schedule "plateau"
    is not a function of the step; see `plateau_rate`.
    """
    total = recipe.epochs * steps_per_epoch
    # At least one step remains for the decay, even in a run of one step.
    rise = min(round(recipe.rise * total), total - 1)
    warmup = rise if recipe.schedule == "one_cycle" else recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule in ("cosine", "one_cycle"):
        schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total - warmup)
    else:
        # Keras keeps the old rate up to and including the boundary, and needs at least one: here, after the last step.
        boundaries = [round(fraction * total) - warmup - 1 for fraction in recipe.milestones] or [total]
        rates = [recipe.learning_rate * recipe.decay_factor**drops for drops in range(len(boundaries) + 1)]
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    return WarmUp(recipe.learning_rate, warmup, schedule) if warmup else schedule


def find_optimizer(name: str) -> type[keras.optimizers.Optimizer]:
    """The class with this name in `keras.optimizers`; case-insensitive.

    Raises:
        ValueError: there is no such class; the nearest names are suggested.

    >>> find_optimizer("adamw").__name__
    'AdamW'
    """
    found = {key: value for key, value in vars(keras.optimizers).items() if inspect.isclass(value)}
    classes = {
        key.lower(): value
        for key, value in found.items()
        if issubclass(value, keras.optimizers.Optimizer) and key not in _HOLDERS
    }
    if str(name).lower() not in classes:
        names = sorted(each.__name__ for each in classes.values())
        raise ValueError(f"`optimizer` (={name!r}) is not in keras.optimizers. {_checks.suggestion(name, names)}")
    return classes[str(name).lower()]


def decouples(recipe: Recipe) -> bool:
    """Whether the optimizer applies weight decay itself: by option, or because it always does.

    >>> decouples(Recipe(1, 0.001, 0.05, optimizer="AdamW")), decouples(Recipe(1, 0.1, 0.0005))
    (True, False)
    """
    own = inspect.signature(find_optimizer(recipe.optimizer)).parameters["weight_decay"].default
    return recipe.decoupled_decay or own is not None


def build_optimizer(
    recipe: Recipe, steps_per_epoch: int, variables: Sequence[keras.Variable] = ()
) -> keras.optimizers.Optimizer:
    """The optimizer of a recipe, with its schedule, clipping, accumulation, and moving average.

    It applies weight decay only if this is decoupled; otherwise `decay_weights` does.

    Args:
        recipe: training recipe.
        steps_per_epoch: batches per epoch.
        variables: the trainable variables, to exclude scales from weight decay if the recipe does.

    Raises:
        ValueError: Keras has no such optimizer, or the run has fewer batches than one step accumulates.
    """
    kind = find_optimizer(recipe.optimizer)
    batches = recipe.epochs * steps_per_epoch
    if recipe.accumulate > batches:
        raise ValueError(
            f"`accumulate` (={recipe.accumulate}) must be at most the number of batches of the run (={batches}): "
            "otherwise it would end before the first optimizer step."
        )
    parameters = inspect.signature(kind).parameters
    options: dict[str, Any] = {}
    if kind is keras.optimizers.SGD:
        options |= {"momentum": recipe.momentum, "nesterov": recipe.nesterov}
    if decouples(recipe):
        # Muon has a second weight decay, for the weights that it trains with Adam.
        options |= {name: recipe.weight_decay for name in ("weight_decay", "adam_weight_decay") if name in parameters}
    if recipe.clip_norm:
        options["global_clipnorm"] = recipe.clip_norm
    if recipe.accumulate > 1:
        options["gradient_accumulation_steps"] = recipe.accumulate
    if recipe.ema:
        # Keras updates the average at every batch, whether or not its gradients complete a step.
        options |= {"use_ema": True, "ema_momentum": recipe.ema ** (1 / recipe.accumulate)}
    rate = recipe.learning_rate if recipe.schedule == "plateau" else build_schedule(recipe, steps_per_epoch)
    optimizer = kind(rate, **options)
    spared = [variable for variable in variables if not _decays(recipe, variable)]
    if decouples(recipe) and spared:
        optimizer.exclude_from_weight_decay(var_list=spared)
    return optimizer


def _decays(recipe: Recipe, variable: keras.Variable) -> bool:
    return recipe.decay_scales or len(variable.shape) > 1


def plateau_rate(recipe: Recipe, epochs: Sequence[Epoch]) -> float:
    """The learning rate after these epochs, for the schedule "plateau".

    It is multiplied by `decay_factor` after `patience` epochs without a new lowest error since the last one, or since
    the last drop. Since it depends on the record only, a resumed run has the same rates.
    """
    rate, lowest, waited = recipe.learning_rate, math.inf, 0
    for epoch in epochs:
        accuracy = (epoch.accuracy if recipe.watch == "train" else epoch.held_out_accuracy) or 0.0
        if 1 - accuracy < lowest:
            lowest, waited = 1 - accuracy, 0
        else:
            waited += 1
        if waited == recipe.patience:
            rate, waited = rate * recipe.decay_factor, 0
    return rate


def is_over(recipe: Recipe, epochs: Sequence[Epoch]) -> bool:
    """Whether training ends after these epochs: all are done, or the best one is `early_stopping` epochs old.

    Computed from the record, like `plateau_rate`. `keras.callbacks.EarlyStopping` restarts its count with every call of
    `model.fit`, so that a resumed run would differ.
    """
    if len(epochs) >= recipe.epochs or not (recipe.early_stopping and epochs):
        return len(epochs) >= recipe.epochs
    accuracies = [epoch.held_out_accuracy or 0.0 for epoch in epochs]
    return len(accuracies) - 1 - accuracies.index(max(accuracies)) >= recipe.early_stopping


def limit_momentum(model: keras.Model, steps: int) -> None:
    """Lowers the momentum of batch normalization so that moving statistics cover at most the last tenth of training.

    A momentum of 0.99 averages over the last hundred steps. In a run of a few hundred steps, these statistics are
    outdated: a network shared to half its weights and trained for 40 steps reached 30 % test accuracy, and 59 % with
    statistics of its final weights. From 1,000 steps on, a momentum of 0.99 is unchanged.

    Args:
        model: the model to train. Its normalization layers keep the new momentum, also in files.
        steps: total number of training steps.

    >>> model = keras.Sequential([keras.layers.BatchNormalization()])
    >>> limit_momentum(model, steps=100)
    >>> model.layers[0].momentum
    0.9
    """
    for layer in model._flatten_layers():
        # A momentum of 1 means frozen statistics.
        if isinstance(layer, keras.layers.BatchNormalization) and layer.momentum < 1:
            layer.momentum = min(layer.momentum, max(1 - FORGETTING / steps, 0.5))


def decay_weights(model: keras.Model, recipe: Recipe) -> None:
    """Adds the penalty `d / 2 * sum(w ** 2)`, whose gradient is `d * w`, to every trainable variable.

    This is classic coupled weight decay: the gradient of the penalty passes through the momentum and is scaled by the
    learning rate, as in the frameworks used by the papers. Each stored tensor counts once, however often its layer is
    called. As in those frameworks, the scales and biases of batch normalization are included unless `decay_scales` is
    False. The penalties are part of the loss reported by `model.fit`; they are not saved in files.

    With decoupled weight decay there are no penalties: the optimizer applies it.
    """
    rate = 0.0 if decouples(recipe) else recipe.weight_decay
    for variable in model.trainable_variables:
        variable.regularizer = keras.regularizers.L2(rate / 2) if rate and _decays(recipe, variable) else None
