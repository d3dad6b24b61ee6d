"""Where a network has convolutions that can share: the layer, its calls, the normalizations behind them."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets.analysis.graph import Call, Graph

# What [`keras_sharenets.share`] takes as `where`: names or patterns of them, or a function of a layer.
Where = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None


# The axes of the channels that a layer reads and of those that it gives, of each of its weights.
_AXES: dict[type, tuple[tuple[int | None, int | None], ...]] = {
    keras.layers.BatchNormalization: ((None, 0),) * 4,
    keras.layers.Conv2D: ((2, 3), (None, 0)),
    keras.layers.Dense: ((0, 1), (None, 0)),
    keras.layers.DepthwiseConv2D: ((2, None), (None, 0)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """Which of its channels, as they were, a layer reads and gives in each position; `None`: nothing has changed."""

    reads: np.ndarray | None = None
    gives: np.ndarray | None = None

    def weights(self, layer: keras.layers.Layer) -> list[np.ndarray]:
        """The weights of a layer in this order, in float64."""
        weights = [numpy_of(weight) for weight in layer.weights]
        axes_of = next((axes for kind, axes in _AXES.items() if isinstance(layer, kind)), ())
        for number, axes in enumerate(axes_of[: len(weights)]):
            for axis, order in zip(axes, (self.reads, self.gives), strict=True):
                if axis is not None and order is not None:
                    weights[number] = np.take(weights[number], order, axis)
        return weights


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """One convolution layer with all its calls.

    Attributes:
        layer: the `keras.layers.Conv2D`.
        calls: its calls, in order.
        norms: the `BatchNormalization` layers that alone read its outputs, in the order of the calls; empty where one
            of the outputs goes elsewhere too, or has an activation before it is normalized.
        block: number of merges before the first call.
        resolution: height and width of the outputs of the first call.
        order: that of its channels.
    """

    layer: keras.layers.Conv2D
    calls: tuple[Call, ...]
    norms: tuple[keras.layers.BatchNormalization, ...]
    block: int
    resolution: tuple[Any, ...]
    order: Order = Order()

    @property
    def path(self) -> str:
        """The name of the layer, with the names of nested models before it."""
        return self.calls[0].path

    @property
    def kernel(self) -> np.ndarray:
        """The kernel, `(height, width, inputs per group, filters)` in float64."""
        return self.order.weights(self.layer)[0]

    @property
    def bias(self) -> np.ndarray:
        """The bias, zeros where the layer has none."""
        return self.order.weights(self.layer)[1] if self.layer.use_bias else np.zeros(self.layer.filters)

    @property
    def stored(self) -> int:
        """Weights that the layer stores."""
        return math.prod(self.layer.kernel.shape) + (self.layer.filters if self.layer.use_bias else 0)

    def importance(self) -> np.ndarray:
        """How much a change of each output channel counts: the scale of the normalization behind it, else 1."""
        if not self.norms:
            return np.ones(self.layer.filters)
        scales = [np.abs(scale_and_offset(norm)[0]) for norm in self.norms]
        scale = np.sqrt(np.mean(np.square(scales), axis=0))
        scale = scale if self.order.gives is None else scale[self.order.gives]
        # A channel of scale 0 has no right kernel: this keeps the numbers finite.
        return np.maximum(scale, max(1e-3 * scale.max(), 1e-12))


def numpy_of(tensor: Any) -> np.ndarray:
    """A tensor or variable as float64."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(tensor)), np.float64)


def scale_and_offset(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """What a normalization does in inference: `y = x * scale + offset`."""
    scale = 1 / np.sqrt(numpy_of(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * numpy_of(norm.gamma)
    return scale, (numpy_of(norm.beta) if norm.center else 0) - scale * numpy_of(norm.moving_mean)


def normalizes_channels(call: Call) -> bool:
    """Whether a call is that of a batch normalization over the last axis."""
    norm = call.operation
    return isinstance(norm, keras.layers.BatchNormalization) and norm.axis in (-1, len(call.input_shapes[0]) - 1)


def _obstacle(layer: keras.layers.Layer, calls: Sequence[Call]) -> str | None:
    """Why a convolution can share by no scheme, or `None`."""
    if type(layer) is not keras.layers.Conv2D:
        return f"a {type(layer).__name__}, not a `keras.layers.Conv2D`"
    if any(len(call.inputs) != 1 for call in calls):
        return "it is called with several inputs"
    if layer.data_format != "channels_last":
        return "its data format is 'channels_first'"
    if layer.dtype_policy.quantization_mode is not None:
        return f"its kernel is quantized by the dtype policy '{layer.dtype_policy.name}'"
    if layer.kernel_constraint is not None:
        return "its kernel has a constraint, which the shared one could not keep"
    return None


def _norms(calls, consumers, calls_of, outputs):
    found = []
    for call in calls:
        (output,) = call.outputs
        readers = consumers[output.number]
        if len(readers) != 1 or output.number in outputs:
            return ()
        if not normalizes_channels(readers[0]):
            return ()
        norm = readers[0].operation
        sources = {each.inputs[0].number for each in calls_of[id(norm)]}
        if not sources <= {each.outputs[0].number for each in calls}:
            return ()
        found.append(norm)
    return tuple(found)


def is_merge(call: Call) -> bool:
    """Whether a call joins images of equal sides: the end of a block. The factors of squeeze and excitation do not."""
    images = [shape for shape in call.input_shapes if len(shape) == 4]
    sides = {shape[1:3] for shape in (*images, *call.output_shapes)}
    return len(images) > 1 and len(sides) == 1


def find_places(graph: Graph, sized: Graph) -> tuple[list[Place], dict[str, str]]:
    """All convolutions of a network that may share, and why the others may not.

    Args:
        graph: the network.
        sized: the same with the sides of its images known, where they are.

    Returns:
        A list of `Place` in the order of execution, and a dict from the names of the other convolutions to a reason.
    """
    consumers, calls_of, blocks = collections.defaultdict(list), collections.defaultdict(list), {}
    merges, sides = 0, {}
    for call, with_sides in zip(graph.calls, sized.calls, strict=True):
        blocks.setdefault(id(call.operation), merges)
        sides.setdefault(id(call.operation), with_sides.output_shapes[0][1:3])
        calls_of[id(call.operation)].append(call)
        for tensor in call.inputs:
            consumers[tensor.number].append(call)
        merges += is_merge(with_sides)
    outputs = {tensor.number for tensor in graph.outputs}
    places, refused = [], {}
    for calls in calls_of.values():
        layer = calls[0].operation
        if not isinstance(layer, keras.layers.Conv2D) and not hasattr(layer, "effective_kernel"):
            continue
        reason = _obstacle(layer, calls)
        if reason is not None:
            refused[calls[0].path] = reason
            continue
        linear = layer.activation is keras.activations.linear
        norms = _norms(calls, consumers, calls_of, outputs) if linear else ()
        places.append(Place(layer, tuple(calls), norms, blocks[id(layer)], sides[id(layer)]))
    return places, refused


def chosen(places: Sequence[Place], where: Where, others: Sequence[str] = ()) -> list[Place]:
    """The places that `where` names.

    Args:
        places: all there are.
        where: name, pattern in the manner of a shell, a sequence of them, or a function of a layer; `None` for all.
            Names are those of layers, or paths with the names of nested models before them.
        others: names of convolutions that are no places: a pattern may match them too.

    Raises:
        ValueError: a name or pattern matches no convolution.
    """
    if where is None:
        return list(places)
    if callable(where):
        return [place for place in places if where(place.layer)]
    patterns = [where] if isinstance(where, str) else list(where)
    for pattern in patterns:
        names = [name for place in places for name in (place.path, place.layer.name)]
        if not fnmatch.filter([*names, *others], pattern):
            shown = ", ".join(place.path for place in places[:8]) + (" ..." if len(places) > 8 else "")
            raise ValueError(f"`where` (={pattern!r}) must match a convolution of the model; it has {shown or 'none'}.")
    return [place for place in places if any(_matches(place, pattern) for pattern in patterns)]


def _matches(place: Place, pattern: str) -> bool:
    return fnmatch.fnmatchcase(place.path, pattern) or fnmatch.fnmatchcase(place.layer.name, pattern)
