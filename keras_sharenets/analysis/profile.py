"""What a network stores, what it would store without sharing, and what it computes: counted, and as tables."""

import csv
import dataclasses
import html
import io
import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_sharenets._types import Shape
from keras_sharenets.analysis.graph import Graph, trace
from keras_sharenets.analysis.multiply_adds import multiply_adds
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.rendering.tables import text_table

# A frozen layer lists all its weights as not trainable, and Keras does not tell which of them would be trained if it
# were not frozen. These are the names that Keras gives to weights that never are: moving statistics, the statistics
# of `Normalization`, the vector of `SpectralNormalization`.
_NEVER_TRAINED = {"count", "mean", "moving_mean", "moving_variance", "variance", "vector_u"}


@dataclasses.dataclass(frozen=True)
class LayerProfile:
    """One call of one layer, or of one function such as `keras.ops.add`.

    Attributes:
        name: str, with the names of nested models before it: `"outer/inner"`.
        type: str, name of the class.
        call: int, 0 for the first call of this layer, 1 for the second.
        input_shape, output_shape: tuple with the batch first; a tuple of such tuples where there are several.
        stored_parameters: int, parameters that no earlier row has: 0 in every later call of a shared layer.
        effective_parameters: int, parameters that this call would need if nothing were shared.
        non_trainable_parameters: int, moving statistics and the like that no earlier row has.
        multiply_adds: int for one image, or `None` where they are not known.
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
        """Whether all the parameters of this call are stored by an earlier one."""
        return self.stored_parameters == 0 < self.effective_parameters


@dataclasses.dataclass(frozen=True)
class Profile:
    """A network: its name, the shape of one image for each of its inputs, and one row for each call, in order.

    Printed it is the table of [`to_text`].
    """

    name: str
    input_shapes: tuple[Shape, ...]
    layers: tuple[LayerProfile, ...]

    @property
    def stored_parameters(self) -> int:
        """Trainable weights, each tensor once however many calls and layers use it. Frozen ones count."""
        return sum(row.stored_parameters for row in self.layers)

    @property
    def effective_parameters(self) -> int:
        """What the same network would store without sharing: every call with weights, and full kernels, of its own."""
        return sum(row.effective_parameters for row in self.layers)

    @property
    def non_trainable_parameters(self) -> int:
        """Weights that are stored but never trained, such as moving statistics; in no other count."""
        return sum(row.non_trainable_parameters for row in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds for one image; a layer called twice costs twice. A lower bound if `uncounted` has names."""
        return sum(row.multiply_adds or 0 for row in self.layers)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Names of the layers whose multiply-adds are not known, each once."""
        return tuple(dict.fromkeys(row.name for row in self.layers if row.multiply_adds is None))

    @property
    def ratio(self) -> float:
        """Effective parameters for each stored one; 1.0 for a network that stores none."""
        return self.effective_parameters / self.stored_parameters if self.stored_parameters else 1.0

    def __str__(self) -> str:
        return to_text(self)

    def _repr_html_(self) -> str:
        """The table for a notebook."""
        return f"<pre>{html.escape(to_text(self))}</pre>"


@dataclasses.dataclass(frozen=True)
class _Weights:
    """The weights of one layer: what it trains, what it does not, its effective kernel, if any, and the full count."""

    parameters: tuple = ()
    others: tuple = ()
    kernel_shape: Shape | None = None
    effective_parameters: int = 0


def _weights(operation: Any) -> _Weights:
    weights = getattr(operation, "weights", ())
    parameters = [
        weight
        for weight in weights
        if weight.trainable or (not operation.trainable and weight.name not in _NEVER_TRAINED)
    ]
    trained = {id(weight) for weight in parameters}
    others = tuple(weight for weight in weights if id(weight) not in trained)
    if not hasattr(operation, "effective_kernel"):
        effective = sum(math.prod(weight.shape) for weight in parameters)
        return _Weights(tuple(parameters), others, None, effective)
    kernel_shape = tuple(operation.effective_kernel().shape)
    bias = getattr(operation, "bias", None)
    effective = math.prod(kernel_shape) + (0 if bias is None else math.prod(bias.shape))
    return _Weights(tuple(parameters), others, kernel_shape, effective)


def _single(shapes: tuple[Shape, ...]) -> Shape:
    return shapes[0] if len(shapes) == 1 else shapes


def profile(model: keras.Model, input_shape: Any = None) -> Profile:
    """Counts the parameters and the multiply-adds of a functional model.

    Parameters are the trainable weights, as papers count them: the moving statistics of a batch normalization are not
    among them, random seeds are not weights at all. A layer frozen by `layer.trainable = False` keeps its parameters:
    all its weights but those that bear the name of a statistic (`moving_mean`, `moving_variance` and so on). In a layer
    that is not frozen, a weight that does not train is no parameter; so a weight that is frozen alone, or turned into
    integers by Keras's own quantization, is counted as non-trainable.

    A layer that has a method `effective_kernel()` is taken for a convolution by that kernel, its last axis the filters:
    without sharing it would store the kernel and its `bias`. Its multiply-adds are those of the kernel at each output
    pixel, and so are counted however the layer carries it out. A layer that its paper counts as a chain or product of
    smaller convolutions says by a method `products_per_pixel()` how many products that are.

    Multiply-adds are the products of weights with activations in convolutions (also depthwise, separable, transposed
    and grouped), `Dense` and `EinsumDense`. What else stores a weight of two or more axes, and attention and
    `keras.ops.matmul`, is listed as `uncounted`; the rest counts zero.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`. Models inside it are opened; a wrapper or a
            subclassed model inside it is one row.
        input_shape: shape of one image, without the batch, for a model that leaves sides open; with several inputs
            a sequence of shapes in the order of `model.inputs`.

    Returns:
        A `Profile`.

    Raises:
        ValueError: the model is not functional or not built; `input_shape` contradicts it; or the multiply-adds depend
            on sides that nobody has given.

    >>> import keras
    >>> shared = keras.layers.Conv2D(8, 3, padding="same", use_bias=False)
    >>> inputs = keras.Input((16, 16, 8))
    >>> p = profile(keras.Model(inputs, shared(shared(inputs))))
    >>> p.stored_parameters, p.effective_parameters, p.ratio, p.multiply_adds
    (576, 1152, 2.0, 294912)
    """
    return profile_graph(trace(model, input_shape), name=model.name)


def profile_graph(graph: Graph, *, name: str) -> Profile:
    """The `Profile` of a model that is traced already, and its name."""
    known, seen, rows = {}, set(), []

    def unseen(weights: Sequence[keras.Variable]) -> int:
        new = {id(weight): math.prod(weight.shape) for weight in weights if id(weight) not in seen}
        seen.update(new)
        return sum(new.values())

    for call in graph.calls:
        call = dataclasses.replace(call, operation=inner(call.operation))
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
            multiply_adds=multiply_adds(call, weights.kernel_shape),
        )
        rows.append(row)
    return Profile(name, tuple(tensor.shape[1:] for tensor in graph.inputs), tuple(rows))


_HEADER = ("layer", "type", "call", "output", "stored", "effective", "multiply-adds")


def _shape(shape: Shape) -> str:
    """`(None, 8, 8, 3)` as `8x8x3`; several shapes with `+` between them."""
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
    """An aligned table: one line a call, then totals and the ratio of effective to stored parameters.

    In the column `stored`, `shared` marks a call whose parameters an earlier line has; in the column `call` stand the
    second and later calls of a layer; `?` stands for what is not known. A total with `>=` lacks the layers that are
    named below it.

    Args:
        profile: a `Profile`.

    Returns:
        A str that ends with a line break.
    """
    at_least = ">= " if profile.uncounted else ""
    totals = (_count(profile.stored_parameters), _count(profile.effective_parameters))
    total = ("total", "", "", "", *totals, f"{at_least}{_count(profile.multiply_adds)}")
    header, *lines, last = text_table([_HEADER, *map(_cells, profile.layers), total], align="llrrrrr").splitlines()
    rule = "-" * max(map(len, (header, *lines, last)))
    inputs = "+".join(_shape((None, *shape)) for shape in profile.input_shapes)
    text = [f"{profile.name}, input {inputs}", "", header, rule, *lines, rule, last, ""]
    text.append(f"effective / stored: {profile.ratio:.2f}")
    text.append(f"not trained, in no count above: {_count(profile.non_trainable_parameters)}")
    if profile.uncounted:
        text.append(f"multiply-adds not known: {', '.join(profile.uncounted)}")
    return "\n".join(text) + "\n"


def to_csv(profile: Profile) -> str:
    """One line a call under a header of the fields of `LayerProfile`; no totals.

    Shapes are written without the batch (`32x32x16`), an unknown count is an empty field.

    Args:
        profile: a `Profile`.

    Returns:
        A str.
    """
    names = [field.name for field in dataclasses.fields(LayerProfile)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in profile.layers:
        values = dataclasses.asdict(row)
        values.update(input_shape=_shape(row.input_shape), output_shape=_shape(row.output_shape))
        writer.writerow([values[name] for name in names])
    return text.getvalue()


def to_dict(profile: Profile) -> dict[str, Any]:
    """The profile as plain data for JSON: shapes are lists, an unknown count is `None`.

    Args:
        profile: a `Profile`.

    Returns:
        A dict: the totals, and under `"layers"` one dict a call with the fields of `LayerProfile`.
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
