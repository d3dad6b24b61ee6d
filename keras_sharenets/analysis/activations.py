"""Which maps of a network are activated, by which images, and by what most.

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
from keras_sharenets.analysis.filters import arrangement_of, is_convolution
from keras_sharenets.analysis.graph import Call, Graph, copy_network, rebuild, trace
from keras_sharenets.layers.quantized_kernels import inner

PASSING = (keras.layers.BatchNormalization, keras.layers.Dropout)


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """How the maps of one place in a network are activated by a set of images.

    A map counts by its mean after ReLU. Those with the largest means of an image are its strongest.

    Attributes:
        name: str, of the layer that gives the maps.
        filters: str, of the convolution whose filters they are from; `None` where that is not known.
        size: `(height, width)`.
        arrangement: int array `(maps,)`: 0 where the filter is stored as it is, 1 and above for its arranged copies.
        each: int, how many maps of an image are its strongest.
        strongest: int array `(classes, maps)`: images of each class for which a map is among the strongest.
        active: int array `(maps,)`: images for which a map is above 0 anywhere.
        images: int array `(classes,)`: images of each class.
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
        """For every map the share of all images for which it is among the strongest; an array `(maps,)`."""
        return self.strongest.sum(axis=0) / self.images.sum()

    def high(self, share: float) -> int:
        """Maps that are among the strongest for more than this share of the images (the paper's figure 7)."""
        return int((self.strongest_share > share).sum())

    def always_active(self, share: float) -> int:
        """Maps that are above 0 anywhere for more than this share of the images."""
        return int((self.active > share * self.images.sum()).sum())

    def best(self, count: int, *, arranged: bool) -> list[int]:
        """The `count` maps that are among the strongest most often, of arranged filters or of those that are not.

        Of equally frequent ones the first come first.
        """
        order = np.argsort(-self.strongest_share, kind="stable")
        return [int(index) for index in order if (self.arrangement[index] > 0) == arranged][:count]


def _is_relu(operation: Any) -> bool:
    """Also a convolution that has it as its activation."""
    if isinstance(operation, (keras.layers.Activation, keras.layers.Conv2D)):
        return "relu" in getattr(operation.activation, "__name__", "")
    return isinstance(operation, keras.layers.ReLU) or type(operation).__name__ in ("Relu", "Relu6")


def _stages(graph: Graph) -> list[Call]:
    """Where the stages of a network end: for each size of its maps the last sum, or the ReLU that follows; where there
    is no sum the last ReLU, and without one the last convolution."""
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
    """Whether a call gives maps of a convolution."""
    return _source(graph, call) is not None


def _activated(graph: Graph, call: Call) -> Call:
    """The ReLU that reads what a call gives, itself or normalized; else the call."""
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
    """The convolution whose maps a call gives: of a sum the branch that is computed last, not the shortcut."""
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
            raise ValueError(f"`model` (='{model.name}') must have convolutions, whose maps have a height and a width.")
        return found
    known = {call.path: call for call in graph.calls if call.outputs and len(call.output_shapes[0]) == 4}
    unknown = [name for name in layers if name not in known]
    if unknown or not layers:
        raise ValueError(
            f"`layers` (={list(layers)!r}) must be names of layers of '{model.name}' that give maps, "
            f"which are: {', '.join(known) or 'none'}."
        )
    return [known[name] for name in layers]


def _tap(model: keras.Model, graph: Graph, places: Sequence[Call]) -> tuple[Any, list[Any]]:
    """The inputs of a network and what some of its calls give, as symbolic tensors."""
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
    """Which maps images activate, class by class: the paper's figures 3, 7 and 8 as data.

    The paper does not say how it ranks maps: here it is by the mean after ReLU.

    Args:
        model: functional `keras.Model` or built `keras.Sequential` with one input; models inside it are opened.
        images: array of images, or whatever else `model.predict` takes, such as batches of a `keras.utils.PyDataset`.
        labels: int array `(images,)`, the class of each from 0.
        layers: sequence with the names of layers that give maps; of one that is called several times the last call. By
            default where the stages end: for each size of maps the last sum, after the ReLU that reads it, or the last
            ReLU where there is no sum.
        part: number above 0 and at most 1, the part of the maps that are the strongest of an image (figure 3: 0.25,
            figure 8: 48 of 128); at least one.
        batch_size: as for `model.predict`.
        input_shape: `(height, width, channels)` of an image, for a model that leaves them open and no array of images.

    Returns:
        A tuple of `Maps`, one a place.

    Raises:
        ValueError: an argument breaks a rule above; there are no maps; or there is not one label per image.

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
    # Their names must be none of the network's.
    measured = [value for index, maps in enumerate(given) for value in _Measure(name=f"_measured_{index}")(maps)]
    values = keras.Model(inputs, measured).predict(images, batch_size=batch_size, verbose=0)
    if len(values[0]) != len(labels):
        raise ValueError(f"`labels` (={len(labels)} of them) must be as many as there are images (={len(values[0])}).")
    pairs = zip(places, values[::2], values[1::2], strict=True)
    return tuple(_maps(graph, place, means, peaks, labels, part) for place, means, peaks in pairs)


class _Measure(keras.layers.Layer):
    """The mean and the largest value of each map after ReLU."""

    def call(self, inputs: Any) -> tuple[Any, Any]:
        positive = keras.ops.relu(inputs)
        return keras.ops.mean(positive, axis=(1, 2)), keras.ops.max(positive, axis=(1, 2))


def _maps(graph: Graph, place: Call, means: np.ndarray, peaks: np.ndarray, labels: np.ndarray, part: float) -> Maps:
    channels = means.shape[1]
    each = max(math.floor(part * channels + 1e-9), 1)
    # A stable sort: of equal maps the first one counts as stronger.
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
    """Images that are trained as weights, whatever the layer is given."""

    def __init__(self, start: np.ndarray):
        super().__init__()
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
    """Images that excite single maps most, found by gradient ascent on their pixels: the paper's figure 9 as data.

    They begin as gray noise, and Adam makes the means of their maps larger. `model` stays as it is.

    Args:
        model: functional `keras.Model` that takes pixels from 0 to 255, with one input.
        layer: name of a layer that gives maps.
        channels: the maps, counted from 0.
        input_shape: `(height, width, channels)` of an image, for a model that leaves them open.
        steps: int, steps of gradient ascent.
        learning_rate: number, of pixels as the logarithm of the odds of white.
        seed: int, of the noise.

    Returns:
        A float32 array `(channels, height, width, image channels)` with values from 0 to 255.

    Raises:
        ValueError: an argument breaks a rule above.
    """
    _checks.positive("steps", steps)
    _checks.above_zero("learning_rate", learning_rate)
    model = copy_network(model)
    model.trainable = False  # Batch normalization then computes as it was trained to.
    graph = trace(model, input_shape)
    (place,) = _named(graph, model, [layer])
    count = place.output_shapes[0][-1]
    for channel in channels:
        _checks.one_of("channels", channel, range(count))
    shape = graph.inputs[0].shape[1:]
    if None in shape:
        raise ValueError(f"`input_shape` (={input_shape}) must say how large the images of '{model.name}' are.")
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
    """The same batch again and again."""

    def __init__(self, batch: np.ndarray, times: int):
        super().__init__()
        self.batch, self.times = batch, times

    def __len__(self) -> int:
        return self.times

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.batch, self.batch
