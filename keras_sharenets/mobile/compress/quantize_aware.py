"""Quantization-aware training, and removal of training wrappers."""

from __future__ import annotations

import collections
import inspect
import warnings

import keras
import numpy as np

from keras_sharenets import _checks
from keras_sharenets import layers as ours
from keras_sharenets.analysis.copying import copy_layer
from keras_sharenets.analysis.graph import rebuild, trace
from keras_sharenets.heads import names_of_outputs
from keras_sharenets.layers.quantized_kernels import PRESERVE, inner, stored_kernels
from keras_sharenets.mobile.compress.training import TrainedWithTFMOT, check_backend, plain
from keras_sharenets.mobile.graph import passes, scales
from keras_sharenets.mobile.graph.inference_graph import PROBABILITIES
from keras_sharenets.mobile.graph.lowering import lower_calls, with_known_shapes
from keras_sharenets.mobile.graph.quantization import DATA_MOVEMENT, limited_values, tied_values
from keras_sharenets.ops.rounding import MAX_CLUSTERS

ENGINES = ("keras", "tfmot")
_ROUNDED = "_rounded"  # Ends the name of a layer or function whose own name another layer needs.


def quantize_aware(model: keras.Model, *, engine: str = "keras", preserve: str | None = None) -> keras.Model:
    """Prepares a network for quantization-aware training: fake-quantizes kernels and activations as in an int8 file.

    The result uses the same layers as `model`: training updates the weights of both, and nothing has to be copied back.
    Layers with kernels are wrapped in [`keras_sharenets.layers.QuantizedKernels`], each once however often it is
    called, so that all uses share one set of integers. Where the file quantizes an activation, a
    [`keras_sharenets.layers.FakeQuantize`] is inserted, which learns the range during training. The exported graph
    determines these positions: for example, a convolution with its normalization and activation has one.

    A few epochs at a small learning rate are usual. Then `export_tflite(q, path, quantization="int8",
    representative_data=images)` uses the learned ranges; images are still needed for values inside layers, such as the
    scores before a softmax. [`strip`] removes the fake quantization.

    Args:
        model: functional or sequential `keras.Model` that can be exported.
        engine: quantizer in training steps: `"keras"`, on every backend, or `"tfmot"`, the quantizers of the TensorFlow
            Model Optimization Toolkit, on TensorFlow. The rest is the same.
        preserve: `None`; `"zeros"`: weights that are 0 stay 0, as after pruning; `"clusters"`: in addition, equal
            weights of a kernel stay equal, as after clustering. Frozen kernels need not be clustered.

    Returns:
        A functional `keras.Model` that is not compiled. It can be saved and loaded like any other, on every backend.

    Raises:
        ValueError: an argument breaks a rule above; a trainable kernel has more than 256 distinct values and
            `preserve="clusters"`; a layer computes its kernel from weights that are not recognized as kernels; or
            `model` cannot be exported (for example `UnsupportedLayerError`).
        RuntimeError: `engine="tfmot"`, and the Keras backend is not TensorFlow.

    >>> import keras_sharenets as ksn
    >>> model = ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(16, 16, 3))
    >>> q = quantize_aware(model)
    >>> q.count_params() - model.count_params() == 2 * sum(isinstance(x, ksn.layers.FakeQuantize) for x in q.layers)
    True
    """
    _checks.one_of("engine", engine, ENGINES)
    _checks.one_of("preserve", preserve, PRESERVE)
    if engine == "tfmot":
        check_backend()
    traced = with_known_shapes(trace(model))
    for call in traced.calls:
        if isinstance(call.operation, (ours.FakeQuantize, ours.QuantizedKernels)):
            raise ValueError(f"`model` (='{model.name}') is quantization-aware already: see '{call.path}'.")
    ranges, in_float = _ranges(traced)
    layers = _FakeQuantization(traced, ranges, in_float, preserve, names_of_outputs(model, traced))
    quantized = rebuild(model, traced, layers.call, layers.of_input)
    if engine == "keras":
        return quantized
    from keras_sharenets.mobile.compress.tfmot import quantize_with_tfmot

    return quantize_with_tfmot(quantized)


def _ranges(traced):
    """The tensors to quantize, grouped by shared range, and the layers that compute in float in the file.

    Returns:
        `({traced tensor's number: group}, ids of layers)`.
    """
    lowered, calls = lower_calls(traced, materialize=lambda site: False)
    values = {tensor.number: value for tensor, value in zip(traced.inputs, lowered.inputs, strict=True)}
    in_float = set()
    for each in calls:
        if any(step.kind == "converted" for step in each.operations):
            in_float.add(id(each.call.operation))
        elif any(step.kernel is not None for step in each.operations):
            _check_kernels(each.call)
        values.update((tensor.number, value) for tensor, value in zip(each.call.outputs, each.outputs, strict=True))
    graph = scales.prepare_int8(passes.simplify(lowered), lambda site: False)
    groups, tensors = tied_values(graph), {}
    for tensor in (*traced.inputs, *(output for call in traced.calls for output in call.outputs)):
        # A layer that does nothing in inference returns its input value: the first tensor represents it. Integers, such
        # as indices, are exact in a file.
        if tensor.dtype.startswith(("float", "bfloat")):
            tensors.setdefault(values[tensor.number].number, tensor.number)
    ranges, quantized, limited = {}, set(), limited_values(graph)
    for value, kind, sources in (
        *((value, "input", ()) for value in graph.inputs),
        *((operation.output, operation.kind, operation.inputs) for operation in graph.operations),
    ):
        if kind in DATA_MOVEMENT and all(source.number in quantized for source in sources):
            quantized.add(value.number)
        elif kind not in PROBABILITIES and value.number in tensors and value.number not in limited:
            ranges[tensors[value.number]] = groups[value.number]
            quantized.add(value.number)
    return ranges, in_float


def _check_kernels(call):
    """Raises an error for a layer with weights in its kernel that would not be rounded."""
    layer = inner(call.operation)
    activation = getattr(getattr(layer, "activation", None), "weights", ())  # Of a layer, such as PReLU.
    known = {id(weight) for weight in (*activation, *(kernel for kernel, _ in stored_kernels(layer)))}
    for weight in getattr(layer, "trainable_weights", ()):
        # The bias of an `EinsumDense` may have several axes.
        if len(weight.shape) > 1 and id(weight) not in known and weight.name != "bias":
            raise ValueError(
                f"Layer '{call.path}' of `model` has a weight '{weight.name}' that is not recognized as a kernel, and"
                " quantization-aware training would not round it: name it `kernel`, or freeze or merge it first."
            )


def _is_frozen_unclustered(layer):
    """Whether the kernels of a layer are frozen, which `cluster` skips, and have too many values for clusters."""
    kernels = [kernel for kernel, _ in stored_kernels(layer)]
    if any(kernel.trainable for kernel in kernels):
        return False
    return any(np.unique(keras.ops.convert_to_numpy(kernel)).size > MAX_CLUSTERS for kernel in kernels)


class _FakeQuantization:
    """Wraps the layers of a network and inserts fake quantization after its calls while the network is rebuilt."""

    def __init__(self, traced, groups, in_float, preserve, names):
        self._ends = {tensor.number for tensor in traced.outputs}
        self._groups = groups
        self._in_float = in_float
        self._preserve = preserve
        self._names = names
        self._places = collections.Counter(groups.values())
        self._ranges = {}
        self._wrappers = {}
        self._taken = collections.Counter()

    def call(self, call, operation, *args, **kwargs):
        """One call of the network with quantized kernels and outputs."""
        wrapped, first = self._wrapped(call), next(iter(inspect.signature(operation.call).parameters), None)
        if isinstance(wrapped, ours.QuantizedKernels) and first in kwargs:  # The wrapper calls it `inputs`.
            args = (kwargs.pop(first), *args)
        outputs = keras.tree.flatten(wrapped(*args, **kwargs))
        name = call.path.replace("/", "_") + (f"_{call.index + 1}" if call.index else "")
        names = [name, *(f"{name}_output_{place}" for place in range(2, len(outputs) + 1))]
        is_end = wrapped is not operation and self._is_end(call)
        ranges = [self._name_of(operation)] if is_end else [f"{name}_range" for name in names]
        return [self._with_range(*each) for each in zip(call.outputs, outputs, ranges, strict=True)]

    def of_input(self, tensor, symbol):
        """A quantized input of the network."""
        return self._with_range(tensor, symbol, f"{symbol.name}_range")

    def _is_end(self, call):
        """Whether a call returns an output of the network, which keeps its name: losses and labels refer to it."""
        return len(call.outputs) == 1 and call.index == 0 and call.outputs[0].number in self._ends

    def _name_of(self, operation):
        """The name of an operation or, at the end of a nested model that returns an output, of that model."""
        return self._names.get(id(operation), operation.name)

    def _wrapped(self, call):
        layer = call.operation
        if id(layer) not in self._wrappers:
            ranged = any(tensor.number in self._groups for tensor in call.outputs)
            # Without kernels: the wrapper gives its name to the range of an output; two layers cannot have one name.
            renamed = self._name_of(layer) != layer.name
            wraps = (ranged or renamed) and self._is_end(call)
            if stored_kernels(layer):
                wraps = id(layer) not in self._in_float
            if not wraps:
                return layer
            if not isinstance(layer, keras.layers.Layer):  # A function, such as `keras.ops.relu`, has no weights.
                name = layer.name + _ROUNDED if ranged else self._name_of(layer)
                self._wrappers[id(layer)] = copy_layer(layer, lambda config: config | {"name": name})
                return self._wrappers[id(layer)]
            preserve = "zeros" if self._preserve == "clusters" and _is_frozen_unclustered(layer) else self._preserve
            name = self._name_of(layer) if self._is_end(call) and not ranged else layer.name + _ROUNDED
            wrapper = ours.QuantizedKernels(layer, preserve=preserve, name=name)
            wrapper.build()
            if preserve == "clusters":
                wrapper.find_clusters()
            self._wrappers[id(layer)] = wrapper
        return self._wrappers[id(layer)]

    def _with_range(self, tensor, symbol, name):
        if tensor.number not in self._groups:
            return symbol
        group = self._groups[tensor.number]
        if group not in self._ranges:
            self._ranges[group] = ours.FakeQuantize(self._places[group], name=name)
        place = self._taken[group]
        self._taken[group] += 1
        return self._ranges[group](symbol, place=place)


def strip(model: keras.Model) -> keras.Model:
    """Converts a pruned, clustered or quantization-aware network back to a plain one with the same layers.

    Pruned and clustered weights stay as they are. Fake quantization is removed: kernels have the float values that
    training updated, activations are not quantized, and the learned ranges are lost.

    Args:
        model: result of `prune`, `cluster` or [`quantize_aware`], or any functional or sequential `keras.Model`.

    Returns:
        A functional `keras.Model` that is not compiled.

    Raises:
        ValueError: the model is neither functional nor sequential.

    >>> import keras_sharenets as ksn
    >>> model = ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(16, 16, 3))
    >>> stripped = strip(ksn.mobile.quantize_aware(model))
    >>> {weight.path for weight in stripped.weights} == {weight.path for weight in model.weights}
    True
    """
    traced = trace(model)
    if any(isinstance(call.operation, (ours.FakeQuantize, ours.QuantizedKernels)) for call in traced.calls):
        return rebuild(model, traced, _without_fake_quantization)
    left = model.steps_left() if isinstance(model, TrainedWithTFMOT) else 0
    if left:
        warnings.warn(
            f"'{model.name}' has not been pruned to the end: {left} of the steps up to `end_step` are left. Fit it for "
            "that many more, or give `prune` a smaller `end_step`.",
            stacklevel=2,
        )
    return plain(model)


def _without_fake_quantization(call, operation, *args, **kwargs):
    if isinstance(operation, ours.QuantizedKernels):
        # Clustered weights are equal except for the last bit of a float: here they become exactly equal.
        for (variable, _), kernel in zip(operation.kernels, operation.preserved_kernels(), strict=True):
            variable.assign(kernel)
    if not isinstance(operation, keras.layers.Layer) and operation.name.endswith(_ROUNDED):
        name = operation.name.removesuffix(_ROUNDED)
        operation = copy_layer(operation, lambda config: config | {"name": name})
    return args[0] if isinstance(operation, ours.FakeQuantize) else inner(operation)(*args, **kwargs)
