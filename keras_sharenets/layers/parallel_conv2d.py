import weakref
from typing import Any

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Size, Tensor
from keras_sharenets.layers.highly_shared_conv2d import HighlySharedConv2D
from keras_sharenets.ops import convolution


@keras.saving.register_keras_serializable("keras_sharenets")
class ParallelConv2D(keras.layers.Layer):
    """Sum of a spatial and a 1x1 convolution of the same input, computed as one convolution where that is faster.

    A 1x1 kernel is equivalent to a larger kernel that is zero except at its center. One convolution with the sum of
    both kernels therefore gives the sum of both results, and adding kernels costs next to nothing. Native grouped
    convolutions are merged in this way. If the repeated filters of the first layer are folded into the batch, the two
    convolutions run separately.

    Profiles, exports and quantization treat the layer as two convolutions and their sum.

    Args:
        spatial: `HighlySharedConv2D` with an odd kernel size, no bias, no activation and no activity regularizer. With
            `padding="valid"`, its input is padded with zeros so that the kernel is centered on every pixel, whatever
            the strides. With `padding="same"`, it must not be called with strides.
        pointwise: `HighlySharedConv2D` with `kernel_size=1`, the same `filters` and `groups`, no bias, no activation
            and no activity regularizer. Neither layer may be part of another built `ParallelConv2D`.

    Call arguments:
        inputs: tensor.
        strides: int or pair of ints, strides of both convolutions in this call.

    Input shape: `(batch, height, width, channels)`.
    Output shape: `(batch, ceil(height / strides), ceil(width / strides), filters)`.

    Stored parameters: the sum of the two layers.

    Raises:
        ValueError: the two layers are incompatible. The message names the difference.

    >>> import keras
    >>> from keras_sharenets.layers import HighlySharedConv2D
    >>> spatial = HighlySharedConv2D(8, 3, groups=4, channel_repeats=2)
    >>> layer = ParallelConv2D(spatial, HighlySharedConv2D(8, 1, groups=4))
    >>> tuple(layer(keras.ops.ones((1, 6, 6, 8))).shape), layer.count_params()
    ((1, 6, 6, 8), 88)

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", Expert Systems with Applications 2021,
    figure 5, where theta4 and theta5 are such a pair.
    """

    def __init__(self, spatial: HighlySharedConv2D, pointwise: HighlySharedConv2D, **kwargs: Any):
        for name, layer in (("spatial", spatial), ("pointwise", pointwise)):
            if not isinstance(layer, HighlySharedConv2D):
                raise ValueError(f"`{name}` (={layer!r}) must be a `HighlySharedConv2D`.")
        kwargs.setdefault("dtype", spatial.dtype_policy)
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        for name in ("filters", "groups"):
            first, second = getattr(spatial, name), getattr(pointwise, name)
            if first != second:
                raise ValueError(f"`{name}` of `pointwise` (={second}) must equal that of `spatial` (={first}).")
        if pointwise.kernel_size != (1, 1):
            raise ValueError(f"`kernel_size` of `pointwise` (={pointwise.kernel_size}) must be 1.")
        if any(side % 2 == 0 for side in spatial.kernel_size):
            raise ValueError(f"`kernel_size` of `spatial` (={spatial.kernel_size}) must be odd.")
        for name, layer in (("spatial", spatial), ("pointwise", pointwise)):
            plain = not layer.use_bias and layer.activation is keras.activations.linear and layer.strides == (1, 1)
            if not plain or layer.activity_regularizer is not None:
                raise ValueError(
                    f"`{name}` (='{layer.name}') must have no bias, no activation, no activity regularizer and strides "
                    "of 1."
                )
        self.spatial = spatial
        self.pointwise = pointwise
        if not self.trainable:  # Keras would freeze only weights of the layer itself.
            spatial.trainable = pointwise.trainable = False
        # Used only by `reference_model`, which must reuse the same layers in every call.
        self._pad = keras.layers.ZeroPadding2D(self.border, data_format="channels_last", name=f"{self.name}_pad")
        self._sum = keras.layers.Add(name=f"{self.name}_sum")

    @property
    def border(self) -> tuple[int, int]:
        """Rows and columns of zero padding on each side."""
        if self.spatial.padding == "same":
            return (0, 0)
        height, width = self.spatial.kernel_size
        return height // 2, width // 2

    def _strides(self, strides: Size | None) -> tuple[int, int]:
        strides = _checks.pair("strides", 1 if strides is None else strides)
        if self.spatial.padding == "same" and strides != (1, 1):
            raise ValueError(f"`strides` (={strides}) require `padding='valid'` in layer '{self.spatial.name}'.")
        return strides

    def build(self, input_shape: Shape) -> None:
        for name, layer in (("spatial", self.spatial), ("pointwise", self.pointwise)):
            self._take(name, layer)
        # Loaded layers are built already.
        for layer, shape in ((self.spatial, self._padded_shape(input_shape)), (self.pointwise, input_shape)):
            if not layer.built:
                layer.build(shape)
        # `model.quantize`, which skips layers that it does not support, accepts only built ones.
        self._pad.build(input_shape)
        self._sum.build([self.compute_output_shape(input_shape)] * 2)

    def _take(self, name: str, layer: HighlySharedConv2D) -> None:
        """Raises a `ValueError` if a layer is part of another `ParallelConv2D`: a file would store it as two layers."""
        owner = getattr(layer, "_parallel", lambda: None)()
        if owner not in (None, self):
            raise ValueError(
                f"`{name}` (='{layer.name}') must not be part of another `ParallelConv2D` (='{owner.name}'), since a "
                "copy or a file would not share its weights: call that layer in both places, or add two convolutions."
            )
        layer._parallel = weakref.ref(self)

    def _padded_shape(self, shape: Shape) -> Shape:
        sides = [side and side + 2 * border for side, border in zip(shape[1:3], self.border, strict=True)]
        return (shape[0], *sides, shape[3])

    def effective_kernel(self) -> Tensor:
        """The kernel of the equivalent grouped convolution.

        Returns:
            A tensor `(kernel height, kernel width, channels / groups, filters)`.
        """
        sides = [(side // 2, side // 2) for side in self.spatial.kernel_size]
        central = ops.pad(self.pointwise.effective_kernel(), (*sides, (0, 0), (0, 0)))
        return ops.add(self.spatial.effective_kernel(), central)

    def call(self, inputs: Tensor, strides: Size | None = None, training: bool | None = None) -> Tensor:
        strides = self._strides(strides)
        padded = self._padded(inputs)
        if self.spatial.choose_implementation(padded.shape, strides, training) != "grouped":
            spatial = self.spatial(padded, strides=strides, training=training)
            return ops.add(spatial, self.pointwise(inputs, strides=strides, training=training))
        groups, padding = self.spatial.groups, self.spatial.padding
        return convolution.grouped(padded, self.effective_kernel(), groups, 1, strides=strides, padding=padding)

    def _padded(self, inputs: Tensor) -> Tensor:
        rows, columns = self.border
        return ops.pad(inputs, ((0, 0), (rows, rows), (columns, columns), (0, 0))) if any(self.border) else inputs

    def reference_model(
        self, inputs: keras.KerasTensor, strides: Size | None = None, training: bool | None = None
    ) -> keras.Model:
        """The reference implementation: the two layers and their sum, as a functional model.

        Args:
            inputs: `keras.KerasTensor`, the input of the layer.
            strides: as in a call.
            training: as in a call; it only affects speed.

        Returns:
            A `keras.Model` that uses the layers of this one, not copies.
        """
        strides = self._strides(strides)
        start = keras.Input(batch_shape=inputs.shape, dtype=inputs.dtype)
        padded = self._pad(start) if any(self.border) else start
        parts = [self.spatial(padded, strides=strides), self.pointwise(start, strides=strides)]
        return keras.Model(start, self._sum(parts))

    def compute_output_shape(self, input_shape: Shape, strides: Size | None = None) -> Shape:
        return self.spatial.compute_output_shape(self._padded_shape(input_shape), self._strides(strides))

    def compute_output_spec(
        self, inputs: Tensor, strides: Size | None = None, training: bool | None = None
    ) -> keras.KerasTensor:
        return keras.KerasTensor(self.compute_output_shape(inputs.shape, strides), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        layers = {"spatial": self.spatial, "pointwise": self.pointwise}
        saved = {name: keras.saving.serialize_keras_object(layer) for name, layer in layers.items()}
        return {**super().get_config(), **saved}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ParallelConv2D":
        loaded = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("spatial", "pointwise")}
        return cls(**{**config, **loaded})
