"""The registry of lowering rules, and checks of whether a rule applies to a layer.

A rule is a function that takes the graph under construction (`GraphBuilder`), the layer, the call, the input values and
the output shape; it adds operations and returns the output value. It is written for one class and for the arguments
that it declares. A layer that computes something else, or has an argument that its rule does not read, raises an error
that names it.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_sharenets.analysis.graph import Call, Graph, Tensor
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.mobile.graph.inference_graph import Constant, Operation, Value


class UnsupportedLayerError(ValueError):
    """A layer has no counterpart in the inference graph."""


class GraphBuilder:
    """The graph under construction while the calls of a model are lowered one by one."""

    def __init__(self) -> None:
        self.operations = []
        self.ranges = {}
        self.use = 0
        self.within = ""  # The names of the enclosing layers, each followed by "/".
        self._constants = {}
        self._count = 0

    def value(self, shape: Sequence[int | None]) -> Value:
        """A new value with batch size 1."""
        self._count += 1
        sides: tuple[Any, ...] = tuple(shape[1:])
        return Value(self._count - 1, (1, *sides))

    def constant(self, layer: keras.layers.Layer, name: str, make: Callable[[], np.ndarray]) -> Constant:
        """The constant `name` of a layer: created at its first use, the same object at every later one."""
        key = id(layer), name
        if key not in self._constants:
            self._constants[key] = Constant(f"{self.within}{layer.name}/{name}", np.asarray(make(), "float32"))
        return self._constants[key]

    def equal_constant(self, operation: keras.Operation, array: np.ndarray) -> Constant:
        """The constant with these values: the same object for all equal arrays, named after its first user."""
        key = array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = Constant(f"{self.within}{operation.name}/kernel", array)
        return self._constants[key]

    def add(self, kind: str, name: str, inputs: Sequence[Value], shape: Sequence[int | None], **fields: Any) -> Value:
        """Appends an operation and returns its output."""
        output = self.value(shape)
        self.operations.append(Operation(kind, f"{self.within}{name}", tuple(inputs), output, use=self.use, **fields))
        return output


@dataclasses.dataclass(frozen=True)
class Rule:
    """Lowering of a class of layers.

    Attributes:
        lower: function `(graph, layer, call, inputs, shape)` that returns the output value.
        arguments: names of the constructor arguments that it reads; `None` for all.
        call_arguments: names of the call arguments that it reads, in addition to the inputs.
    """

    lower: Callable[..., Any]
    arguments: frozenset[str] | None = frozenset()
    call_arguments: frozenset[str] = frozenset()


RULES: dict[type, Rule] = {}

# Arguments that affect how a layer is trained, stored or executed, not what it computes in inference.
_TRAINING = """
    name trainable dtype autocast seed momentum synchronized renorm renorm_clipping renorm_momentum implementation
    activity_regularizer lora_rank lora_alpha quantization_config build_config batch_input_shape batch_shape
"""
_TRAINING_ENDS = ("_initializer", "_regularizer", "_constraint")
# Methods that build, describe and save a layer. Any other method that a subclass overrides can change what the layer
# computes.
_CONSTRUCTION = """
    build get_config from_config get_build_config build_from_config compute_output_shape compute_output_spec
    compute_mask count_params quantize quantized_build enable_lora save_own_variables load_own_variables save_assets
    load_assets get_compile_config compile_from_config adapt
"""


def lowers(
    *classes: type, reads: str | None = "", call_reads: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a rule for layer classes.

    Args:
        classes: the classes; subclasses that compute something else raise an error.
        reads: constructor arguments that the rule reads, separated by spaces; `None` for all.
        call_reads: call arguments that the rule reads, in addition to the inputs, likewise.
    """

    def register(function):
        rule = Rule(function, None if reads is None else frozenset(reads.split()), frozenset(call_reads.split()))
        RULES.update((layer, rule) for layer in classes)
        return function

    return register


def register_lowering(
    layer_class: type, *, reads: str = "", call_reads: str = ""
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a lowering rule for a custom layer class: it determines what calls become in a TFLite file.

    Layers without a rule can be exported, too: part by part if everything that the layer calls has a rule, otherwise as
    the operators that TensorFlow's converter generates. A layer with a rule is quantized with the rest of the network
    and folded with its neighbors, and its constants are stored once however often it is called. A layer with an
    `effective_kernel()` needs no rule.

    The rule is a function `(graph, layer, call, inputs, shape)` that returns the output value. `graph.add(kind,
    layer.name, inputs, shape, ...)` adds an operation (see `keras_sharenets.mobile.graph.inference_graph.Operation` for
    the kinds and their fields). `graph.constant(layer, name, make)` returns a kernel that all calls share. `inputs` are
    the input values of the call, and `shape` is its output shape. Every layer is compared with Keras before a file is
    written, so a wrong rule is detected.

    Args:
        layer_class: subclass of `keras.layers.Layer`. The rule applies to it and to subclasses that compute the same.
        reads: constructor arguments that the rule reads, separated by spaces. The rule does not apply to a layer whose
            other arguments differ from their defaults.
        call_reads: call arguments that the rule reads, in addition to the inputs, likewise.

    Returns:
        A decorator for the rule.

    Raises:
        ValueError: `layer_class` is not a layer class.

    >>> class Gain(keras.layers.Layer):
    ...     def __init__(self, gain=1.0, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.gain = gain
    ...
    ...     def call(self, inputs):
    ...         return self.gain * inputs
    ...
    ...     def get_config(self):
    ...         return {**super().get_config(), "gain": self.gain}
    >>> @register_lowering(Gain, reads="gain")
    ... def lower_gain(graph, layer, call, inputs, shape):
    ...     scale = np.full(shape[-1], layer.gain, "float32")
    ...     return graph.add("affine", layer.name, inputs, shape, scale=scale, bias=np.zeros_like(scale))
    """
    if not isinstance(layer_class, type) or not issubclass(layer_class, keras.layers.Layer):
        raise ValueError(f"`layer_class` (={layer_class!r}) must be a subclass of `keras.layers.Layer`.")
    return lowers(layer_class, reads=reads, call_reads=call_reads)


def registered_class(layer: keras.Operation) -> type | None:
    """The most specific class of a layer or operation that has a rule; `None` if there is none."""
    return next((base for base in type(layer).__mro__ if base in RULES), None)


def refuse(layer: keras.Operation, path: str, reason: str) -> UnsupportedLayerError:
    """The error for a layer that cannot be exported; `reason` continues the sentence after its name."""
    return UnsupportedLayerError(f"Layer '{path}', {article(type(layer).__name__)}, {reason}")


def article(name: str) -> str:
    """A name with its indefinite article."""
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def check_class(layer: keras.Operation, base: type, path: str) -> None:
    """Raises `UnsupportedLayerError` if a layer overrides a method of the class of its rule."""
    changed = next(_replaced(layer, base), None)
    if changed is not None:
        raise refuse(
            layer,
            path,
            f"cannot be exported to TFLite: it overrides `{changed}`, and the rule of {base.__name__} would "
            "leave out what that computes.",
        )


def _replaced(layer, base) -> Iterator[str]:
    """The names of the methods and properties of `base` that a layer overrides."""
    for owner in (layer, *type(layer).__mro__):
        if owner is base:
            return
        if isinstance(owner, type) and issubclass(base, owner):
            continue
        for name, value in vars(owner).items():
            special = name.startswith("__") and name != "__call__"
            known = getattr(base, name, None)
            if special or name in _CONSTRUCTION.split() or not (callable(known) or isinstance(known, property)):
                continue
            if owner is not layer or callable(value):
                yield name


def check_arguments(layer: keras.Operation, rule: Rule, path: str) -> None:
    """Raises `UnsupportedLayerError` if a layer has an argument that its rule does not read.

    Arguments that have their default value or only affect training are ignored.
    """
    if rule.arguments is None:
        return
    try:
        config = layer.get_config()
    except NotImplementedError as error:
        raise refuse(
            layer, path, "cannot be exported to TFLite: it has no `get_config` that returns its arguments."
        ) from error
    defaults = _defaults(type(layer))
    for name, value in config.items():
        if name in rule.arguments or name in _TRAINING.split() or name.endswith(_TRAINING_ENDS):
            continue
        if name == "data_format":
            if value not in (None, "channels_last"):
                raise refuse(layer, path, f"has `data_format` (={value!r}): build the network with channels last.")
        elif name not in defaults or not _equal(value, defaults[name]):
            raise refuse(layer, path, f"has `{name}` (={value!r}), which cannot be exported to TFLite.")


@functools.lru_cache(maxsize=256)  # Inspecting signatures took a sixth of an export.
def _defaults(layer_class):
    """`{argument: default}` of the constructors of a class and of its bases."""
    defaults = {}
    for base in reversed(layer_class.__mro__):
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            defaults.update((p.name, p.default) for p in parameters if p.default is not p.empty)
    return defaults


def _equal(value, default):
    """Whether an argument equals its default, where a single number is the default of every entry of a sequence."""
    if isinstance(value, (list, tuple)):
        defaults = default if isinstance(default, (list, tuple)) else [default] * len(value)
        return len(value) == len(defaults) and all(map(_equal, value, defaults))
    if isinstance(value, np.ndarray) or isinstance(default, np.ndarray):
        return np.array_equal(value, default)
    return value == default


def call_arguments(layer: keras.Operation, call: Call) -> dict[str, Any]:
    """`{name: value}` of the arguments of a call other than the inputs, positional or by keyword."""
    names = [name for name in inspect.signature(layer.call).parameters if name not in ("args", "kwargs")]
    names += map(str, range(len(names), len(call.args)))
    given = dict(zip(names, call.args, strict=False)) | call.kwargs
    return {name: value for name, value in given.items() if name != names[0]}


def check_call(layer: keras.Operation, call: Call, rule: Rule) -> None:
    """Raises `UnsupportedLayerError` if a layer is called with arguments that its rule does not read.

    `training` is ignored, because the `training` argument of the network overrides it.
    """
    first = keras.tree.flatten((call.args or tuple(call.kwargs.values()))[:1])
    if any(isinstance(entry, Tensor) for entry in first) and not all(isinstance(entry, Tensor) for entry in first):
        raise refuse(layer, call.path, "has a constant among its inputs, which cannot be exported.")
    if not isinstance(layer, keras.layers.Layer):
        return
    for name, value in call_arguments(layer, call).items():
        if name in rule.call_arguments or name == "training" or value is None:
            continue
        shown = "a tensor" if isinstance(value, Tensor) else repr(value)
        raise refuse(layer, call.path, f"is called with `{name}` (={shown}), which cannot be exported to TFLite.")


def check_masks(traced: Graph) -> None:
    """Raises `UnsupportedLayerError` if a layer gets a mask that is not an input of its call.

    The graph of a model has the mask of a layer with one input. Keras passes the masks of several inputs, as those of
    an attention, when the model runs, so the file would compute without them: on examples without padding, the same.
    """
    masked: set[int] = set()
    for call in traced.calls:
        layer = inner(call.operation)
        if not isinstance(layer, keras.layers.Layer):  # Functions drop masks.
            continue
        reads = any(tensor.number in masked for tensor in call.inputs)
        if reads:
            _check_masks_of(layer, call, masked)
        makes = isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False)
        if makes or (reads and layer.supports_masking):
            masked.update(tensor.number for tensor in call.outputs)


def _check_masks_of(layer, call, masked):
    signature = inspect.signature(layer.call)
    given = signature.bind(*call.args, **call.kwargs).arguments
    # This layer takes the mask of its query from the tensor, even if another one is passed.
    always = isinstance(layer, keras.layers.MultiHeadAttention)
    for name, value in given.items():
        tensors = (each for each in keras.tree.flatten(value) if isinstance(each, Tensor))
        if not any(tensor.number in masked for tensor in tensors):
            continue
        mask = "mask" if len(call.inputs) == 1 or isinstance(value, (list, tuple)) else f"{name}_mask"
        if mask in signature.parameters and (always or given.get(mask) is None):
            raise refuse(
                layer,
                call.path,
                f"gets the mask of padded steps as `{mask}` when Keras runs it, but not in the graph of the model: set "
                "`mask_zero=False` where it comes from, and pass the mask explicitly.",
            )
