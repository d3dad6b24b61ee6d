"""Training that sees what integers will make of a network."""

import collections

from keras_sharenets import _checks
from keras_sharenets import layers as ours
from keras_sharenets.analysis.graph import trace
from keras_sharenets.analysis.rebuilding import rebuild
from keras_sharenets.layers.quantized_kernels import PRESERVE, stored_kernels
from keras_sharenets.mobile.compress.tfmot_training import check_backend
from keras_sharenets.mobile.graph import forms, passes
from keras_sharenets.mobile.graph.lowering import lower_calls
from keras_sharenets.mobile.graph.quantization import MOVES, PROBABILITIES, tied_values

ENGINES = ("keras", "tfmot")


def quantize_aware(model, engine="keras", *, preserve=None):
    """A network to train further, in which kernels and values are rounded as an int8 file will round them.

    It has the very layers of `model`: training moves the weights of both, and nothing has to be brought back. Layers
    with kernels are wrapped in [`keras_sharenets.layers.QuantizedKernels`], each once however often it is called, so
    that all uses have one set of integers. Where a value becomes integers in the file stands a
    [`keras_sharenets.layers.FakeQuantize`], which learns the value's range in training. Which values that are is read
    off the graph that is exported: an activation behind a normalisation behind a convolution is one.

    A few epochs at a small learning rate are usual. Then `export_tflite(q, path, quantization="int8",
    representative_data=pictures)` takes the learnt ranges; pictures are still needed for values inside layers, such as
    the scores before a softmax. [`strip`] gives the network without rounding.

    Args:
        model: functional or sequential `keras.Model` that can be exported.
        engine: what rounds in training steps: `"keras"`, on every backend, or `"tfmot"`, the quantizers of TensorFlow's
            Model Optimization Toolkit, on TensorFlow. All else is the same.
        preserve: `None`; `"zeros"`: weights that are 0 stay 0, as after pruning; `"clusters"`: the same, and weights
            of a kernel that are equal stay equal, as after clustering.

    Returns:
        A functional `keras.Model` that is not compiled. It is saved and loaded as any other, on every backend.

    Raises:
        ValueError: an argument breaks a rule above; a kernel has more than 256 distinct values and
            `preserve="clusters"`; or `model` cannot be exported, among them `UnsupportedLayerError`.
        RuntimeError: `engine="tfmot"`, and Keras does not run on TensorFlow.

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
    traced = trace(model)
    for call in traced.calls:
        if isinstance(call.operation, (ours.FakeQuantize, ours.QuantizedKernels)):
            raise ValueError(f"`model` (='{model.name}') is quantisation-aware already: '{call.path}' rounds.")
    layers = _RoundingLayers(_ranges(traced), preserve)
    rounding = rebuild(model, traced, layers.call, layers.ranged)
    if engine == "keras":
        return rounding
    from keras_sharenets.mobile.compress.tfmot_quantization import rounded_by_tfmot

    return rounded_by_tfmot(rounding)


def _ranges(traced):
    """`{traced tensor's number: group}`: the tensors to round, those of one group with one range."""
    lowered, values = lower_calls(traced, compact=lambda site: True)
    graph = forms.integer_form(passes.simplify(lowered), lambda site: False)
    groups, tensors = tied_values(graph), {}
    for tensor in (*traced.inputs, *(output for call in traced.calls for output in call.outputs)):
        # A layer that does nothing in inference gives the value that it is given: the first tensor stands for it.
        tensors.setdefault(values[tensor.number].number, tensor.number)
    ranges, rounded = {}, set()
    for value, kind, sources in (
        (graph.input, "input", ()),
        *((operation.output, operation.kind, operation.inputs) for operation in graph.operations),
    ):
        if kind in MOVES and all(source.number in rounded for source in sources):
            rounded.add(value.number)
        elif kind not in PROBABILITIES and value.number in tensors:
            ranges[tensors[value.number]] = groups[value.number]
            rounded.add(value.number)
    return ranges


class _RoundingLayers:
    """Puts wrappers around the layers of a network and ranges behind its calls, as it is built again."""

    def __init__(self, groups, preserve):
        self._groups = groups
        self._preserve = preserve
        self._places = collections.Counter(groups.values())
        self._ranges = {}
        self._wrappers = {}
        self._taken = collections.Counter()

    def call(self, call, operation, *args, **kwargs):
        """One call of the network, its kernels and its output rounded."""
        output = self._rounding(operation)(*args, **kwargs)
        use = f"_{call.index + 1}" if call.index else ""
        return self._behind(call.outputs[0], output, call.path.replace("/", "_") + use)

    def ranged(self, tensor, symbol):
        """An input of the network, rounded."""
        return self._behind(tensor, symbol, symbol.name)

    def _rounding(self, layer):
        if not stored_kernels(layer):
            return layer
        if id(layer) not in self._wrappers:
            wrapper = ours.QuantizedKernels(layer, preserve=self._preserve, name=f"{layer.name}_rounded")
            wrapper.build()
            if self._preserve == "clusters":
                wrapper.find_clusters()
            self._wrappers[id(layer)] = wrapper
        return self._wrappers[id(layer)]

    def _behind(self, tensor, symbol, name):
        if tensor.number not in self._groups:
            return symbol
        group = self._groups[tensor.number]
        if group not in self._ranges:
            self._ranges[group] = ours.FakeQuantize(self._places[group], name=f"{name}_range")
        place = self._taken[group]
        self._taken[group] += 1
        return self._ranges[group](symbol, place=place)
