"""The model that is trained: a network with a loss, a metric and an optimizer."""

import math

import keras

from keras_sharenets.training.run.optimizers import build_optimizer, decay_weights


def compile_model(network, run, steps_per_epoch, devices):
    """A second model on the same layers, compiled; `network` stays without optimizer, and so do its files.

    Args:
        network: functional `keras.Model`.
        run: `Run`.
        steps_per_epoch: int.
        devices: `Devices`, whose scope this is called in.
    """
    decay_weights(network, run.recipe.weight_decay)
    model = devices.model(network.input, network.output, name=network.name)
    model.compile(
        optimizer=build_optimizer(run.recipe, steps_per_epoch),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=run.recipe.label_smoothing),
        # Some test pictures only fill up a batch, and weigh nothing.
        weighted_metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        jit_compile=run.jit_compile,
        # A checkpoint falls behind the last of the steps that are taken at once.
        steps_per_execution=math.gcd(devices.steps_per_execution, run.checkpoint_steps or 0),
    )
    # Built before the first batch, so that a checkpoint can be restored.
    model.optimizer.build(model.trainable_variables)
    nothing = keras.ops.zeros((1, model.output_shape[-1]))
    model.compute_metrics(None, nothing, nothing)
    model.reset_metrics()
    return model
