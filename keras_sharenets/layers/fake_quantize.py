from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor
from keras_sharenets.ops import rounding


@keras.saving.register_keras_serializable("keras_sharenets")
class FakeQuantize(keras.layers.Layer):
    """Rounds values to the 256 steps that an int8 file will have for them, and learns their range in training.

    In training the range follows the smallest and largest number of each batch, as moving averages; the first batch
    sets it. A gradient passes unchanged where a value is inside the range, and is 0 outside. In inference the range
    stays. Before it has seen anything the layer gives back what it is given.

    Values that are joined, padded or moved without arithmetic have one range in an integer file. A layer that is called
    in several places, each with a `place` of its own, gives them all the widest range of any.

    Shapes: any to the same. Stores `2 * places` numbers, none of them trained.

    Args:
        places: int, in how many places the layer is called.
        momentum: number from 0 up to, not including, 1, of the moving averages.

    Raises:
        ValueError: an argument breaks a rule above.

    Reference: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", CVPR 2018, section 3.

    >>> import numpy as np
    >>> layer = FakeQuantize()
    >>> _ = layer(np.array([[-1.0, 4.1]]), training=True)
    >>> [round(float(number), 2) for number in layer(np.array([[0.333, 9.0]]))[0]]
    [0.34, 4.1]
    """

    def __init__(self, places: int = 1, *, momentum: float = 0.95, **kwargs: Any):
        super().__init__(**kwargs)
        self.places = _checks.positive("places", places)
        _checks.rate("momentum", momentum)
        self.momentum = momentum

    def build(self, input_shape: Shape) -> None:
        vector = {"shape": (self.places,), "initializer": "zeros", "trainable": False, "autocast": False}
        self.low = self.add_weight(name="low", **vector)
        self.high = self.add_weight(name="high", **vector)

    def range(self) -> tuple[Tensor, Tensor]:
        """The range of all places together: `(low, high)`, scalars; equal before anything has been seen."""
        return ops.min(self.low), ops.max(self.high)

    def call(self, inputs: Tensor, place: int = 0, training: bool | None = None) -> Tensor:
        if training:
            self._watch(ops.stop_gradient(ops.cast(inputs, self.low.dtype)), place)
        low, high = self.range()
        known = high > low
        rounded = rounding.round_values(ops.cast(inputs, self.low.dtype), low, ops.where(known, high, 1.0))
        return ops.where(known, ops.cast(rounded, inputs.dtype), inputs)

    def _watch(self, inputs: Tensor, place: int) -> None:
        """Moves the range of one place towards that of a batch; 0, which padding and ReLU need, is always inside."""
        here = ops.arange(self.places) == place
        low, high = ops.convert_to_tensor(self.low), ops.convert_to_tensor(self.high)
        step = ops.cast(ops.where(here, ops.where(high > low, 1 - self.momentum, 1.0), 0.0), low.dtype)
        self.low.assign(low + step * (ops.minimum(ops.min(inputs), 0.0) - low))
        self.high.assign(high + step * (ops.maximum(ops.max(inputs), 0.0) - high))

    def compute_output_shape(self, input_shape: Shape, place: int = 0) -> Shape:
        return tuple(input_shape)

    def compute_output_spec(self, inputs: Tensor, place: int = 0, training: bool | None = None) -> keras.KerasTensor:
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "places": self.places, "momentum": self.momentum}
