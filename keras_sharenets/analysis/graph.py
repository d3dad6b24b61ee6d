"""A functional model as a flat list of its calls, in execution order.

Profiles, exports and rewrites need the sequence of operations with their inputs and call arguments. Keras has no public
API for it, but `keras.models.clone_model` passes every call of a functional model to a given function. The model is
therefore replayed on symbolic tensors: nothing is computed, no weight is accessed, and the layers of the model are not
called.
"""

import collections
import dataclasses
import inspect
import itertools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Shape


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor between two calls.

    Attributes:
        number: int, identity of the tensor: an input of a call has the number of the output that it comes from.
        shape: tuple that starts with the batch size; `None` for unknown dimensions.
        dtype: str.
    """

    number: int
    shape: Shape
    dtype: str


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of one operation. Calls are compared by identity, since their arguments may be arrays.

    Attributes:
        path: str, name of the operation, prefixed with the names of nested models: `"outer/inner"`.
        operation: the `keras.Layer` that is called, or the `keras.Operation` of a function such as `keras.ops.add`. A
            layer called in several places is the same object each time.
        index: int, 0 for the first call of that object, 1 for the second.
        args: tuple, positional arguments, with a `Tensor` in place of each tensor.
        kwargs: dict, keyword arguments in the same form, for example `{"strides": 2}`.
        outputs: tuple of `Tensor`, flattened.
    """

    path: str
    operation: keras.Operation
    index: int
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors among the arguments, flattened."""
        arguments = keras.tree.flatten((self.args, self.kwargs))
        return tuple(argument for argument in arguments if isinstance(argument, Tensor))

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """The shapes of `inputs`."""
        return tuple(tensor.shape for tensor in self.inputs)

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """The shapes of `outputs`."""
        return tuple(tensor.shape for tensor in self.outputs)


@dataclasses.dataclass(frozen=True)
class Graph:
    """A model as tuples of inputs, calls and outputs, with nested models expanded in place."""

    inputs: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Tensor, ...]


class _StandIn(keras.Operation):
    """Represents one call in the replayed graph: returns the symbolic tensors that it was created with."""

    def __init__(self, outputs: list, name: str):
        super().__init__(name=name)
        self.given = outputs

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> list:
        return self.given


class _Replay:
    """Replays models and records their calls."""

    def __init__(self):
        self.calls: list[Call] = []
        self._numbers = itertools.count()
        self._uses = collections.Counter()

    def tensor(self, shape: Shape, dtype: str) -> Tensor:
        """A new tensor of the flat graph."""
        return Tensor(next(self._numbers), tuple(shape), keras.backend.standardize_dtype(dtype))

    def model(
        self, model: keras.Model, inputs: Sequence[Tensor], prefix: str = "", training: bool | None = None
    ) -> tuple[Tensor, ...]:
        """Replays `model` and returns its output tensors; passes `training` on to its layers, as Keras does."""
        # A plain model over the same graph: `clone_model` does not accept a Sequential here, and compiles the clone of
        # a compiled model.
        plain = keras.Model(model.inputs, model.outputs, name="replay")
        symbols = [
            # A nested model casts its inputs to the dtype of its own input tensors.
            keras.Input(batch_shape=tensor.shape, dtype=own.dtype, name=f"input_{place}")
            for place, (tensor, own) in enumerate(zip(inputs, model.inputs, strict=True))
        ]
        # Keyed by identity, so the symbolic tensors are kept alive in the values.
        known = {id(symbol): (symbol, tensor) for symbol, tensor in zip(symbols, inputs, strict=True)}

        def described(value):
            return known[id(value)][1] if isinstance(value, keras.KerasTensor) else value

        def call(operation, *args, **kwargs):
            if training is not None and "training" in inspect.signature(operation.call).parameters:
                kwargs["training"] = training
            given_args, given_kwargs = keras.tree.map_structure(described, (args, kwargs))
            inner = given_args[0] if given_args else given_kwargs.get("inputs")
            if is_functional(operation):
                nested, mode = in_order(operation, inner), kwargs.get("training")
                outputs = self.model(operation, nested, f"{prefix}{operation.name}/", mode)
            elif hasattr(operation, "reference_model"):
                outputs = self.model(operation.reference_model(*args, **kwargs), [inner], prefix)
            else:
                outputs = self._record(operation, args, kwargs, given_args, given_kwargs, prefix)
            results = [keras.KerasTensor(tensor.shape, tensor.dtype) for tensor in outputs]
            known.update({id(result): (result, tensor) for result, tensor in zip(results, outputs, strict=True)})
            return _StandIn(results, name=f"call_{len(known)}")(*args, **kwargs)

        replayed = keras.models.clone_model(plain, symbols, clone_function=lambda layer: layer, call_function=call)
        return tuple(described(output) for output in replayed.outputs)

    def _record(self, operation, args, kwargs, given_args, given_kwargs, prefix):
        results = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
        outputs = tuple(self.tensor(result.shape, result.dtype) for result in results)
        index = self._uses[id(operation)]
        self._uses[id(operation)] += 1
        path = f"{prefix}{operation.name}"
        self.calls.append(Call(path, operation, index, given_args, given_kwargs, outputs))
        return outputs


def is_functional(operation: Any) -> bool:
    """Whether `operation` is a model with known calls: functional, or a built `Sequential`, with Keras' `call`."""
    if not isinstance(operation, keras.Model):
        return False
    owner = next(kind for kind in type(operation).__mro__ if "call" in vars(kind))
    if not owner.__module__.startswith("keras."):  # A subclass may compute anything besides its graph.
        return False
    return isinstance(operation, keras.Function) or (
        isinstance(operation, keras.Sequential) and hasattr(operation, "inputs")
    )


def in_order(model: Any, inputs: Any) -> list:
    """The tensors of a call of a functional or sequential model in the order of its inputs."""
    if isinstance(inputs, dict) and not isinstance(model.input, dict):
        return [inputs[tensor.name] for tensor in model.inputs]  # As in Keras.
    return keras.tree.flatten(inputs)


def _check_model(model: Any) -> None:
    if is_functional(model):
        return
    _checks.loaded("model", model)
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(f"`model` (='{model.name}') must be built: start it with a `keras.Input`, or call it on data.")
    kind = f"'{model.name}', a {type(model).__name__}" if isinstance(model, keras.Model) else repr(model)
    raise ValueError(
        f"`model` (={kind}) must be a functional Keras model or a Sequential, without a `call` of its own; the calls "
        "of others are unknown."
    )


def _filled(own: Shape, given: Any) -> Shape | None:
    """`own` with unknown dimensions taken from `given`, which may leave them unknown. `None` if they do not match."""
    if not isinstance(given, (tuple, list)) or len(given) != len(own):
        return None
    for side, wanted in zip(given, own, strict=True):
        if side is not None and (not isinstance(side, numbers.Integral) or side < 1 or wanted not in (None, side)):
            return None
    return tuple(wanted or (side and int(side)) for side, wanted in zip(given, own, strict=True))


def _input_shapes(model: keras.Model, input_shape: Any) -> list[Shape]:
    """The shapes of the model's inputs with the batch axis, with unknown dimensions taken from `input_shape`."""
    own = [tuple(tensor.shape) for tensor in model.inputs]
    if input_shape is None:
        return own
    given = (input_shape,) if len(own) == 1 else input_shape
    complete = isinstance(given, (tuple, list)) and len(given) == len(own)
    pairs = zip(own, given, strict=True) if complete else ()
    filled = [shape for shape in (_filled(wanted[1:], sides) for wanted, sides in pairs) if shape is not None]
    if len(filled) < len(own):
        wanted = own[0][1:] if len(own) == 1 else tuple(shape[1:] for shape in own)
        raise ValueError(f"`input_shape` (={input_shape!r}) must agree with the inputs of '{model.name}' (={wanted}).")
    return [(shape[0], *sides) for shape, sides in zip(own, filled, strict=True)]


def trace(model: keras.Model, input_shape: Any = None, *, batch_size: int | None = None) -> Graph:
    """Converts a functional model to a flat `Graph`.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`. Nested models are expanded at each of their calls.
        input_shape: shape of one image without the batch axis, for a model with unknown input dimensions; a sequence of
            shapes in the order of `model.inputs` for a model with several inputs.
        batch_size: size of the batch, for a model with an unknown one.

    Returns:
        A `Graph`. Inputs have no call. Layers that contain layers (wrappers, subclassed models) are one call, except
        those with a `reference_model`, which is expanded: [`keras_sharenets.layers.ParallelConv2D`].

    Raises:
        ValueError: the model is not functional or not built, or `input_shape` does not match its inputs.
    """
    _check_model(model)
    replay = _Replay()
    shapes = [(shape[0] or batch_size, *shape[1:]) for shape in _input_shapes(model, input_shape)]
    inputs = [replay.tensor(shape, own.dtype) for shape, own in zip(shapes, model.inputs, strict=True)]
    outputs = replay.model(model, inputs)
    return Graph(tuple(inputs), tuple(replay.calls), outputs)


def calls(model: keras.Model, input_shape: Any = None) -> tuple[Call, ...]:
    """Lists every call of every operation of a functional model, in execution order.

    Arguments and errors as in [`trace`].

    Returns:
        A tuple of `Call`.

    >>> import keras
    >>> shared = keras.layers.Dense(4, name="shared")
    >>> inputs = keras.Input((4,))
    >>> model = keras.Model(inputs, shared(shared(inputs)))
    >>> [(call.path, call.index, call.output_shapes) for call in calls(model)]
    [('shared', 0, ((None, 4),)), ('shared', 1, ((None, 4),))]
    """
    return trace(model, input_shape).calls


def rebuild(
    model: keras.Model,
    graph: Graph,
    call: Callable[..., Any],
    start: Callable[[Tensor, keras.KerasTensor], keras.KerasTensor] = lambda tensor, symbol: symbol,
) -> keras.Model:
    """Rebuilds a network from the same layers, with a function that can insert or wrap operations.

    Layers are not copied: both models share them and their weights.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`. The new model takes over its name, the names of its
            inputs, and the structure (lists and dicts) of inputs and outputs.
        graph: the result of [`trace`] for `model`.
        call: function `(call, operation, *args, **kwargs)` that executes one call, with its `Call`, its operation and
            its arguments as symbolic tensors, and returns its output or outputs.
        start: function `(tensor, symbol)` of each input, with its `Tensor` and its symbolic tensor, that returns the
            tensor to use in its place.

    Returns:
        A functional `keras.Model`, not compiled.

    Raises:
        ValueError: several layers have the same name, which is possible in different nested models.
    """
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=own.name)
        for tensor, own in zip(graph.inputs, model.inputs, strict=True)
    ]
    values = {tensor.number: start(tensor, symbol) for tensor, symbol in zip(graph.inputs, inputs, strict=True)}

    def symbolic(argument: Any) -> Any:
        return values[argument.number] if isinstance(argument, Tensor) else argument

    for each in graph.calls:
        args, kwargs = keras.tree.map_structure(symbolic, (each.args, each.kwargs))
        results = keras.tree.flatten(call(each, each.operation, *args, **kwargs))
        values.update({tensor.number: result for tensor, result in zip(each.outputs, results, strict=True)})
    outputs = [values[tensor.number] for tensor in graph.outputs]
    given, results = ends(model)
    packed = keras.tree.pack_sequence_as(given, inputs), keras.tree.pack_sequence_as(results, outputs)
    try:
        return keras.Model(*packed, name=model.name)
    except ValueError as error:
        repeated = _repeated_names(model, graph)
        if not repeated:
            raise
        raise ValueError(
            f"The layers of `model` (='{model.name}') must have different names, also those of nested models: "
            f"{', '.join(repeated)}. `keras_sharenets.share(model, ShareDepth('none')).model` is a copy with other "
            "names."
        ) from error


def _repeated_names(model: keras.Model, graph: Graph) -> list[str]:
    """The paths of all layers and inputs whose name is not unique."""
    paths = {tensor.name: tensor.name for tensor in model.inputs}
    paths |= {id(call.operation): call.path for call in graph.calls}
    names = collections.Counter(path.rpartition("/")[2] for path in paths.values())
    return [path for path in paths.values() if names[path.rpartition("/")[2]] > 1]


def ends(model: keras.Model) -> tuple[Any, Any]:
    """The inputs and outputs of a model in their original structure: tensors, lists or dicts."""
    # `input` of a `Sequential` is that of its last call, possibly in another model.
    sequential = isinstance(model, keras.Sequential)
    return (model.inputs[0], model.outputs[0]) if sequential else (model.input, model.output)
