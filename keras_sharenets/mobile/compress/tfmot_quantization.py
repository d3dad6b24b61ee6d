"""Quantisation-aware training in which TFMOT rounds. This module is imported inside functions, see `packages`."""

import keras
import tensorflow as tf
from keras import ops

from keras_sharenets.analysis.graph import trace
from keras_sharenets.analysis.rebuilding import rebuild
from keras_sharenets.layers import FakeQuantize, QuantizedKernels
from keras_sharenets.mobile.compress.tfmot_packages import tf_keras, tfmot
from keras_sharenets.mobile.compress.tfmot_training import TrainedWithTFMOT, check_backend

BITS = 8


def rounded_by_tfmot(model):
    """The same quantisation-aware network, in whose training steps TFMOT does the rounding.

    Kernels go through TFMOT's `LastValueQuantizer`, symmetric and with a range for each filter, as they do in TFMOT's
    own scheme for 8 bits: the gradient of a weight is 0 where rounding errors put it outside the range that it sets.
    Values go through a quantizer of this module, which keeps their ranges in the network's own layers. Outside training
    steps the network rounds by itself, as the file will.

    Args:
        model: what `quantize_aware` gives.

    Returns:
        A `TrainedWithTFMOT`, not compiled, with the very layers of `model`.

    Raises:
        ValueError: nothing in `model` rounds.
        RuntimeError: Keras does not run on TensorFlow.
    """
    check_backend()
    traced = trace(model)
    stand_ins = {
        id(call.operation): stand_in(call.operation)
        for call in traced.calls
        for kind, stand_in in ((QuantizedKernels, _Kernels), (FakeQuantize, _Values))
        if call.index == 0 and isinstance(call.operation, kind)
    }
    if not stand_ins:
        raise ValueError(f"`model` (='{model.name}') must be made by `quantize_aware`: nothing in it rounds.")

    def call(call, operation, *args, **kwargs):
        return stand_ins.get(id(operation), operation)(*args, **kwargs)

    return TrainedWithTFMOT(model, forward=rebuild(model, traced, call).__call__)


class _StandIn(keras.layers.Layer):
    """Stands where a layer that rounds is, and has the shapes of that."""

    def __init__(self, layer):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.layer = layer
        self.built = True

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)


class _Kernels(_StandIn):
    """Runs the layer inside a `QuantizedKernels`, its kernels rounded by TFMOT."""

    def __init__(self, layer):
        super().__init__(layer)
        self.roundings = [
            _KernelRounding(None if layer.preserve == "clusters" else axis, kernel.shape)
            for kernel, axis in layer.kernels
        ]

    def call(self, inputs, **kwargs):
        kernels = [kernel for kernel, _ in self.layer.kernels]
        preserved = self.layer.preserved_kernels()
        rounded = [rounding(kernel) for rounding, kernel in zip(self.roundings, preserved, strict=True)]
        with keras.StatelessScope(state_mapping=list(zip(kernels, rounded, strict=True))):
            return self.layer.layer.call(inputs, **kwargs)


class _KernelRounding:
    """TFMOT's rounding of one kernel: `axis` is that of its filters, `None` for one range for all of them."""

    def __init__(self, axis, shape):
        self.axis = axis
        quantizer = tfmot.quantization.keras.quantizers.LastValueQuantizer(
            BITS, per_axis=axis is not None, symmetric=True, narrow_range=True
        )
        self.wrapper = _wrapped(quantizer, (None, shape[axis or 0]))

    def __call__(self, kernel):
        # XLA makes a filter of zeros one of NaN.
        return ops.where(kernel == 0, kernel, self._rounded(kernel))

    def _rounded(self, kernel):
        if self.axis is None:
            return self.wrapper(kernel, training=True)
        # TFMOT takes a matrix with the filters along its last axis.
        moved = ops.moveaxis(kernel, self.axis, -1)
        matrix = ops.reshape(moved, (-1, moved.shape[-1]))
        return ops.moveaxis(ops.reshape(self.wrapper(matrix, training=True), moved.shape), -1, self.axis)


class _Values(_StandIn):
    """Rounds values as a `FakeQuantize` does, with the ranges of that."""

    def __init__(self, layer):
        super().__init__(layer)
        self.wrappers = [_wrapped(_RangeQuantizer(layer, place), ()) for place in range(layer.places)]

    def call(self, inputs, place=0, training=None):
        return ops.cast(self.wrappers[place](inputs, training=True), inputs.dtype)


class _RangeQuantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """Moves the range of one place of a `FakeQuantize` towards that of the values, and rounds them to all its ranges.

    TFMOT's own quantizer for values begins at -6 and 6 and takes thousands of steps to leave them.
    """

    def __init__(self, layer, place):
        self.layer = layer
        self.place = place

    def build(self, tensor_shape, name, layer):
        return {"low": self.layer.low.value, "high": self.layer.high.value}

    def __call__(self, inputs, training, weights, **kwargs):
        low, high = weights["low"], weights["high"]
        here = tf.one_hot(self.place, self.layer.places)
        step = here * tf.where(high > low, 1 - self.layer.momentum, 1.0)
        low = tf.reduce_min(low.assign_add(step * (tf.minimum(tf.reduce_min(inputs), 0.0) - low)))
        high = tf.reduce_max(high.assign_add(step * (tf.maximum(tf.reduce_max(inputs), 0.0) - high)))
        high = tf.where(high > low, high, 1.0)
        return tf.quantization.fake_quant_with_min_max_vars(
            inputs, tf.stop_gradient(low), tf.stop_gradient(high), num_bits=BITS
        )

    def get_config(self):
        return {}


class _Rounds(tfmot.quantization.keras.QuantizeConfig):
    """Tells TFMOT that a layer's output is rounded, and nothing else of it."""

    def __init__(self, quantizer):
        self.quantizer = quantizer

    def get_output_quantizers(self, layer):
        return [self.quantizer]

    def get_weights_and_quantizers(self, layer):
        return []

    def get_activations_and_quantizers(self, layer):
        return []

    def set_quantize_weights(self, layer, quantize_weights):
        pass

    def set_quantize_activations(self, layer, quantize_activations):
        pass

    def get_config(self):
        return {}


def _wrapped(quantizer, shape):
    """A layer of TFMOT that rounds what it is given."""
    nothing = tf_keras.layers.Activation("linear")
    wrapper = tfmot.quantization.keras.QuantizeWrapperV2(nothing, _Rounds(quantizer))
    wrapper.build(shape)
    return wrapper
