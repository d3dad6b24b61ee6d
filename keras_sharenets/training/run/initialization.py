"""Fresh weights in another distribution than a network's own."""

import keras

FANS = {"he_fan_in": "fan_in", "he_fan_out": "fan_out"}


def initialize(network, how):
    """Draws the kernels of all convolutions anew: normal, with a variance of 2 / fan.

    Args:
        network: `keras.Model` whose convolutions are all `keras.layers.Conv2D`.
        how: `"network"` for nothing at all, `"he_fan_in"` or `"he_fan_out"`.

    Raises:
        ValueError: a layer with filters is of another kind: what its fan is, only its own initialiser knows. Nothing
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
