"""A functional model as the flat list of its calls, in execution order.

A profile, an export or a rewrite needs to know which operation runs when, on what, and with which call arguments.
Keras keeps that to itself; what it offers is `keras.models.clone_model`, which hands every call of a functional model
to a function of ours. So the model is replayed on symbolic tensors: nothing is computed, no weight is touched, and
the model's own layers are not called.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sharenets._types import Shape
from keras_sharenets.dtype_policies import HALF, full_types, in_policy


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What flows from one call to the next.

    Attributes:
        number: int, its identity: a call's input has the number of the output that it is.
        shape: tuple, the batch first; `None` where a side is open.
        dtype: str.
    """

    number: int
    shape: Shape
    dtype: str


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of one operation. Calls are equal only to themselves: their arguments may be arrays.

    Attributes:
        path: str, its name; inside nested models their names before it: `"outer/inner"`.
        operation: the `keras.Layer` that is called, or the `keras.Operation` that stands for a function such as
            `keras.ops.add`. A layer called in several places is the same object each time.
        index: int, 0 for the first call of that object, 1 for the second.
        args: tuple, positional arguments as given, a `Tensor` where a tensor was.
        kwargs: dict, keyword arguments in the same way, for example `{"strides": 2}`.
        outputs: tuple of `Tensor`, flat.
    """

    path: str
    operation: keras.Operation
    index: int
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors among the arguments, flat."""
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
    """A model: tuples of `Tensor`, `Call` and `Tensor`, the calls of nested models in the place of their call."""

    inputs: tuple[Tensor, ...]
    calls: tuple[Call, ...]
    outputs: tuple[Tensor, ...]


class _StandIn(keras.Operation):
    """Stands for one call in the replayed graph: gives the symbolic tensors that it was made with."""

    def __init__(self, outputs: list, name: str):
        super().__init__(name=name)
        self.given = outputs

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> list:
        return self.given


class _Replay:
    """Replays models call by call and writes down what it sees."""

    def __init__(self):
        self.calls: list[Call] = []
        self._numbers = itertools.count()
        self._uses = collections.Counter()

    def tensor(self, shape: Shape, dtype: str) -> Tensor:
        """A new tensor of the flat graph."""
        return Tensor(next(self._numbers), tuple(shape), keras.backend.standardize_dtype(dtype))

    def model(self, model: keras.Model, inputs: Sequence[Tensor], prefix: str = "") -> tuple[Tensor, ...]:
        """Replays `model` on the tensors `inputs` and returns its output tensors."""
        # A plain model over the same graph: `clone_model` takes no Sequential here and would compile a compiled model.
        plain = keras.Model(model.inputs, model.outputs, name="replay")
        symbols = [
            # A nested model casts what it is given to the type of its own input.
            keras.Input(batch_shape=tensor.shape, dtype=own.dtype, name=f"input_{place}")
            for place, (tensor, own) in enumerate(zip(inputs, model.inputs, strict=True))
        ]
        # Keyed by identity, so the symbolic tensors are kept alive beside what they stand for.
        known = {id(symbol): (symbol, tensor) for symbol, tensor in zip(symbols, inputs, strict=True)}

        def described(value):
            return known[id(value)][1] if isinstance(value, keras.KerasTensor) else value

        def call(operation, *args, **kwargs):
            given_args, given_kwargs = keras.tree.map_structure(described, (args, kwargs))
            inner = given_args[0] if given_args else given_kwargs.get("inputs")
            if is_functional(operation):
                outputs = self.model(operation, keras.tree.flatten(inner), f"{prefix}{operation.name}/")
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
    """Whether `operation` is a model whose calls are known: functional, or a `Sequential` that is built."""
    if not isinstance(operation, keras.Model):
        return False
    return isinstance(operation, keras.Function) or (
        isinstance(operation, keras.Sequential) and hasattr(operation, "inputs")
    )


def _check_model(model: Any) -> None:
    if is_functional(model):
        return
    if isinstance(model, keras.Sequential):
        raise ValueError(f"`model` (='{model.name}') must be built: begin it with a `keras.Input`, or call it on data.")
    kind = f"'{model.name}', a {type(model).__name__}" if isinstance(model, keras.Model) else repr(model)
    raise ValueError(f"`model` (={kind}) must be a functional Keras model or a Sequential: only their calls are known.")


def _filled(own: Shape, given: Any) -> Shape | None:
    """`own` with its open sides from `given`; an open side may stay open. `None` if they contradict each other."""
    if not isinstance(given, (tuple, list)) or len(given) != len(own):
        return None
    for side, wanted in zip(given, own, strict=True):
        if side is not None and (not isinstance(side, int) or side < 1 or wanted not in (None, side)):
            return None
    return tuple(wanted or side for side, wanted in zip(given, own, strict=True))


def _input_shapes(model: keras.Model, input_shape: Any) -> list[Shape]:
    """The shapes of the model's inputs with the batch, `input_shape` put where they are open."""
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


def trace(model: keras.Model, input_shape: Any = None) -> Graph:
    """A functional model as a flat `Graph`.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`; nested ones are opened, at each of their calls.
        input_shape: shape of one image, without the batch, for a model that leaves sides open; with several inputs
            a sequence of shapes in the order of `model.inputs`.

    Returns:
        A `Graph`. Inputs have no call. Layers that contain layers (wrappers, subclassed models) stay one call, but for
        those with a `reference_model`, which stand for other calls: a [`keras_sharenets.layers.ParallelConv2D`].

    Raises:
        ValueError: the model is neither, or a `Sequential` that is not built; or `input_shape` contradicts its inputs.
    """
    _check_model(model)
    replay = _Replay()
    shapes = _input_shapes(model, input_shape)
    inputs = [replay.tensor(shape, own.dtype) for shape, own in zip(shapes, model.inputs, strict=True)]
    outputs = replay.model(model, inputs)
    return Graph(tuple(inputs), tuple(replay.calls), outputs)


def calls(model: keras.Model, input_shape: Any = None) -> tuple[Call, ...]:
    """Every call of every operation of a functional model, in execution order.

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


def copy_layer(operation: keras.Operation) -> keras.Operation:
    """The same layer or other operation, not built."""
    return type(operation).from_config(operation.get_config())


def copy_network(
    model: keras.Model,
    copy: Callable[[Any], keras.Operation] = copy_layer,
    takes_over: Callable[[keras.layers.Layer], bool] = lambda layer: True,
) -> keras.Model:
    """The same network with weights of its own: a layer that is shared in `model` is shared in it.

    Args:
        model: functional or sequential, built; nested models too.
        copy: makes what each layer or other operation has in its place, not built, with the same weights when it is.
        takes_over: whether the copy of a layer has its weights; otherwise it has those of its initializers.
    """
    copies = {}

    def copy_of(operation: keras.Operation) -> keras.Operation:
        """One copy of a layer or another operation, however often and wherever it is used."""
        if id(operation) not in copies:
            made = copy_of_model(operation) if is_functional(operation) else copy(operation)
            copies[id(operation)] = operation, made
        return copies[id(operation)][1]

    def copy_of_model(model: keras.Model) -> keras.Model:
        given, results = _ends(model)
        # A plain model over the same graph: `clone_model` would compile the copy of a compiled one.
        plain = keras.Model(given, results, name=model.name)
        inputs = keras.tree.map_structure(lambda tensor: copy_of(tensor._keras_history.operation).output, given)
        return keras.models.clone_model(plain, inputs, clone_function=copy_of)

    new = copy_of_model(model)
    for operation, its_copy in copies.values():
        if isinstance(operation, keras.layers.Layer) and takes_over(operation):
            its_copy.set_weights(operation.get_weights())
    for call in calls(new):
        if isinstance(call.operation, keras.layers.Normalization):
            call.operation.finalize_state()  # It computes with constants that it takes from its weights when told to.
    return new


def in_full_precision(model: keras.Model) -> keras.Model:
    """A network that computes in float32: itself, or a copy of one that computes in half precision."""
    if not any(getattr(call.operation, "compute_dtype", None) in HALF for call in calls(model)):
        return model
    # Nested models round what they are given to the policy under which they are made.
    return in_policy("float32", lambda: copy_network(model, _copy_in_full_types))


def _copy_in_full_types(operation: keras.Operation) -> keras.Operation:
    return type(operation).from_config(full_types(operation.get_config()))


def rebuild(
    model: keras.Model,
    graph: Graph,
    call: Callable[..., Any],
    start: Callable[[Tensor, keras.KerasTensor], keras.KerasTensor] = lambda tensor, symbol: symbol,
) -> keras.Model:
    """The same network again over the same layers, with other layers put between or around them.

    Nothing is copied: layers, and so weights, belong to both models.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`, for the names of inputs and of the whole, and for
            the lists and dicts in which inputs are taken and outputs given.
        graph: what [`trace`] gives for it.
        call: function `(call, operation, *args, **kwargs)` that makes one call, given its `Call`, its operation and its
            arguments as symbolic tensors, and returns its output or outputs.
        start: function `(tensor, symbol)` of each input, its `Tensor` and what stands for it, that returns what is
            read in its place.

    Returns:
        A functional `keras.Model`, not compiled.
    """
    plain = keras.Model(model.inputs, model.outputs)
    names = [layer.name for layer in plain.layers if isinstance(layer, keras.layers.InputLayer)]
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for tensor, name in zip(graph.inputs, names, strict=True)
    ]
    values = {tensor.number: start(tensor, symbol) for tensor, symbol in zip(graph.inputs, inputs, strict=True)}

    def symbolic(argument: Any) -> Any:
        return values[argument.number] if isinstance(argument, Tensor) else argument

    for each in graph.calls:
        args, kwargs = keras.tree.map_structure(symbolic, (each.args, each.kwargs))
        results = keras.tree.flatten(call(each, each.operation, *args, **kwargs))
        values.update({tensor.number: result for tensor, result in zip(each.outputs, results, strict=True)})
    outputs = [values[tensor.number] for tensor in graph.outputs]
    given, results = _ends(model)
    packed = keras.tree.pack_sequence_as(given, inputs), keras.tree.pack_sequence_as(results, outputs)
    return keras.Model(*packed, name=model.name)


def _ends(model: keras.Model) -> tuple[Any, Any]:
    """What a model takes and gives, as it was made: tensors, lists or dicts of them."""
    # `input` of a `Sequential` is that of its last call, in another model.
    sequential = isinstance(model, keras.Sequential)
    return (model.inputs[0], model.outputs[0]) if sequential else (model.input, model.output)
