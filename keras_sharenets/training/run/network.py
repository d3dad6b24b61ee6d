"""A named network for a data set, raw pixels in, class probabilities out; and what its recipe makes of it for training:
a schedule, an optimizer, a weight decay, callbacks."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sharenets.layers.whitening import Whitening, whitening_statistics
from keras_sharenets.models import create_model
from keras_sharenets.models.registry import current_arguments, own_arguments
from keras_sharenets.training.data.batches import Batches, input_shape
from keras_sharenets.training.data.dataset import Dataset, chunks
from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.record import Epoch, Run
from keras_sharenets.training.run.recorder import Recorder

FROM_DATA = ("num_classes", "input_shape", "input_tensor", "include_preprocessing", "pixel_statistics")
FIXED = ("include_top", "pooling", "classifier_activation", "name")
FANS = {"he_fan_in": "fan_in", "he_fan_out": "fan_out"}


def build(
    model_name: str,
    dataset: Dataset,
    options: Mapping[str, object] | None = None,
    recipe: Recipe | None = None,
) -> keras.Model:
    """The network, with a normalization of the data set's pixels as its first layer.

    Args:
        model_name: one of `keras_sharenets.list_models()`.
        dataset: gives the number of classes, the shape, the mean and the variance.
        options: further arguments of the family's factory.
        recipe: gives the size of crops, the dropout, the normalization and the initialization. `None`: the data set's
            shape, the network's own initialization, mean 0 and variance 1.

    Returns:
        A functional model from float images with values from 0 to 255 to probabilities.

    Raises:
        ValueError: the model or an option is unknown (the nearest names are offered), an option is not to be chosen, or
            breaks a rule of the network, or the recipe does not fit network or data.
    """
    chosen: dict[str, Any] = {**current_arguments(options or {})}
    if recipe is not None and recipe.dropout:
        chosen = {"dropout_rate": recipe.dropout} | chosen
    check_options(model_name, chosen)
    inputs = keras.Input(input_shape(dataset, recipe), name="images")
    if recipe is not None and recipe.normalization == "zca":
        statistics = whitening_statistics(map(np.asarray, chunks(dataset.train)), inputs.shape[1:])
        whitening = Whitening(name="normalize")
        normalized = whitening(inputs)
        whitening.set_weights(statistics)
    else:
        # Pixels are normalized in full precision, also where the network computes in mixed precision.
        dtype = keras.config.dtype_policy().variable_dtype
        normalization = keras.layers.Normalization(
            mean=dataset.mean, variance=dataset.variance, dtype=dtype, name="normalize"
        )
        normalized = normalization(inputs)
    classes = len(dataset.class_names)
    network = create_model(
        model_name, input_tensor=normalized, include_preprocessing=False, num_classes=classes, **chosen
    )
    initialize(network, "network" if recipe is None else recipe.initialization)
    return network


def check_options(model_name: str, options: Iterable[str]) -> None:
    """Raises a `ValueError` unless the factory of the network takes all these options from a user."""
    known = own_arguments(model_name)
    for name in current_arguments(dict.fromkeys(options)):
        if name in FROM_DATA:
            raise ValueError(f"The model option `{name}` cannot be given: it follows from the data.")
        if name in FIXED:
            raise ValueError(f"The model option `{name}` cannot be given: a trained network is a named classifier.")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or sorted(known)
            raise ValueError(f"{model_name} has no option `{name}`. Did you mean {', '.join(map(repr, near))}?")


def initialize(network: keras.Model, how: str) -> None:
    """Draws the kernels of all convolutions anew: normal, with a variance of 2 / fan.

    Args:
        network: its convolutions are all `keras.layers.Conv2D`.
        how: `"network"` for nothing at all, `"he_fan_in"` or `"he_fan_out"`.

    Raises:
        ValueError: a layer with filters is of another kind: what its fan is, only its own initializer knows. Nothing
            has been changed then.
    """
    if how == "network":
        return
    layers = [layer for layer in network.layers if any(len(weight.shape) > 2 for weight in layer.trainable_weights)]
    for layer in layers:
        if type(layer) is not keras.layers.Conv2D:
            raise ValueError(
                f"`initialization` (={how!r}) is for ordinary convolutions, and {layer.name!r} is a "
                f"{type(layer).__name__}: choose 'network'."
            )
    for layer in layers:
        initializer = keras.initializers.VarianceScaling(2, FANS[how], "untruncated_normal")
        layer.kernel.assign(initializer(layer.kernel.shape))


@keras.saving.register_keras_serializable("keras_sharenets")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to `peak` within `steps` steps, then follows the schedule `after` from its beginning."""

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

    Milestones are fractions of all epochs, so a shortened run keeps the shape of the long one. The schedule "plateau"
    is not a function of the step: `plateau_rate`.
    """
    total = recipe.epochs * steps_per_epoch
    warmup = round(recipe.rise * total) if recipe.schedule == "one_cycle" else recipe.warmup_epochs * steps_per_epoch
    if recipe.schedule in ("cosine", "one_cycle"):
        schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total - warmup)
    else:
        # Keras gives the old rate up to and including the boundary, and wants at least one: here behind the last step.
        boundaries = [round(fraction * total) - warmup - 1 for fraction in recipe.milestones] or [total]
        rates = [recipe.learning_rate * recipe.decay_factor**drops for drops in range(len(boundaries) + 1)]
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    return WarmUp(recipe.learning_rate, warmup, schedule) if warmup else schedule


def build_optimizer(recipe: Recipe, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    """SGD with the recipe's momentum and schedule, without weight decay: that is `decay_weights`."""
    rate = recipe.learning_rate if recipe.schedule == "plateau" else build_schedule(recipe, steps_per_epoch)
    return keras.optimizers.SGD(rate, momentum=recipe.momentum, nesterov=recipe.nesterov)


def plateau_rate(recipe: Recipe, epochs: Sequence[Epoch]) -> float:
    """The learning rate after these epochs, for the schedule "plateau".

    It is multiplied by `decay_factor` whenever `patience` epochs have passed without a new lowest error since the last
    one, or since the rate fell. As it depends on nothing else, a run that is resumed has the same rates.
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


def decay_weights(model: keras.Model, rate: float) -> None:
    """Gives every trainable variable the penalty `rate / 2 * sum(w ** 2)`, whose gradient is `rate * w`.

    This is the classic coupled weight decay: the penalty's gradient goes through the momentum and is scaled by the
    learning rate, as in the papers' frameworks, and unlike the decoupled `weight_decay` of Keras optimizers. It counts
    each stored tensor once, however often its layer is called. It covers the scales and biases of batch normalization
    too, as those frameworks did. The penalties are part of the loss that `model.fit` reports; files do not keep them.
    """
    for variable in model.trainable_variables:
        variable.regularizer = keras.regularizers.L2(rate / 2) if rate else None


def compile_model(network: keras.Model, run: Run, steps_per_epoch: int, devices: Devices) -> keras.Model:
    """A second model on the same layers, compiled; `network` stays without optimizer, and so do its files.

    To be called in the scope of the devices.
    """
    decay_weights(network, run.recipe.weight_decay)
    model = devices.model(network.input, network.output, name=network.name)
    optimizer = build_optimizer(run.recipe, steps_per_epoch)
    if run.precision == "float16":  # Its smallest gradients would be 0.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=run.recipe.label_smoothing),
        # Some test images only fill up a batch, and weigh nothing.
        weighted_metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        jit_compile=run.jit_compile,
        # A checkpoint falls behind the last of the steps that are taken at once.
        steps_per_execution=math.gcd(devices.steps_per_execution, run.checkpoint_steps or 0),
    )
    # Built before the first batch, so that a checkpoint can be restored.
    model.optimizer.build(model.trainable_variables)
    nothing = ops.zeros((1, model.output_shape[-1]))
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()
    return model


def test_with(trained: keras.Model, network: keras.Model) -> None:
    """Lets `trained` be tested with its weights in `network`: a file that is float32 has the accuracy of the record.

    Args:
        trained: compiled, in mixed precision.
        network: compiled, the same network in full precision.
    """

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop(
            "_use_cached_eval_dataset", None
        )  # Among the arguments of `model.fit`; the cache is that of `trained`.
        network.set_weights(trained.get_weights())
        return network.evaluate(*args, **kwargs)

    trained.evaluate = evaluate


def make_callbacks(model: keras.Model, batches: Batches, recorder: Recorder) -> list[keras.callbacks.Callback]:
    """The callbacks of a run, in the order in which they must be called.

    Args:
        model: the model that is trained, compiled.
        batches: those of the training split.
        recorder: knows the run, its recipe and its folder.
    """
    callbacks = [batches.callback(), recorder]
    if recorder.run.recipe.schedule == "plateau":

        def begin(epoch, logs=None):
            # From the record alone, so that a run that is resumed has the same rates.
            model.optimizer.learning_rate = plateau_rate(recorder.run.recipe, recorder.run.epochs)

        callbacks.insert(0, keras.callbacks.LambdaCallback(on_epoch_begin=begin))
    extras = recorder.run.tensorboard
    if extras is not None:
        callbacks.append(
            keras.callbacks.TensorBoard(
                recorder.folder / "logs", write_graph="graph" in extras, histogram_freq=int("histograms" in extras)
            )
        )
    return callbacks
