"""Convolutions of a network that can share: the layer, its calls, and the normalizations that follow."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import layers as ours
from keras_sharenets.analysis.graph import Call, Graph

# The argument `where` of [`keras_sharenets.share`]: names or patterns, or a function of a layer.
Where = str | Sequence[str] | Callable[[keras.layers.Layer], bool] | None


# Convolutions that share with no scheme; the report gives the reason.
_OTHERS = (
    keras.layers.Conv1D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.SeparableConv1D,
)
# A subclass with its own `call` may compute something else.
_NORMALIZING = (keras.layers.BatchNormalization.call, ours.BatchNormalization.call)
# For each weight of a layer, the axes of its input channels and of its output channels.
_AXES: dict[type, tuple[tuple[int | None, int | None], ...]] = {
    keras.layers.BatchNormalization: ((None, 0),) * 4,
    keras.layers.Conv2D: ((2, 3), (None, 0)),
    keras.layers.Dense: ((0, 1), (None, 0)),
    keras.layers.DepthwiseConv2D: ((2, None), (None, 0)),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """The original index of the input and output channel of a layer at each position; `None` for the original order."""

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
    """A convolution layer with all its calls.

    Attributes:
        layer: the `keras.layers.Conv2D`.
        calls: its calls, in order.
        norms: the `BatchNormalization` layers that are the only readers of its outputs, in the order of the calls;
            empty if an output is also used elsewhere, or passes through an activation before the normalization.
        block: number of merges before the first call.
        resolution: height and width of the outputs of the first call.
        order: order of its channels.
    """

    layer: keras.layers.Conv2D
    calls: tuple[Call, ...]
    norms: tuple[keras.layers.BatchNormalization, ...]
    block: int
    resolution: tuple[Any, ...]
    order: Order = Order()

    @property
    def path(self) -> str:
        """The name of the layer, preceded by the names of nested models."""
        return self.calls[0].path

    @property
    def kernel(self) -> np.ndarray:
        """The kernel, `(height, width, inputs per group, filters)` in float64."""
        return self.order.weights(self.layer)[0]

    @property
    def bias(self) -> np.ndarray:
        """The bias, or zeros if the layer has none."""
        return self.order.weights(self.layer)[1] if self.layer.use_bias else np.zeros(self.layer.filters)

    @property
    def stored(self) -> int:
        """Number of weights that the layer stores."""
        return math.prod(self.layer.kernel.shape) + (self.layer.filters if self.layer.use_bias else 0)

    def importance(self) -> np.ndarray:
        """Weight of each output channel in the loss: the scale of the normalization that follows, or 1."""
        if not self.norms:
            return np.ones(self.layer.filters)
        scales = [np.abs(scale_and_offset(norm)[0]) for norm in self.norms]
        scale = np.sqrt(np.mean(np.square(scales), axis=0))
        scale = scale if self.order.gives is None else scale[self.order.gives]
        # The kernel of a channel with scale 0 is undefined: the bound keeps the numbers finite.
        return np.maximum(scale, max(1e-3 * scale.max(), 1e-12))


def numpy_of(tensor: Any) -> np.ndarray:
    """A tensor or variable as float64."""
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(tensor)), np.float64)


def scale_and_offset(norm: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """The affine function of a normalization in inference: `y = x * scale + offset`."""
    scale = 1 / np.sqrt(numpy_of(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * numpy_of(norm.gamma)
    return scale, (numpy_of(norm.beta) if norm.center else 0) - scale * numpy_of(norm.moving_mean)


def normalizes_channels(call: Call) -> bool:
    """Whether a call belongs to a batch normalization over the last axis, without renormalization."""
    norm = call.operation
    if getattr(type(norm), "call", None) not in _NORMALIZING or norm.renorm:
        return False
    return norm.axis in (-1, len(call.input_shapes[0]) - 1)


def _obstacle(layer: keras.layers.Layer, calls: Sequence[Call]) -> str | None:
    """The reason why no scheme can share a convolution, or `None`."""
    if type(layer) is not keras.layers.Conv2D:
        return f"its type is {type(layer).__name__}, not `keras.layers.Conv2D`"
    if any(len(call.inputs) != 1 for call in calls):
        return "it is called with several inputs"
    if layer.data_format != "channels_last":
        return "its data format is 'channels_first'"
    if layer.dtype_policy.quantization_mode is not None:
        return f"its kernel is quantized by the dtype policy '{layer.dtype_policy.name}'"
    if len(layer.weights) != 1 + layer.use_bias:
        return "it has other weights than a kernel and a bias, as with LoRA"
    if layer.kernel_constraint is not None:
        return "its kernel has a constraint, which a shared kernel cannot satisfy"
    if layer.trainable and not all(weight.trainable for weight in layer.weights):
        return "one of its weights is frozen, but not the layer"
    if layer.activity_regularizer is not None:
        return "it has an activity regularizer"
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
    """Whether a call merges images of equal size, at the end of a block; this excludes squeeze-and-excitation."""
    images = [shape for shape in call.input_shapes if len(shape) == 4]
    sides = {shape[1:3] for shape in (*images, *call.output_shapes)}
    return len(images) > 1 and len(sides) == 1


def find_places(graph: Graph, sized: Graph) -> tuple[list[Place], dict[str, str]]:
    """All convolutions of a network that can share, and the reasons why others cannot.

    Args:
        graph: trace of the network.
        sized: trace with the height and width of images filled in, if known.

    Returns:
        A list of `Place` in the order of execution, and a dict from the names of the other convolutions to reasons.
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
        if not isinstance(layer, (keras.layers.Conv2D, *_OTHERS)) and not hasattr(layer, "effective_kernel"):
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
    """The places that `where` selects.

    Args:
        places: all places.
        where: name, shell-style pattern, a sequence of them, or a function of a layer; `None` for all. Names are names
            of layers, or paths through nested models.
        others: names of convolutions that cannot share: a pattern may match them, too.

    Raises:
        ValueError: it is none of these, or a name or pattern matches no convolution.
    """
    if where is None:
        return list(places)
    if callable(where) and not isinstance(where, keras.layers.Layer):
        return [place for place in places if where(place.layer)]
    patterns: list[Any] = list(where) if isinstance(where, Iterable) and not isinstance(where, str) else [where]
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(
            f"`where` (={where!r}) must be a name or pattern, a sequence of them, or a function of a layer."
        )
    for pattern in patterns:
        names = [name for place in places for name in (place.path, place.layer.name)]
        if not fnmatch.filter([*names, *others], pattern):
            shown = ", ".join(place.path for place in places[:8]) + (" ..." if len(places) > 8 else "")
            raise ValueError(f"`where` (={pattern!r}) must match a convolution of the model; it has {shown or 'none'}.")
    return [place for place in places if any(matches(place.path, pattern) for pattern in patterns)]


def matches(path: str, pattern: str) -> bool:
    """Whether a shell-style pattern matches the path of a layer, or its name, the last part of the path."""
    return any(fnmatch.fnmatchcase(each, pattern) for each in (path, path.rpartition("/")[2]))
