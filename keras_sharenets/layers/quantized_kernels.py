import inspect
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor
from keras_sharenets.ops import rounding

PRESERVE = (None, "zeros", "clusters")


# The filter axes of a depthwise kernel: input channels and `depth_multiplier`.
_DEPTHWISE = (-2, -1)


def stored_kernels(layer: keras.Operation) -> tuple[tuple[keras.Variable, int | tuple[int, ...]], ...]:
    """The kernels of a built layer, including its sublayers.

    Returns:
        A tuple of `(variable, axes)`; `axes` are the trailing axes that index the filters. Empty for a layer without
        kernels. A separable convolution has two.
    """
    depthwise = isinstance(layer, (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D))
    own = _DEPTHWISE if depthwise else -1
    found, parts = [], layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else ()
    products = [part for part in parts if isinstance(part, keras.layers.EinsumDense)]
    several = {id(weight): _einsum_axes(part.equation) for part in products for weight in part.weights}
    for weight in getattr(layer, "weights", ()):  # Functions of `keras.ops` have none.
        if weight.name.split("_")[0] == "kernel":
            found.append((weight, several.get(id(weight), own)))
        elif weight.name in ("depthwise_kernel", "pointwise_kernel"):
            found.append((weight, _DEPTHWISE if weight.name == "depthwise_kernel" else -1))
    return tuple(found)


def _einsum_axes(equation: str) -> int | tuple[int, ...]:
    """The trailing axes of the kernel of an `EinsumDense` that its input does not have.

    >>> _einsum_axes("abc,cde->abde"), _einsum_axes("ab,bc->ac")
    ((-2, -1), -1)
    """
    left, kernel = equation.partition("->")[0].split(",")
    axes = tuple(place - len(kernel) for place, letter in enumerate(kernel) if letter not in left)
    return axes if len(axes) > 1 and axes[0] == -len(axes) else -1


def inner(layer: Any) -> Any:
    """The wrapped layer of a `QuantizedKernels`; any other layer itself."""
    return layer.layer if isinstance(layer, QuantizedKernels) else layer


@keras.saving.register_keras_serializable("keras_sharenets")
class QuantizedKernels(keras.layers.Wrapper):
    """Wrapper that runs a layer with its kernels rounded to the integers of an int8 file.

    Each filter is quantized symmetrically to 127 levels on either side of 0, scaled by its largest magnitude. The
    stored kernel stays in float and is the one that is trained; its gradient is that of the rounded kernel
    (straight-through estimator). A stored kernel is rounded before it is expanded, so all uses of a shared kernel have
    the same integers.

    Shapes, errors and stored parameters are those of the wrapped layer.

    Args:
        layer: `keras.Layer` whose kernels are named `kernel`, or `kernel_1` and so on, or a separable convolution. Its
            other weights are not rounded.
        preserve: what training preserves. `None`: nothing. `"zeros"`: zero weights stay zero. `"clusters"`: zero
            weights stay zero, and weights that were equal when `find_clusters` was called stay equal and move by the
            mean of their gradients. A kernel then has one range for all filters, so that it has no more distinct
            integers than distinct values.

    Raises:
        ValueError: `preserve` is not one of these values.

    Reference: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", CVPR 2018, section 3.

    >>> import keras
    >>> layer = QuantizedKernels(keras.layers.Dense(1, use_bias=False))
    >>> layer.build((None, 2))
    >>> _ = layer.layer.kernel.assign([[1.27], [0.333]])
    >>> round(float(layer(keras.ops.convert_to_tensor([[0.0, 1.0]]))[0, 0]), 4)
    0.33
    """

    def __init__(self, layer: keras.layers.Layer, *, preserve: str | None = None, **kwargs: Any):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"`layer` (={layer!r}) must be a Keras layer.")
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        # `call` bypasses the input check and the activity regularizer of the wrapped layer.
        self.input_spec = layer.input_spec
        self.activity_regularizer = layer.activity_regularizer
        _checks.one_of("preserve", preserve, PRESERVE)
        self.preserve = preserve
        if not self.trainable:  # Keras would freeze only weights of the wrapper itself.
            layer.trainable = False

    def build(self, input_shape: Shape | None = None) -> None:
        if input_shape is not None and input_shape[-1] == 0:
            raise ValueError(f"The input of layer '{self.name}' must have channels, got shape {tuple(input_shape)}.")
        super().build(input_shape)
        self.input_spec = self.layer.input_spec
        kernels = self.kernels if self.preserve == "clusters" else ()
        whole = {"dtype": "uint8", "initializer": "zeros", "trainable": False}
        self.clusters = [
            self.add_weight(name=f"clusters_{place}", shape=kernel.shape, **whole)
            for place, (kernel, _) in enumerate(kernels, start=1)
        ]

    @property
    def kernels(self) -> tuple[tuple[keras.Variable, int | tuple[int, ...]], ...]:
        """The layer's kernels: a tuple of `(variable, axes of its filters)`."""
        return stored_kernels(self.layer)

    def find_clusters(self) -> None:
        """Records which weights are equal, for `preserve="clusters"`.

        Raises:
            ValueError: a kernel has more than 256 distinct values.
        """
        for (kernel, _), clusters in zip(self.kernels, self.clusters, strict=True):
            values, members = np.unique(ops.convert_to_numpy(kernel), return_inverse=True)
            if len(values) > rounding.MAX_CLUSTERS:
                raise ValueError(
                    f"`preserve` (='clusters') needs kernels of at most {rounding.MAX_CLUSTERS} distinct values, and "
                    f"'{kernel.path}' has {len(values)}: cluster the network first."
                )
            clusters.assign(members.reshape(kernel.shape))

    def preserved_kernels(self) -> list[Tensor]:
        """The kernels before rounding, as tensors, with zeros or clusters preserved exactly."""
        kernels = [ops.convert_to_tensor(kernel) for kernel, _ in self.kernels]
        if self.preserve is not None:
            kernels = [rounding.keep_zeros(kernel) for kernel in kernels]
        if self.preserve == "clusters":
            kernels = [rounding.share_gradients(*pair) for pair in zip(kernels, self.clusters, strict=True)]
        return kernels

    def rounded_kernels(self) -> list[Tensor]:
        """The kernels as in an int8 file, in float."""
        axes = [None if self.preserve == "clusters" else axis for _, axis in self.kernels]
        return [rounding.round_filters(*pair) for pair in zip(self.preserved_kernels(), axes, strict=True)]

    def rounded(self) -> keras.StatelessScope:
        """A scope in which the layer uses its rounded kernels."""
        return self._with(self.rounded_kernels())

    def _with(self, kernels: Sequence[Tensor]) -> keras.StatelessScope:
        # All variables, not only the kernels: this scope hides the one that Keras may train in.
        values = {id(variable): (variable, ops.convert_to_tensor(variable)) for variable in self.layer.variables}
        for (variable, _), kernel in zip(self.kernels, kernels, strict=True):
            values[id(variable)] = variable, kernel
        return keras.StatelessScope(state_mapping=list(values.values()), collect_losses=True)

    def call(self, inputs: Tensor, *others: Tensor, training: bool | None = None, **kwargs: Any) -> Tensor:
        outputs, losses = self.run(self.rounded_kernels(), inputs, *others, training=training, **kwargs)
        for loss in losses:
            self.add_loss(loss)
        return outputs

    def run(
        self, kernels: Sequence[Tensor], inputs: Tensor, *others: Tensor, training: bool | None = None, **kwargs: Any
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs the layer with other kernels, in the order of `kernels`; returns its outputs and its losses."""
        with self._with(kernels) as scope:
            before = {id(variable): scope.get_current_value(variable) for variable in self.layer.variables}
            outputs = self.layer.call(inputs, *others, **self._passed_on(training, kwargs))
        # What the layer has updated in the scope: seeds of its dropout, statistics of its normalizations.
        for variable in self.layer.variables:
            value = scope.get_current_value(variable)
            if value is not before[id(variable)]:
                variable.assign(value)
        return outputs, scope.losses

    def _passed_on(self, training: bool | None, arguments: dict[str, Any]) -> dict[str, Any]:
        """The call arguments for the wrapped layer, with `training` only if its `call` has that parameter."""
        asks = "training" in inspect.signature(self.layer.call).parameters
        return {**arguments, "training": training} if asks else arguments

    def compute_output_shape(self, input_shape: Shape, **kwargs: Any) -> Shape:
        return self.layer.compute_output_shape(input_shape, **kwargs)

    def compute_output_spec(
        self, inputs: Tensor, *others: Tensor, training: bool | None = None, **kwargs: Any
    ) -> keras.KerasTensor:
        return self.layer.compute_output_spec(inputs, *others, **self._passed_on(training, kwargs))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "preserve": self.preserve}
