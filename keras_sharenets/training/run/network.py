"""Builds a named network for a data set, from raw pixels to class probabilities, and compiles it for training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sharenets import _checks
from keras_sharenets.layers.whitening import Whitening, whitening_statistics
from keras_sharenets.models import create_model
from keras_sharenets.models.registry import current_arguments, own_arguments
from keras_sharenets.notices import importing
from keras_sharenets.training.data.batches import Batches, input_shape
from keras_sharenets.training.data.dataset import Dataset, chunks
from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.recipes.batch_changes import change_batches, compiles
from keras_sharenets.training.recipes.optimization import (
    build_optimizer,
    decay_weights,
    is_over,
    limit_momentum,
    plateau_rate,
)
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.record import FEW_CLASSES, Run
from keras_sharenets.training.run.recorder import Recorder
from keras_sharenets.training.run.teacher import learn_from

FROM_DATA = ("num_classes", "input_shape", "input_tensor", "include_preprocessing", "pixel_statistics")
FIXED = ("include_top", "pooling", "classifier_activation", "name")
FANS = {"he_fan_in": "fan_in", "he_fan_out": "fan_out"}


def set_seed(seed: int) -> None:
    """`keras.utils.set_random_seed`, which imports and seeds TensorFlow, if installed, even with the JAX backend."""
    with importing():
        keras.utils.set_random_seed(seed)


def build(
    model_name: str,
    dataset: Dataset,
    options: Mapping[str, object] | None = None,
    recipe: Recipe | None = None,
) -> keras.Model:
    """Builds the network, with a normalization of the data set's pixels as its first layer.

    Args:
        model_name: one of `keras_sharenets.list_models()`.
        dataset: determines the number of classes, the shape, the mean, and the variance.
        options: further arguments of the family's factory.
        recipe: determines crop size, dropout, normalization, and initialization. `None`: the data set's shape, the
            network's own initialization, mean 0 and variance 1.

    Returns:
        A functional model from float images with values from 0 to 255 to probabilities.

    Raises:
        ValueError: the model or an option is unknown (the nearest names are suggested), an option is not allowed or is
            invalid for the network, or the recipe does not fit the network or the data.
    """
    chosen: dict[str, Any] = {**current_arguments(options or {})}
    if recipe is not None and recipe.dropout:
        chosen = {"dropout_rate": recipe.dropout} | chosen
    check_options(model_name, chosen)
    inputs = keras.Input(input_shape(dataset, recipe), name="images")
    # Pixels are normalized in full precision even if the network uses mixed precision.
    dtype = keras.config.dtype_policy().variable_dtype
    if recipe is not None and recipe.normalization == "zca":
        statistics = whitening_statistics(map(np.asarray, chunks(dataset.train)), inputs.shape[1:])
        whitening = Whitening(dtype=dtype, name="normalize")
        normalized = whitening(inputs)
        whitening.set_weights(statistics)
    else:
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
    """Raises a `ValueError` unless a user may pass all these options to the factory of the network."""
    known = own_arguments(model_name)
    for name in current_arguments(dict.fromkeys(options)):
        if name in FROM_DATA:
            raise ValueError(f"The model option `{name}` cannot be given: it is determined by the data.")
        if name in FIXED:
            raise ValueError(f"The model option `{name}` cannot be given: training requires a named classifier.")
        if name not in known:
            raise ValueError(f"{model_name} has no option `{name}`. {_checks.suggestion(name, sorted(known))}")


def initialize(network: keras.Model, how: str) -> None:
    """Reinitializes the kernels of all convolutions from a normal distribution with variance 2 / fan.

    Args:
        network: its convolutions are all `keras.layers.Conv2D`.
        how: `"network"` to change nothing, `"he_fan_in"`, or `"he_fan_out"`.

    Raises:
        ValueError: a layer with filters is of another type, whose fan only its own initializer knows. Nothing is
            changed in that case.
    """
    if how == "network":
        return
    layers = [layer for layer in network.layers if any(len(weight.shape) > 2 for weight in layer.trainable_weights)]
    for layer in layers:
        if type(layer) is not keras.layers.Conv2D:
            raise ValueError(
                f"`initialization` (={how!r}) applies to ordinary convolutions only, but {layer.name!r} is a "
                f"{type(layer).__name__}: choose 'network'."
            )
    for layer in layers:
        initializer = keras.initializers.VarianceScaling(2, FANS[how], "untruncated_normal")
        layer.kernel.assign(initializer(layer.kernel.shape))


def highest_dropout(network: keras.Model) -> float:
    """The highest rate of the network's dropout layers; 0 without any."""
    return max(
        (layer.rate for layer in network._flatten_layers() if isinstance(layer, keras.layers.Dropout)), default=0.0
    )


def compile_model(
    network: keras.Model,
    run: Run,
    steps_per_epoch: int,
    devices: Devices,
    *,
    teacher: keras.Model | None = None,
) -> keras.Model:
    """A second, compiled model with the same layers; `network` and its files remain without an optimizer.

    Must be called in the scope of the devices.
    """
    decay_weights(network, run.recipe)
    limit_momentum(network, run.recipe.epochs * steps_per_epoch)
    model = devices.model(network.input, network.output, name=network.name)
    optimizer = build_optimizer(run.recipe, steps_per_epoch, network.trainable_variables)
    if run.precision == "float16":  # The smallest gradients would underflow.
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=run.recipe.label_smoothing),
        # Some test images are padding of a batch, with weight 0.
        weighted_metrics=_metrics(model.output_shape[-1]),
        jit_compile=run.jit_compile if compiles(run.recipe) else False,
        # A checkpoint is written after the last step of a call.
        steps_per_execution=math.gcd(devices.steps_per_execution, run.checkpoint_steps or 0),
    )
    # Built before the first batch, so that a checkpoint can be restored.
    model.optimizer.build(getattr(model, "optimized_variables", model.trainable_variables))
    nothing = ops.zeros((1, model.output_shape[-1]))
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()
    # Otherwise `model.fit` ends by replacing the weights with their moving average, but training may continue.
    model.optimizer.finalize_variable_values = lambda variables: None
    change_batches(model, run.recipe, run.seed)
    if teacher is not None:
        learn_from(model, teacher, run.recipe)
    return model


def _metrics(classes: int) -> list[keras.metrics.Metric]:
    """Accuracy, and top-5 accuracy for more than `FEW_CLASSES` classes."""
    metrics = [keras.metrics.CategoricalAccuracy("accuracy")]
    return metrics + [keras.metrics.TopKCategoricalAccuracy(5, "top5_accuracy")] * (classes > FEW_CLASSES)


def deliver(trained: keras.Model, network: keras.Model) -> None:
    """Copies the weights to evaluate and save into `network`: those of `trained`, or their moving average if enabled.

    Args:
        trained: returned by `compile_model`.
        network: the same architecture; a separate model if there is a moving average.
    """
    if hasattr(trained, "jax_state_sync"):
        trained.jax_state_sync()
    if network.variables[0] is trained.variables[0]:
        return
    network.set_weights(trained.get_weights())
    optimizer: Any = trained.optimizer
    # Frozen layers have no average.
    pairs = zip(network.variables, trained.variables, strict=True)
    averaged = [variable for variable, other in pairs if other.trainable]
    type(optimizer).finalize_variable_values(optimizer, averaged)
    # On JAX these are the arrays of the average themselves, and a step may overwrite its arguments.
    for variable in averaged:
        variable.assign(ops.copy(variable))


def evaluate_as(trained: keras.Model, network: keras.Model) -> None:
    """Makes `trained.evaluate` evaluate `network`, so that the recorded accuracy is that of the saved file.

    The losses of both include the weight decay penalty of the same weights, not that of frozen ones.

    Args:
        trained: compiled.
        network: compiled; the same network in full precision.
    """
    for own, other in zip(network.variables, trained.variables, strict=True):
        own.regularizer = other.regularizer

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("_use_cached_eval_dataset", None)  # Passed by `model.fit`; the cache belongs to `trained`.
        deliver(trained, network)
        return network.evaluate(*args, **kwargs)

    trained.evaluate = evaluate


def make_callbacks(model: keras.Model, batches: Batches, recorder: Recorder) -> list[keras.callbacks.Callback]:
    """The callbacks of a run, in the required order.

    Args:
        model: the compiled model to train.
        batches: batches of the training split.
        recorder: has the run, its recipe, and its folder.
    """
    callbacks = [batches.callback(), recorder]
    if recorder.run.recipe.schedule == "plateau":

        def begin(epoch, logs=None):
            # Computed from the record, so that a resumed run has the same rates.
            model.optimizer.learning_rate = plateau_rate(recorder.run.recipe, recorder.run.epochs)

        callbacks.insert(0, keras.callbacks.LambdaCallback(on_epoch_begin=begin))
    if recorder.run.recipe.early_stopping:

        def end(epoch, logs=None):
            model.stop_training = is_over(recorder.run.recipe, recorder.run.epochs)

        callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=end))
    extras = recorder.run.tensorboard
    if extras is not None:
        callbacks.append(
            keras.callbacks.TensorBoard(
                recorder.folder / "logs", write_graph="graph" in extras, histogram_freq=int("histograms" in extras)
            )
        )
    return callbacks
