"""The TensorFlow Model Optimization Toolkit (TFMOT) for kernels and activations of Keras 3.

TFMOT supports only layers of `tf_keras` (Keras 2). However, it only does arithmetic on kernels and ranges, and on the
TensorFlow backend a variable of Keras 3 is a TensorFlow variable that both can use. Each kernel is therefore placed in
its own `tf_keras` layer, which TFMOT wraps, and the wrapper runs once in every training step of Keras 3, also for a
shared kernel. No network is translated and no weight is copied; layers, optimizers, losses, metrics, callbacks and data
belong to Keras 3.

This module is imported inside functions, because `tf_keras` and `tensorflow_model_optimization` are slow to load and
may be missing.
"""

from __future__ import annotations

import math
import operator
import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_sharenets.analysis.graph import rebuild, trace
from keras_sharenets.layers import FakeQuantize, QuantizedKernels
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.mobile.compress.training import TrainedWithTFMOT, check_backend

_LEGACY_SWITCH = "TF_USE_LEGACY_KERAS"


def _load():
    # TFMOT sets an environment variable that makes TensorFlow's `keras` resolve to `tf_keras` in this process and its
    # children, unless it was resolved before. So it is resolved now, and the variable is restored.
    operator.attrgetter("keras.version")(tf)
    before = os.environ.get(_LEGACY_SWITCH)
    try:
        import tensorflow_model_optimization
        import tf_keras
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}. Pruning, clustering and TFMOT need more packages: pip install 'keras_sharenets[mobile]'",
            name=error.name,
        ) from error
    finally:
        os.environ.pop(_LEGACY_SWITCH, None)
        if before is not None:
            os.environ[_LEGACY_SWITCH] = before
    return tf_keras, tensorflow_model_optimization


tf_keras, tfmot = _load()

# TFMOT's wrappers require inputs, but the layer of a kernel does not.
_NO_INPUT = tf.zeros(())


class _KernelLayer(tf_keras.layers.Layer):
    """A layer that holds one kernel and returns it, for TFMOT to wrap."""

    def __init__(self, kernel, name):
        super().__init__(name=name.replace("/", "_"))
        self.kernel = kernel

    def call(self, inputs):
        return self.kernel

    def get_prunable_weights(self):
        return [self.kernel]

    def get_clusterable_weights(self):
        return [("kernel", self.kernel)]

    def get_clusterable_algorithm(self, weight_name):
        return None


tfmot.clustering.keras.ClusterableLayer.register(_KernelLayer)


class PrunedKernel:
    """A kernel in which TFMOT sets the weights of smallest magnitude to 0, more and more during training.

    Args:
        variable: `keras.Variable`. Weights that are 0 stay 0.
        schedule: dict of the arguments of `tfmot.sparsity.keras.PolynomialDecay`.
    """

    def __init__(self, variable: keras.Variable, schedule: dict[str, Any]) -> None:
        self.variable = variable
        layer = _KernelLayer(variable.value, variable.path)
        self._last_step = schedule["end_step"]
        self._wrapper = tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=_ToTheEnd(**schedule))
        self._wrapper.build(())
        # In TFMOT, a callback does this when training begins.
        self._wrapper.pruning_step.assign(0)
        # If more weights are 0 than a step requires, TFMOT's threshold is 0, and its mask keeps all weights.
        self._kept = tf.cast(variable.value != 0, variable.value.dtype)

    def on_train_begin(self) -> None:
        """Does nothing: the variable itself is trained."""

    def begin_step(self) -> None:
        """Counts the step, and updates the mask if it is due."""
        self._wrapper(_NO_INPUT, training=True)

    def gradients(self, gradient: Any) -> list[tuple[Any, Any]]:
        """The `(gradient, variable)` pairs for the optimizer, from the gradient of this kernel."""
        return [(gradient, self.variable)]

    def end_step(self) -> None:
        """Resets pruned weights to 0."""
        ((_, mask, _),) = self._wrapper.pruning_vars
        self.variable.assign(self.variable.value * mask * self._kept)

    def steps_left(self) -> int:
        """The number of steps until the last mask update."""
        return max(0, self._last_step - int(self._wrapper.pruning_step.numpy()))

    def state(self) -> list[Any]:
        """The step, the mask and the threshold."""
        ((_, mask, threshold),) = self._wrapper.pruning_vars
        return [self._wrapper.pruning_step, mask, threshold]


class _ToTheEnd(tfmot.sparsity.keras.PolynomialDecay):
    """Also prunes at the last step if that is not a multiple of the interval after the first."""

    def __call__(self, step):
        turn, sparsity = super().__call__(step)
        return tf.logical_or(turn, tf.equal(step, self.end_step)), sparsity


class ClusteredKernel:
    """A kernel in which TFMOT replaces each weight by the nearest of a few trained centroids.

    Args:
        variable: `keras.Variable`; from now on it holds the replaced weights. Weights that are 0 stay 0.
        number: int, maximum number of centroids.
        centroids: str, name of the initialization in `tfmot.clustering.keras.CentroidInitialization`.
    """

    def __init__(self, variable: keras.Variable, number: int, centroids: str) -> None:
        weights = np.asarray(variable.numpy())
        sparse = bool((weights == 0).any())
        self.variable = variable
        # TFMOT trains the centroids and, with the gradients of the replaced weights, the original weights.
        self._weights = keras.Variable(weights)
        self._weights.constraint = variable.constraint
        self._wrapper = tfmot.clustering.keras.cluster_weights(
            _KernelLayer(self._weights.value, variable.path),
            # Some initializations fail with more centroids than distinct values; TFMOT has a minimum number.
            max(min(number, len(np.unique(weights))), 3 if sparse else 2),
            tfmot.clustering.keras.CentroidInitialization[centroids],
            preserve_sparsity=sparse,
        )
        self._wrapper.build(())
        self._centroids = keras.Variable(self._wrapper.cluster_centroids["kernel"])
        self.end_step()

    def on_train_begin(self) -> None:
        """Restarts from the variable's weights if they have changed since the last step."""
        weights = np.asarray(self.variable.numpy())
        if np.array_equal(weights, self._replaced()):
            return
        zero = self._wrapper.zero_idx.get("kernel")
        values = np.unique(weights if zero is None else weights[weights != 0])
        count = len(self._centroids.numpy()) - (zero is not None)
        # All values if they are not more than the centroids.
        centroids = values[np.linspace(0, len(values) - 1, count).round().astype(int)]
        self._weights.assign(weights)
        self._centroids.assign(centroids if zero is None else np.insert(centroids, zero, 0))
        self.end_step()

    def begin_step(self) -> None:
        """Does nothing: the variable already holds the replaced weights."""

    def gradients(self, gradient: Any) -> list[tuple[Any, Any]]:
        """The `(gradient, variable)` pairs for the optimizer, from the gradient of this kernel."""
        sources = [self._weights, self._centroids]
        if gradient is None:
            return [(None, source) for source in sources]
        with tf.GradientTape() as tape:
            replaced = self._replaced()
        changes: Any = tape.gradient(replaced, sources, output_gradients=gradient)
        own, summed = changes
        # TFMOT sums the gradients of all weights of a cluster: with SGD, a network of few and large kernels diverges
        # within a few steps. It can also average, but not under XLA.
        members = self._wrapper.pulling_indices["kernel"]
        sizes = tf.math.unsorted_segment_sum(tf.ones_like(gradient), members, summed.shape[0])
        return [(own, self._weights), (tf.math.divide_no_nan(summed, sizes), self._centroids)]

    def end_step(self) -> None:
        """Replaces the weights."""
        self.variable.assign(self._replaced())

    def steps_left(self) -> int:
        """Always 0: the weights are replaced from the beginning."""
        return 0

    def state(self) -> list[Any]:
        """The original weights, the centroids, and the cluster index of each weight."""
        return [self._weights, self._centroids, self._wrapper.pulling_indices["kernel"]]

    def _replaced(self):
        return self._wrapper(_NO_INPUT, training=True)


BITS = 8


def quantize_with_tfmot(model: keras.Model) -> TrainedWithTFMOT:
    """The same quantization-aware network, with fake quantization by TFMOT in training steps.

    Kernels are quantized by TFMOT's `LastValueQuantizer`, symmetric and per filter, as in TFMOT's own 8-bit scheme: the
    gradient of a weight is 0 if rounding errors put it outside its range. Activations are quantized by a quantizer of
    this module, which keeps their ranges in the network's own layers. Outside training steps the network quantizes by
    itself, as the file will.

    Args:
        model: result of `quantize_aware`.

    Returns:
        A `TrainedWithTFMOT`, not compiled, with the same layers as `model`.

    Raises:
        ValueError: nothing in `model` is quantized, or a quantized layer has an activity regularizer.
        RuntimeError: the Keras backend is not TensorFlow.
    """
    check_backend()
    traced = trace(model)
    stand_ins: dict[int, Any] = {
        id(call.operation): stand_in(call.operation)
        for call in traced.calls
        for kind, stand_in in ((QuantizedKernels, _Kernels), (FakeQuantize, _Values))
        if call.index == 0 and isinstance(call.operation, kind)
    }
    if not stand_ins:
        raise ValueError(f"`model` (='{model.name}') must be made by `quantize_aware`: nothing in it is quantized.")
    for layer in (each.layer for each in stand_ins.values()):
        if any(part.activity_regularizer is not None for part in layer._flatten_layers()):
            raise ValueError(
                f"`engine` (='tfmot') does not apply the activity regularizer of layer '{inner(layer).name}': use "
                "'keras'."
            )

    def call(call, operation, *args, **kwargs):
        return stand_ins.get(id(operation), operation)(*args, **kwargs)

    return TrainedWithTFMOT(model, forward=rebuild(model, traced, call).__call__)


class _StandIn(keras.layers.Layer):
    """Replaces a fake quantization layer and has its shapes."""

    def __init__(self, layer):
        super().__init__(name=layer.name, dtype=layer.dtype_policy)
        self.layer = layer
        self.built = True

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)


class _Kernels(_StandIn):
    """Runs the layer inside a `QuantizedKernels` with kernels quantized by TFMOT."""

    def __init__(self, layer):
        super().__init__(layer)
        self.quantizers = [
            _KernelQuantizer(None if layer.preserve == "clusters" else axis, kernel.shape)
            for kernel, axis in layer.kernels
        ]

    def call(self, inputs, *others, training=None, **kwargs):
        preserved = self.layer.preserved_kernels()
        quantized = [quantizer(kernel) for quantizer, kernel in zip(self.quantizers, preserved, strict=True)]
        outputs, _ = self.layer.run(quantized, inputs, *others, training=training, **kwargs)
        return outputs


class _KernelQuantizer:
    """TFMOT's fake quantization of one kernel.

    `axis` is the filter axis, -1 or the last ones, or `None` for one range for all filters.
    """

    def __init__(self, axis, shape):
        quantizer = tfmot.quantization.keras.quantizers.LastValueQuantizer(
            BITS, per_axis=axis is not None, symmetric=True, narrow_range=True
        )
        # TFMOT expects a matrix with the filters along its last axis.
        filters = math.prod(shape[-len(axis) :]) if isinstance(axis, tuple) else shape[-1]
        self.matrix = shape if axis is None else (-1, filters)
        self.wrapper = _wrapped(quantizer, (None, filters))

    def __call__(self, kernel):
        # XLA turns a filter of zeros into NaN.
        return ops.where(kernel == 0, kernel, self._quantized(kernel))

    def _quantized(self, kernel):
        return ops.reshape(self.wrapper(ops.reshape(kernel, self.matrix), training=True), kernel.shape)


class _Values(_StandIn):
    """Quantizes activations like a `FakeQuantize`, with its ranges."""

    def __init__(self, layer):
        super().__init__(layer)
        self.wrappers = [_wrapped(_RangeQuantizer(layer, place), ()) for place in range(layer.places)]

    def call(self, inputs, place=0, training=None):
        return ops.cast(self.wrappers[place](inputs, training=True), inputs.dtype)


class _RangeQuantizer(tfmot.quantization.keras.quantizers.Quantizer):
    """Updates the range of one place of a `FakeQuantize` from the values, and quantizes to the union of its ranges.

    TFMOT's own quantizer for activations starts at -6 and 6 and needs thousands of steps to adapt.
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


class _OutputOnly(tfmot.quantization.keras.QuantizeConfig):
    """Configures TFMOT to quantize only a layer's output."""

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
    """A TFMOT layer that quantizes its input."""
    nothing = tf_keras.layers.Activation("linear")
    wrapper = tfmot.quantization.keras.QuantizeWrapperV2(nothing, _OutputOnly(quantizer))
    wrapper.build(shape)
    return wrapper
