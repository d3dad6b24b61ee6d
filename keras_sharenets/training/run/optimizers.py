"""What a recipe's figures become: a learning rate, an optimizer, a weight decay."""

import math

import keras
from keras import ops

RISE = 0.3  # The part of a run in which the rate of `one_cycle` rises.


@keras.saving.register_keras_serializable("keras_sharenets")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to `peak` within `steps` steps, then follows the schedule `after` from its beginning."""

    def __init__(self, peak, steps, after):
        super().__init__()
        self.peak = peak
        self.steps = steps
        self.after = after

    def __call__(self, step):
        step = ops.cast(step, "float32")
        return ops.where(step < self.steps, self.peak * (step + 1) / self.steps, self.after(step - self.steps))

    def get_config(self):
        after = keras.saving.serialize_keras_object(self.after)
        return {"peak": self.peak, "steps": self.steps, "after": after}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "after": keras.saving.deserialize_keras_object(config["after"])})


def build_schedule(recipe, steps_per_epoch):
    """The learning rate as a function of the step, counted from 0: a Keras `LearningRateSchedule`.

    Milestones are fractions of all epochs, so a shortened run keeps the shape of the long one. A plateau is none of its
    business: `plateau_rate`.
    """
    total = recipe.epochs * steps_per_epoch
    warmup = round(RISE * total) if recipe.schedule == "one_cycle" else recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule in ("cosine", "one_cycle"):
        schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total - warmup)
    else:
        # Keras gives the old rate up to and including the boundary, and wants at least one: here behind the last step.
        boundaries = [round(fraction * total) - warmup - 1 for fraction in recipe.milestones] or [total]
        rates = [recipe.learning_rate * recipe.decay_factor**drops for drops in range(len(boundaries) + 1)]
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    return WarmUp(recipe.learning_rate, warmup, schedule) if warmup else schedule


def build_optimizer(recipe, steps_per_epoch):
    """SGD with the recipe's momentum and schedule. Weight decay is not its business: `decay_weights`."""
    rate = recipe.learning_rate if recipe.schedule == "plateau" else build_schedule(recipe, steps_per_epoch)
    return keras.optimizers.SGD(rate, momentum=recipe.momentum, nesterov=recipe.nesterov)


def plateau_rate(recipe, epochs):
    """The learning rate after these epochs, for the schedule "plateau".

    It is multiplied by `decay_factor` whenever `patience` epochs have passed without a new lowest error since the last
    one, or since the rate fell. As it depends on nothing else, a run that is resumed goes on with the same rates.

    Args:
        recipe: `Recipe`.
        epochs: sequence of `Epoch`, all so far.

    Returns:
        float.
    """
    rate, lowest, waited = recipe.learning_rate, math.inf, 0
    for epoch in epochs:
        accuracy = epoch.accuracy if recipe.watch == "train" else epoch.test_accuracy or 0.0
        if 1 - accuracy < lowest:
            lowest, waited = 1 - accuracy, 0
        else:
            waited += 1
        if waited == recipe.patience:
            rate, waited = rate * recipe.decay_factor, 0
    return rate


def decay_weights(model, rate):
    """Gives every trainable variable the penalty `rate / 2 * sum(w ** 2)`, whose gradient is `rate * w`.

    This is the classic coupled weight decay: the penalty's gradient goes through the momentum and is scaled by the
    learning rate, as in the papers' frameworks, and unlike the decoupled `weight_decay` of Keras optimizers. It counts
    each stored tensor once, however often its layer is called. It covers the scales and biases of batch normalisation
    too, as those frameworks did. The penalties are part of the loss that `model.fit` reports; files do not keep them.
    """
    for variable in model.trainable_variables:
        variable.regularizer = keras.regularizers.L2(rate / 2) if rate else None
