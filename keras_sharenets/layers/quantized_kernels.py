import inspect
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sharenets import _checks
from keras_sharenets._types import Shape, Tensor
from keras_sharenets.ops import rounding

PRESERVE = (None, "zeros", "clusters")


# Along which axes a depthwise kernel has its filters: one for each input channel, and with `depth_multiplier` more.
_DEPTHWISE = (2, 3)


def stored_kernels(layer: keras.layers.Layer) -> tuple[tuple[keras.Variable, int | tuple[int, ...]], ...]:
    """The kernels that a built layer stores, those of its sublayers too.

    Returns:
        A tuple of `(variable, axes)`, `axes` being the last axis, or last axes, along which filters are counted; empty
        for layers without. A separable convolution has two.
    """
    own = _DEPTHWISE if isinstance(layer, keras.layers.DepthwiseConv2D) else -1
    found = []
    for weight in layer.weights:
        if weight.name.split("_")[0] == "kernel":
            found.append((weight, own))
        elif weight.name in ("depthwise_kernel", "pointwise_kernel") and len(weight.shape) == 4:
            found.append((weight, _DEPTHWISE if weight.name == "depthwise_kernel" else -1))
    return tuple(found)


def inner(layer: Any) -> Any:
    """The layer that does the work: what a `QuantizedKernels` stands around, any other itself."""
    return layer.layer if isinstance(layer, QuantizedKernels) else layer


@keras.saving.register_keras_serializable("keras_sharenets")
class QuantizedKernels(keras.layers.Wrapper):
    """Runs a layer with its kernels rounded to the integers that an int8 file will hold.

    Each filter has 127 steps either side of 0, the last being its largest magnitude. The kernel that is stored stays in
    float and is what training moves: the gradient of the rounded kernel is taken for its own. A kernel is rounded
    before anything is made of it, so all uses of a shared one have the same integers.

    Shapes, errors and stored parameters are those of the layer.

    Args:
        layer: `keras.Layer` whose kernels are named `kernel`, or `kernel_1` and so on, or those of a separable
            convolution. Its other weights stay as they are.
        preserve: `None`; `"zeros"`: weights that are 0 stay 0 in training; `"clusters"`: the same, and weights that
            were equal when `find_clusters` was called stay equal, moved by the mean of their gradients. Then a kernel
            has one range for all its filters, so that it has no more integers than values.

    Raises:
        ValueError: `preserve` is none of these.

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
        # `call` goes past the layer's own look at what it is given.
        self.input_spec = layer.input_spec
        _checks.one_of("preserve", preserve, PRESERVE)
        self.preserve = preserve

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
        """Remembers which weights are equal, for `preserve="clusters"`.

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
        """The kernels before they are rounded, as tensors: what is preserved is exactly so in them."""
        kernels = [ops.convert_to_tensor(kernel) for kernel, _ in self.kernels]
        if self.preserve is not None:
            kernels = [rounding.keep_zeros(kernel) for kernel in kernels]
        if self.preserve == "clusters":
            kernels = [rounding.share_gradients(*pair) for pair in zip(kernels, self.clusters, strict=True)]
        return kernels

    def rounded(self) -> keras.StatelessScope:
        """A scope in which the layer's kernels are the rounded ones."""
        # All variables, not only the kernels: where Keras trains with a scope of its own, this one hides it.
        values = {id(variable): (variable, ops.convert_to_tensor(variable)) for variable in self.layer.variables}
        for (variable, axis), kernel in zip(self.kernels, self.preserved_kernels(), strict=True):
            axis = None if self.preserve == "clusters" else axis
            values[id(variable)] = variable, rounding.round_filters(kernel, axis)
        return keras.StatelessScope(state_mapping=list(values.values()))

    def call(self, inputs: Tensor, training: bool | None = None, **kwargs: Any) -> Tensor:
        with self.rounded():
            return self.layer.call(inputs, **self._passed_on(training, kwargs))

    def _passed_on(self, training: bool | None, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call for the layer; not every one asks whether it is trained."""
        asks = "training" in inspect.signature(self.layer.call).parameters
        return {**arguments, "training": training} if asks else arguments

    def compute_output_shape(self, input_shape: Shape, **kwargs: Any) -> Shape:
        return self.layer.compute_output_shape(input_shape, **kwargs)

    def compute_output_spec(self, inputs: Tensor, training: bool | None = None, **kwargs: Any) -> keras.KerasTensor:
        return self.layer.compute_output_spec(inputs, **self._passed_on(training, kwargs))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "preserve": self.preserve}
