"""Functional model whose training steps include TFMOT."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from keras_sharenets import _checks
from keras_sharenets.analysis.graph import ends


class TrainedKernel(Protocol):
    """A kernel that TFMOT changes in every training step."""

    variable: keras.Variable

    def on_train_begin(self) -> None:
        """Called by `fit`, before its first step."""

    def begin_step(self) -> None:
        """Called before the forward pass of a step."""

    def gradients(self, gradient: Any) -> list[tuple[Any, Any]]:
        """The `(gradient, variable)` pairs for the optimizer, from the gradient of this kernel."""
        ...

    def end_step(self) -> None:
        """Called after the optimizer's update."""

    def steps_left(self) -> int:
        """Number of training steps until TFMOT is done."""
        ...

    def state(self) -> list[Any]:
        """The variables, in addition to the kernel, that are needed to resume training."""
        ...


@keras.saving.register_keras_serializable("keras_sharenets")
class TrainedWithTFMOT(keras.Model):
    """A functional model over the layers of another, trained by Keras' own `fit` with TFMOT in every step.

    Both models have the same layers, so training updates the weights of both. Everything else works as usual: `compile`
    takes any optimizer except one that averages weights, and `fit` takes any data and callbacks and may be interrupted
    and repeated. After every step the weights are pruned or clustered. `evaluate`, `predict` and exports do not involve
    TFMOT, and `save` writes a plain functional model that is not compiled.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`.
        kernels: the kernels that TFMOT changes.
        forward: function `(inputs, training)` that computes the outputs in training; by default the model itself.
    """

    def __init__(
        self,
        model: keras.Model,
        kernels: Sequence[TrainedKernel] = (),
        *,
        forward: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(*ends(model), name=model.name)
        # In an object that Keras does not track: tracked variables would be saved and counted.
        self._tfmot = types.SimpleNamespace(
            kernels={id(kernel.variable): kernel for kernel in kernels}, forward=forward
        )

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As in Keras; raises `ValueError` for an optimizer with `use_ema=True`."""
        super().compile(*args, **kwargs)
        if getattr(self.optimizer, "use_ema", False):
            raise ValueError("`optimizer` must not average weights (`use_ema=True`): averages undo TFMOT's changes.")

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As in Keras."""
        for kernel in self._tfmot.kernels.values():
            kernel.on_train_begin()
        return super().fit(*args, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Keras' training step with TFMOT before the forward pass, before the optimizer, and at the end."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        forward, variables = self._tfmot.forward or self, self.trainable_variables
        # Kernels of frozen layers stay unchanged.
        kernels = {id(variable): self._tfmot.kernels.get(id(variable)) for variable in variables}
        kernels = {number: kernel for number, kernel in kernels.items() if kernel is not None}
        for kernel in kernels.values():
            kernel.begin_step()
        with tf.GradientTape() as tape:
            outputs = forward(x, training=True)
            loss = self.compute_loss(x, y, outputs, sample_weight)
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, variables)
        self.optimizer.apply_gradients(
            pair
            for gradient, variable in zip(gradients, variables, strict=True)
            for pair in (
                kernels[id(variable)].gradients(gradient) if id(variable) in kernels else [(gradient, variable)]
            )
        )
        for kernel in kernels.values():
            kernel.end_step()
        # The first metric is always the loss.
        self.metrics[0].update_state(loss, sample_weight=tf.shape(keras.tree.flatten(outputs)[0])[0])
        return self.compute_metrics(x, y, outputs, sample_weight)

    @property
    def optimized_variables(self) -> list[Any]:
        """The variables that the optimizer updates: the trainable ones, or their substitutes."""
        kernels = self._tfmot.kernels
        return [
            moved
            for variable in self.trainable_variables
            for _, moved in (kernels[id(variable)].gradients(None) if id(variable) in kernels else [(None, variable)])
        ]

    @property
    def training_state(self) -> list[Any]:
        """The variables, in addition to those of the model, that a training checkpoint needs."""
        return [variable for kernel in self._tfmot.kernels.values() for variable in kernel.state()]

    def steps_left(self) -> int:
        """Number of training steps until TFMOT is done."""
        kernels = self._tfmot.kernels.values()
        return max((kernel.steps_left() for kernel in kernels if kernel.variable.trainable), default=0)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves a plain functional model."""
        plain(self).save(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return plain(self).get_config()

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> keras.Model:
        """A plain functional model."""
        return keras.Model.from_config(config, custom_objects)


def check_backend() -> None:
    """Raises `RuntimeError` unless the backend is TensorFlow: TFMOT works with its variables."""
    _checks.tensorflow_backend("TFMOT", "load and train it there")


def plain(model: keras.Model) -> keras.Model:
    """A plain functional model with the layers of another functional or `Sequential` one, not compiled."""
    return keras.Model(*ends(model), name=model.name)
