from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor
from keras_sharenets.ops import rounding


@keras.saving.register_keras_serializable("keras_sharenets")
class FakeQuantize(keras.layers.Layer):
    """Rounds values to the 256 levels of an int8 file and tracks their range during training.

    During training, the range is a moving average of the minimum and the maximum of each batch; the first batch
    initializes it. Gradients pass unchanged for values inside the range and are 0 outside. In inference, the range is
    fixed. Before the first training batch, the layer returns its input.

    Values that are concatenated, padded or moved without arithmetic share one range in an integer file. For these,
    call one layer in several places, each with its own `place`: all places get the union of their ranges.

    Input and output shape: any, unchanged. The layer stores `2 * places` non-trainable numbers.

    Args:
        places: int, number of places in which the layer is called.
        momentum: float, momentum of the moving averages; at least 0 and below 1.

    Call arguments:
        inputs: tensor.
        place: int, index of the place, from 0.

    Raises:
        ValueError: an argument violates one of these rules.

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
        self.momentum = float(momentum)

    def build(self, input_shape: Shape) -> None:
        vector = {"shape": (self.places,), "initializer": "zeros", "trainable": False, "autocast": False}
        self.low = self.add_weight(name="low", **vector)
        self.high = self.add_weight(name="high", **vector)

    def range(self) -> tuple[Tensor, Tensor]:
        """The union of the ranges of all places: scalars `(low, high)`, equal before the first batch."""
        return ops.min(self.low), ops.max(self.high)

    def call(self, inputs: Tensor, place: int = 0, training: bool | None = None) -> Tensor:
        self._check_place(place)
        if training:
            self._update_range(ops.stop_gradient(ops.cast(inputs, self.low.dtype)), place)
        low, high = self.range()
        known = high > low
        rounded = rounding.round_values(ops.cast(inputs, self.low.dtype), low, ops.where(known, high, 1.0))
        return ops.where(known, ops.cast(rounded, inputs.dtype), inputs)

    def _check_place(self, place: int) -> None:
        if not 0 <= place < self.places:
            raise ValueError(f"`place` (={place}) must be at least 0 and below `places` (={self.places}).")

    def _update_range(self, inputs: Tensor, place: int) -> None:
        """Moves the range of one place toward that of a batch. It always includes 0, which padding and ReLU need."""
        here = ops.arange(self.places) == place
        low, high = ops.convert_to_tensor(self.low), ops.convert_to_tensor(self.high)
        step = ops.cast(ops.where(here, ops.where(high > low, 1 - self.momentum, 1.0), 0.0), low.dtype)
        self.low.assign(low + step * (ops.minimum(ops.min(inputs), 0.0) - low))
        self.high.assign(high + step * (ops.maximum(ops.max(inputs), 0.0) - high))

    def compute_output_shape(self, input_shape: Shape, place: int = 0) -> Shape:
        return tuple(input_shape)

    def compute_output_spec(self, inputs: Tensor, place: int = 0, training: bool | None = None) -> keras.KerasTensor:
        self._check_place(place)
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "places": self.places, "momentum": self.momentum}
