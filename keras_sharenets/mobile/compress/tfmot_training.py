"""A functional model in whose training steps TFMOT takes part."""

import types

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("keras_sharenets")
class TrainedWithTFMOT(keras.Model):
    """A functional model over the layers of another, trained by Keras' own `fit` with TFMOT at work in every step.

    Both models have the same layers, so training moves the weights of both. All else is as ever: `compile` takes any
    optimizer but one that averages weights, `fit` any data and callbacks, and it may be interrupted and repeated. After
    every single step the weights are what TFMOT makes of them. `evaluate`, `predict` and exports know nothing of TFMOT,
    and `save` writes a plain functional model that is not compiled.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`.
        kernels: sequence of the kernels that TFMOT changes, see [`keras_sharenets.mobile.compress.tfmot_kernels`].
        forward: function `(inputs, training)` that gives the outputs in training; by default the model itself.
    """

    def __init__(self, model, kernels=(), forward=None):
        super().__init__(*_ends(model), name=model.name)
        # In an object that Keras does not look into: what it finds is saved and counted.
        self._tfmot = types.SimpleNamespace(
            kernels={id(kernel.variable): kernel for kernel in kernels}, forward=forward
        )

    def compile(self, *args, **kwargs):
        """As in Keras; a `ValueError` for an optimizer with `use_ema=True`."""
        super().compile(*args, **kwargs)
        if getattr(self.optimizer, "use_ema", False):
            raise ValueError("`optimizer` must not average weights (`use_ema=True`): averages lose what TFMOT made.")

    def fit(self, *args, **kwargs):
        """As in Keras."""
        for kernel in self._tfmot.kernels.values():
            kernel.take_over()
        return super().fit(*args, **kwargs)

    def train_step(self, data):
        """Keras' training step, with TFMOT before the outputs, between gradients and optimizer, and at the end."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        kernels, forward = self._tfmot.kernels, self._tfmot.forward or self
        for kernel in kernels.values():
            kernel.begin_step()
        with tf.GradientTape() as tape:
            outputs = forward(x, training=True)
            loss = self.compute_loss(x, y, outputs, sample_weight)
            scaled_loss = self.optimizer.scale_loss(loss)
        variables = self.trainable_variables
        gradients = tape.gradient(scaled_loss, variables)
        self.optimizer.apply_gradients(
            pair
            for gradient, variable in zip(gradients, variables, strict=True)
            for pair in (kernels[id(variable)].trained(gradient) if id(variable) in kernels else [(gradient, variable)])
        )
        for kernel in kernels.values():
            kernel.end_step()
        # The first metric is always the loss.
        self.metrics[0].update_state(loss, sample_weight=tf.shape(keras.tree.flatten(outputs)[0])[0])
        return self.compute_metrics(x, y, outputs, sample_weight)

    def save(self, *args, **kwargs):
        """Saves a plain functional model."""
        plain(self).save(*args, **kwargs)

    def get_config(self):
        return plain(self).get_config()

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """A plain functional model."""
        return keras.Model.from_config(config, custom_objects)


def check_backend():
    """Raises a `RuntimeError` on another backend than TensorFlow: TFMOT works with its variables."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"TFMOT needs the TensorFlow backend, and Keras runs on {backend!r}. Save the model as a `.keras` file, "
            f"set the environment variable KERAS_BACKEND=tensorflow in a new process and load and train it there."
        )


def plain(model):
    """A plain functional model with the layers of another, functional or `Sequential`, not compiled."""
    return keras.Model(*_ends(model), name=model.name)


def _ends(model):
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output
