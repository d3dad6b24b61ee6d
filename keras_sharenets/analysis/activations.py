"""Which feature maps of a network are activated by which images, and which images activate them most.

Reference: Lu et al., "Highly shared Convolutional Neural Networks", Expert Systems with Applications 2021, sections 2.3
and 4.7.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets._types import Shape
from keras_sharenets.analysis.copying import copy_network
from keras_sharenets.analysis.filters import arrangement_of, is_convolution
from keras_sharenets.analysis.graph import Call, Graph, rebuild, trace
from keras_sharenets.layers.quantized_kernels import inner

PASSING = (keras.layers.BatchNormalization, keras.layers.Dropout)


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """Activations of the feature maps at one place in a network for a set of images.

    Maps are ranked by their mean after ReLU. The maps with the largest means for an image are its strongest maps.

    Attributes:
        name: str, name of the layer that outputs the maps.
        filters: str, name of the convolution that computes the maps; `None` if unknown.
        size: `(height, width)` of the maps.
        arrangement: int array `(maps,)`: 0 for the map of a stored filter, 1 and above for its arranged copies.
        each: int, number of strongest maps per image.
        strongest: int array `(classes, maps)`: number of images of each class for which a map is among the strongest.
        active: int array `(maps,)`: number of images for which a map is above 0 anywhere.
        images: int array `(classes,)`: number of images of each class.
    """

    name: str
    filters: str | None
    size: Shape
    arrangement: np.ndarray
    each: int
    strongest: np.ndarray
    active: np.ndarray
    images: np.ndarray

    @property
    def strongest_share(self) -> np.ndarray:
        """The share of all images for which each map is among the strongest: an array `(maps,)`."""
        return self.strongest.sum(axis=0) / self.images.sum()

    def high(self, share: float) -> int:
        """Number of maps that are among the strongest for more than this share of images (the paper's figure 7)."""
        return int((self.strongest_share > share).sum())

    def always_active(self, share: float) -> int:
        """Number of maps that are above 0 anywhere for more than this share of images."""
        return int((self.active > share * self.images.sum()).sum())

    def best(self, count: int, *, arranged: bool) -> list[int]:
        """The `count` maps of arranged, or of stored, filters that are most often among the strongest.

        Ties are broken by index.
        """
        order = np.argsort(-self.strongest_share, kind="stable")
        return [int(index) for index in order if (self.arrangement[index] > 0) == arranged][:count]


def _is_relu(operation: Any) -> bool:
    """Whether an operation is a ReLU, or a convolution with a ReLU activation."""
    if isinstance(operation, keras.layers.Activation) or is_convolution(operation):
        return "relu" in getattr(getattr(inner(operation), "activation", None), "__name__", "")
    return isinstance(operation, keras.layers.ReLU) or type(operation).__name__ in ("Relu", "Relu6")


def _stages(graph: Graph) -> list[Call]:
    """The last calls of the stages of a network.

    For each map size: the last sum or the ReLU after it; without a sum, the last ReLU; without a ReLU, the last
    convolution.
    """
    sizes: dict[Shape, list[Call]] = {}
    for call in graph.calls:
        shape = call.output_shapes[0] if call.outputs else ()
        if len(shape) == 4 and shape[1:3] != (1, 1):
            sizes.setdefault(shape[1:3], []).append(call)
    ends = []
    for found in sizes.values():
        sums = [call for call in found if type(call.operation).__name__ == "Add"]
        others = [call for call in found if _is_relu(call.operation)] or [
            call for call in found if is_convolution(call.operation)
        ]
        if sums and _shows_filters(graph, sums[-1]):
            ends.append(_activated(graph, sums[-1]))
        elif others:
            ends.append(others[-1])
    return ends


def _shows_filters(graph: Graph, call: Call) -> bool:
    """Whether a call outputs the maps of a convolution."""
    return _source(graph, call) is not None


def _activated(graph: Graph, call: Call) -> Call:
    """The ReLU that reads the output of a call, directly or after normalization; the call itself if there is none."""
    tensors = {tensor.number for tensor in call.outputs}
    for later in graph.calls[graph.calls.index(call) + 1 :]:
        if tensors.isdisjoint(tensor.number for tensor in later.inputs):
            continue
        if _is_relu(later.operation):
            return later
        if isinstance(later.operation, PASSING):
            tensors.update(tensor.number for tensor in later.outputs)
    return call


def _source(graph: Graph, call: Call) -> Call | None:
    """The convolution whose maps a call outputs; for a sum, that of the last computed branch, not the shortcut."""
    makers = {tensor.number: each for each in graph.calls for tensor in each.outputs}
    while not is_convolution(call.operation):
        passes = _is_relu(call.operation) or isinstance(call.operation, PASSING)
        before = [makers[tensor.number] for tensor in call.inputs if tensor.number in makers]
        if not before or not (passes or type(call.operation).__name__ == "Add"):
            return None
        call = max(before, key=graph.calls.index)
    return call


def _named(graph: Graph, model: keras.Model, layers: Sequence[str] | None) -> list[Call]:
    if layers is None:
        found = _stages(graph)
        if not found:
            raise ValueError(f"`model` (='{model.name}') must have convolutions whose maps have a height and a width.")
        return found
    known = {call.path: call for call in graph.calls if call.outputs and len(call.output_shapes[0]) == 4}
    unknown = [name for name in layers if name not in known]
    if unknown or not layers:
        raise ValueError(
            f"`layers` (={list(layers)!r}) must be names of layers of '{model.name}' that output feature maps; "
            f"available: {', '.join(known) or 'none'}."
        )
    return [known[name] for name in layers]


def _tap(model: keras.Model, graph: Graph, places: Sequence[Call]) -> tuple[Any, list[Any]]:
    """The inputs of a network and the outputs of some of its calls, as symbolic tensors."""
    given: dict[Call, Any] = {}

    def call(each, operation, *args, **kwargs):
        given[each] = operation(*args, **kwargs)
        return given[each]

    rebuilt = rebuild(model, graph, call)
    return rebuilt.inputs, [given[place] for place in places]


def activation_maps(
    model: keras.Model,
    images: Any,
    labels: Any,
    *,
    layers: Sequence[str] | None = None,
    part: float = 0.25,
    batch_size: int | None = None,
    input_shape: Shape | None = None,
) -> tuple[Maps, ...]:
    """Counts which feature maps images activate, by class: the data of the paper's figures 3, 7 and 8.

    The paper does not specify how maps are ranked; this function ranks them by their mean after ReLU.

    Args:
        model: functional `keras.Model` or built `keras.Sequential` with one input. Nested models are expanded.
        images: array of images, or any other input of `model.predict`, such as a `keras.utils.PyDataset` of batches.
        labels: int array `(images,)`, class indices.
        layers: sequence of names of layers that output maps; for a layer with several calls, the last call is used. By
            default the ends of the stages: for each map size, the last sum after its ReLU, or the last ReLU if there
            is no sum.
        part: float above 0 and at most 1, fraction of the maps that count as the strongest of an image (figure 3: 0.25,
            figure 8: 48 of 128); at least one map.
        batch_size: as for `model.predict`.
        input_shape: `(height, width, channels)` of an image, for a model with unknown dimensions if `images` is not an
            array.

    Returns:
        A tuple of `Maps`, one per place.

    Raises:
        ValueError: an argument violates one of these rules, there are no maps, or the number of labels is not the
            number of images.

    >>> inputs = keras.Input((8, 8, 1))
    >>> model = keras.Model(inputs, keras.layers.Conv2D(8, 3, activation="relu", name="first")(inputs))
    >>> (maps,) = activation_maps(model, np.ones((6, 8, 8, 1)), [0, 0, 0, 1, 1, 1])
    >>> maps.name, maps.each, maps.strongest.shape, maps.strongest.sum(axis=1).tolist()
    ('first', 2, (2, 8), [6, 6])
    """
    if not 0 < part <= 1:
        raise ValueError(f"`part` (={part!r}) must be above 0 and at most 1.")
    labels = _checks.class_labels("labels", labels)
    graph = trace(model, tuple(images.shape[1:]) if hasattr(images, "shape") else input_shape)
    places = _named(graph, model, layers)
    inputs, given = _tap(model, graph, places)
    # Their names must not occur in the network.
    measured = [value for index, maps in enumerate(given) for value in _Measure(name=f"_measured_{index}")(maps)]
    values = keras.Model(inputs, measured).predict(images, batch_size=batch_size, verbose=0)
    if len(values[0]) != len(labels):
        raise ValueError(f"The number of `labels` (={len(labels)}) must be the number of images (={len(values[0])}).")
    pairs = zip(places, values[::2], values[1::2], strict=True)
    return tuple(_maps(graph, place, means, peaks, labels, part) for place, means, peaks in pairs)


class _Measure(keras.layers.Layer):
    """The mean and the maximum of each map after ReLU."""

    def __init__(self, name: str):
        super().__init__(name=name, dtype="float32")

    def call(self, inputs: Any) -> tuple[Any, Any]:
        positive = keras.ops.relu(inputs)
        return keras.ops.mean(positive, axis=(1, 2)), keras.ops.max(positive, axis=(1, 2))


def _maps(graph: Graph, place: Call, means: np.ndarray, peaks: np.ndarray, labels: np.ndarray, part: float) -> Maps:
    channels = means.shape[1]
    each = max(math.floor(part * channels + 1e-9), 1)
    # A stable sort: among equal maps, the first one ranks higher.
    first = np.argsort(-means, axis=1, kind="stable")[:, :each]
    is_strongest = np.zeros(means.shape, bool)
    np.put_along_axis(is_strongest, first, True, axis=1)
    classes = labels.max(initial=0) + 1
    strongest = np.stack([is_strongest[labels == index].sum(axis=0) for index in range(classes)])
    source = _source(graph, place)
    if source is not None and source.output_shapes[0][-1] != channels:
        source = None
    arrangement = arrangement_of(inner(source.operation) if source else None, channels)
    return Maps(
        place.path,
        source.path if source else None,
        place.output_shapes[0][1:3],
        arrangement,
        each,
        strongest,
        (peaks > 0).sum(axis=0),
        np.bincount(labels, minlength=classes),
    )


class _Canvas(keras.layers.Layer):
    """Images that are trained as weights, independent of the input of the layer."""

    def __init__(self, start: np.ndarray):
        super().__init__(dtype="float32")
        self.start = start

    def build(self, input_shape: Shape) -> None:
        start = keras.initializers.Constant(self.start)
        self.images = self.add_weight(self.start.shape, start, name="images")

    def call(self, inputs: Any) -> Any:
        return 255 * keras.ops.sigmoid(self.images)


def exciting_images(
    model: keras.Model,
    layer: str,
    channels: Sequence[int],
    *,
    input_shape: Shape | None = None,
    steps: int = 128,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> np.ndarray:
    """Computes images that maximize single feature maps by gradient ascent: the data of the paper's figure 9.

    The images are initialized with gray noise, and Adam maximizes the means of their maps. `model` is not changed.

    Args:
        model: functional `keras.Model` with one input, which takes pixels from 0 to 255.
        layer: name of a layer that outputs maps.
        channels: indices of the maps.
        input_shape: `(height, width, channels)` of an image, for a model with unknown dimensions.
        steps: int, number of steps of gradient ascent.
        learning_rate: float, learning rate for the logits of the pixels.
        seed: int, seed of the noise.

    Returns:
        A float32 array `(channels, height, width, image channels)` with values from 0 to 255.

    Raises:
        ValueError: an argument violates one of these rules.
    """
    if isinstance(channels, str) or not isinstance(channels, (Sequence, np.ndarray)) or not len(channels):
        raise ValueError(f"`channels` (={channels!r}) must be a sequence of at least one index of a map.")
    _checks.positive("steps", steps)
    _checks.above_zero("learning_rate", learning_rate)
    model = copy_network(model)
    model.trainable = False  # Batch normalization then runs in inference mode.
    graph = trace(model, input_shape)
    (place,) = _named(graph, model, [layer])
    count = place.output_shapes[0][-1]
    for channel in channels:
        _checks.one_of("channels", channel, range(count))
    shape = graph.inputs[0].shape[1:]
    if None in shape:
        raise ValueError(f"`input_shape` (={input_shape}) must specify the size of the images of '{model.name}'.")
    inputs, (maps,) = _tap(model, graph, [place])
    canvas = _Canvas(np.random.default_rng(seed).normal(0, 0.1, (len(channels), *shape)))
    row = np.zeros((len(channels), 1), "float32")
    dummy = keras.Input((1,))
    means = keras.ops.mean(keras.Model(inputs, maps)(canvas(dummy)), axis=(1, 2))
    chosen = keras.ops.one_hot(np.asarray(channels), count)
    ascent = keras.Model(dummy, keras.ops.sum(means * chosen, axis=1))
    ascent.compile(keras.optimizers.Adam(learning_rate), loss=lambda _, heights: -keras.ops.sum(heights))
    ascent.fit(_Repeated(row, steps), verbose=0)
    return keras.ops.convert_to_numpy(canvas(row))


class _Repeated(keras.utils.PyDataset):
    """The same batch, repeated."""

    def __init__(self, batch: np.ndarray, times: int):
        super().__init__()
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batch, self.batch
