"""Profiles of networks: stored and effective parameters and multiply-adds, as data and as tables."""

import contextlib
import dataclasses
import html
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_sharenets._types import Shape
from keras_sharenets.analysis.counting import parameters_of
from keras_sharenets.analysis.graph import Graph, trace
from keras_sharenets.analysis.multiply_adds import multiply_adds
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.rendering.tables import csv_table, text_table


@dataclasses.dataclass(frozen=True)
class LayerProfile:
    """One call of one layer, or of one function such as `keras.ops.add`.

    Attributes:
        name: str, name of the layer, prefixed with the names of nested models: `"outer/inner"`.
        type: str, name of the class.
        call: int, 0 for the first call of this layer, 1 for the second.
        input_shape, output_shape: tuple that starts with the batch size; a tuple of such tuples for several tensors.
        stored_parameters: int, parameters not counted in an earlier row: 0 for every later call of a shared layer.
        effective_parameters: int, parameters that this call would need without sharing.
        non_trainable_parameters: int, moving statistics and similar weights not counted in an earlier row.
        multiply_adds: int, multiply-adds for one image, or `None` if unknown.
    """

    name: str
    type: str
    call: int
    input_shape: Shape
    output_shape: Shape
    stored_parameters: int
    effective_parameters: int
    non_trainable_parameters: int
    multiply_adds: int | None

    @property
    def shared(self) -> bool:
        """Whether all parameters of this call are stored by an earlier call."""
        return self.stored_parameters == 0 < self.effective_parameters


@dataclasses.dataclass(frozen=True)
class Profile:
    """The profile of a network, as returned by `profile`. `print` shows the table of [`to_text`].

    Attributes:
        name: str, name of the network.
        input_shapes: tuple with the shape of one image for each input.
        layers: tuple of `LayerProfile`, one per call, in order of execution.
    """

    name: str
    input_shapes: tuple[Shape, ...]
    layers: tuple[LayerProfile, ...]

    @property
    def stored_parameters(self) -> int:
        """Number of trainable weights, with each tensor counted once regardless of how many calls and layers use it.

        Weights of frozen layers are included.
        """
        return sum(row.stored_parameters for row in self.layers)

    @property
    def effective_parameters(self) -> int:
        """Number of parameters without sharing: separate weights and full kernels for every call."""
        return sum(row.effective_parameters for row in self.layers)

    @property
    def non_trainable_parameters(self) -> int:
        """Number of weights that are never trained, such as moving statistics; not included in the other counts."""
        return sum(row.non_trainable_parameters for row in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image; a layer called twice counts twice. A lower bound if `uncounted` is not empty."""
        return sum(row.multiply_adds or 0 for row in self.layers)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Names of the layers whose multiply-adds are unknown, without duplicates."""
        return tuple(dict.fromkeys(row.name for row in self.layers if row.multiply_adds is None))

    @property
    def ratio(self) -> float:
        """Ratio of effective to stored parameters; 1.0 for a network without parameters."""
        return self.effective_parameters / self.stored_parameters if self.stored_parameters else 1.0

    def __str__(self) -> str:
        return to_text(self)

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        return f"<pre>{html.escape(to_text(self))}</pre>"


@dataclasses.dataclass(frozen=True)
class _Weights:
    """The weights of a layer: trainable, non-trainable, shape of the effective kernel if any, and effective count."""

    parameters: tuple = ()
    others: tuple = ()
    kernel_shape: Shape | None = None
    effective_parameters: int = 0


def _weights(operation: Any) -> _Weights:
    parameters = parameters_of(operation)
    trained = {id(weight) for weight in parameters}
    others = tuple(weight for weight in getattr(operation, "weights", ()) if id(weight) not in trained)
    own = hasattr(operation, "effective_kernel")
    expanded = [operation] if own else list({id(part): part for part in _expanding_parts(operation)}.values())
    kernel_shapes = [tuple(part.effective_kernel().shape) for part in expanded]
    biases = [part.bias for part in expanded if getattr(part, "bias", None) is not None]
    stored = {id(weight) for part in expanded for weight in parameters_of(part)}
    apart = [weight.shape for weight in parameters if id(weight) not in stored]
    effective = sum(map(math.prod, (*kernel_shapes, *(bias.shape for bias in biases), *apart)))
    return _Weights(parameters, others, kernel_shapes[0] if own else None, effective)


def _expanding_parts(operation: Any) -> Iterator[keras.layers.Layer]:
    """The layers inside a wrapper or another layer that expand their weights into an effective kernel."""
    inside = isinstance(operation, keras.layers.Layer)
    for part in operation._flatten_layers(include_self=False, recursive=False) if inside else ():
        if part.built and hasattr(part, "effective_kernel") and not hasattr(part, "reference_model"):
            yield part
        else:
            yield from _expanding_parts(part)


def _single(shapes: tuple[Shape, ...]) -> Shape:
    return shapes[0] if len(shapes) == 1 else shapes


def profile(model: keras.Model, input_shape: Any = None) -> Profile:
    """Counts the parameters and the multiply-adds of a functional model.

    Parameters are the trainable weights, as usual in papers. They exclude the moving statistics of batch normalization
    and random seeds. The parameters of a layer frozen by `layer.trainable = False`, also in a wrapper, are included. A
    weight that is frozen individually, or quantized to integers by Keras, is counted as non-trainable.

    A layer with a method `effective_kernel()` is counted as a convolution with that kernel, whose last axis is the
    filters. Without sharing, it would store this kernel and its `bias`. Its multiply-adds are those of the kernel at
    each output pixel, regardless of the implementation. A layer that its paper counts as a chain or product of smaller
    convolutions returns the number of products from a method `products_per_pixel()`.

    Multiply-adds are the products of weights with activations in convolutions (including depthwise, separable,
    transposed and grouped ones), `Dense`, `EinsumDense`, `SimpleRNN`, `GRU` and `LSTM`, also inside `TimeDistributed`
    and `Bidirectional`, which run them once for every step or in both directions. Other layers with a weight of two or
    more axes, attention, `keras.ops.matmul`, and functions that run another one, such as `keras.ops.vectorized_map`,
    are listed as `uncounted`. All other operations count as zero.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`. Nested models are expanded; a wrapper or a nested
            subclassed model is a single row, whose effective parameters count each layer inside once.
        input_shape: shape of one image without the batch axis, for a model with unknown input dimensions; a sequence of
            shapes in the order of `model.inputs` for a model with several inputs.

    Returns:
        A `Profile`.

    Raises:
        ValueError: the model is not functional or not built; `input_shape` does not match it; or the multiply-adds
            depend on unknown dimensions.

    >>> import keras
    >>> shared = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)
    >>> inputs = keras.Input((16, 16, 8))
    >>> p = profile(keras.Model(inputs, shared(shared(inputs))))
    >>> p.stored_parameters, p.effective_parameters, p.ratio, p.multiply_adds
    (576, 1152, 2.0, 294912)
    """
    graph = trace(model, input_shape)
    costs = graph
    if any(_may_change_batch(call.operation) for call in graph.calls):
        # An operation may need a larger batch, and raise any exception for a single image.
        with contextlib.suppress(Exception):
            costs = trace(model, input_shape, batch_size=1)
    return profile_graph(graph, name=model.name, costs=costs)


def _may_change_batch(operation: keras.Operation) -> bool:
    """Whether an operation may change the size of the batch: most layers do not."""
    known = type(operation).__module__.partition(".")[0] in ("keras", "keras_sharenets")
    layer = known and isinstance(operation, keras.layers.Layer) and not isinstance(operation, keras.layers.Lambda)
    return not layer or getattr(operation, "axis", None) == 0


def profile_graph(graph: Graph, *, name: str, costs: Graph | None = None) -> Profile:
    """The `Profile` of a traced model; `costs`: its trace for a single image, if multiply-adds depend on the batch."""
    known, seen, rows = {}, set(), []

    def unseen(weights: Sequence[keras.Variable]) -> int:
        new = {id(weight): math.prod(weight.shape) for weight in weights if id(weight) not in seen}
        seen.update(new)
        return sum(new.values())

    costs = costs or graph
    open_sides = any(None in tensor.shape[1:] for tensor in costs.inputs)
    for call, cost in zip(graph.calls, costs.calls, strict=True):
        # A custom layer may declare an unknown batch: that of the network, unless it may contain an unknown dimension.
        declared = cost.output_shapes[0][:1] == (None,) and not open_sides
        batch = None if declared else costs.inputs[0].shape[0]
        call, cost = (dataclasses.replace(each, operation=inner(each.operation)) for each in (call, cost))
        if id(call.operation) not in known:
            known[id(call.operation)] = _weights(call.operation)
        weights = known[id(call.operation)]
        row = LayerProfile(
            name=call.path,
            type=type(call.operation).__name__,
            call=call.index,
            input_shape=_single(call.input_shapes),
            output_shape=_single(call.output_shapes),
            stored_parameters=unseen(weights.parameters),
            effective_parameters=weights.effective_parameters,
            non_trainable_parameters=unseen(weights.others),
            multiply_adds=multiply_adds(cost, weights.kernel_shape, batch=batch),
        )
        rows.append(row)
    return Profile(name, tuple(tensor.shape[1:] for tensor in graph.inputs), tuple(rows))


_HEADER = ("layer", "type", "call", "output", "stored", "effective", "multiply-adds")


def _shape(shape: Shape) -> str:
    """Formats `(None, 8, 8, 3)` as `8x8x3`; several shapes are joined with `+`."""
    if any(isinstance(side, tuple) for side in shape):
        return "+".join(map(_shape, shape))
    return "x".join("?" if side is None else str(side) for side in shape[1:])


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _cells(row: LayerProfile) -> tuple[str, ...]:
    stored = "shared" if row.shared else _count(row.stored_parameters)
    call = str(row.call + 1) if row.call else ""
    counts = (stored, _count(row.effective_parameters), _count(row.multiply_adds))
    return (row.name, row.type, call, _shape(row.output_shape), *counts)


def to_text(profile: Profile) -> str:
    """Formats a profile as an aligned table: one line per call, totals, and the ratio of effective to stored.

    In the column `stored`, `shared` marks a call whose parameters are counted in an earlier line. The column `call`
    numbers the second and later calls of a layer. `?` marks an unknown number. A total with `>=` excludes the layers
    that are listed below it.

    Args:
        profile: a `Profile`.

    Returns:
        A str that ends with a newline.
    """
    at_least = ">= " if profile.uncounted else ""
    totals = (_count(profile.stored_parameters), _count(profile.effective_parameters))
    total = ("total", "", "", "", *totals, f"{at_least}{_count(profile.multiply_adds)}")
    header, *lines, last = text_table([_HEADER, *map(_cells, profile.layers), total], align="llrrrrr").splitlines()
    rule = "-" * max(map(len, (header, *lines, last)))
    inputs = "+".join(_shape((None, *shape)) for shape in profile.input_shapes)
    text = [f"{profile.name}, input {inputs}", "", header, rule, *lines, rule, last, ""]
    text.append(f"effective / stored: {profile.ratio:.2f}")
    text.append(f"non-trainable, not counted above: {_count(profile.non_trainable_parameters)}")
    if profile.uncounted:
        text.append(f"unknown multiply-adds: {', '.join(profile.uncounted)}")
    return "\n".join(text) + "\n"


def to_csv(profile: Profile) -> str:
    """Formats a profile as CSV: one line per call with the fields of `LayerProfile` as the header, without totals.

    Shapes are written without the batch axis (`32x32x16`). Unknown counts are empty fields.

    Args:
        profile: a `Profile`.

    Returns:
        A str.
    """
    rows = [
        dataclasses.asdict(row) | {name: _shape(getattr(row, name)) for name in ("input_shape", "output_shape")}
        for row in profile.layers
    ]
    return csv_table(rows, [field.name for field in dataclasses.fields(LayerProfile)])


def to_dict(profile: Profile) -> dict[str, Any]:
    """Converts a profile to plain data for JSON: shapes are lists, unknown counts are `None`.

    Args:
        profile: a `Profile`.

    Returns:
        A dict with the totals, and under `"layers"` one dict per call with the fields of `LayerProfile`.
    """
    return {
        "name": profile.name,
        "input_shapes": _lists(profile.input_shapes),
        "stored_parameters": profile.stored_parameters,
        "effective_parameters": profile.effective_parameters,
        "non_trainable_parameters": profile.non_trainable_parameters,
        "ratio": profile.ratio,
        "multiply_adds": profile.multiply_adds,
        "uncounted": list(profile.uncounted),
        "layers": [{name: _lists(value) for name, value in dataclasses.asdict(row).items()} for row in profile.layers],
    }


def _lists(value: Any) -> Any:
    return [_lists(entry) for entry in value] if isinstance(value, tuple) else value
