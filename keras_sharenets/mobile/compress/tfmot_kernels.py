"""Kernels of Keras 3 as TFMOT prunes and clusters them. This module is imported inside functions, see `packages`."""

import keras
import numpy as np
import tensorflow as tf

from keras_sharenets.mobile.compress.tfmot_packages import tf_keras, tfmot

# TFMOT's wrappers want inputs, the layer of a kernel does not.
NOTHING = tf.zeros(())


class KernelLayer(tf_keras.layers.Layer):
    """A layer that holds one kernel and whose call gives it, for TFMOT to wrap."""

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


tfmot.clustering.keras.ClusterableLayer.register(KernelLayer)


class PrunedKernel:
    """A kernel whose weights of smallest magnitude TFMOT sets to 0, more of them as training goes on.

    Args:
        variable: `keras.Variable`. Weights that are 0 stay 0.
        schedule: dict of the arguments of `tfmot.sparsity.keras.PolynomialDecay`.
    """

    def __init__(self, variable, schedule):
        self.variable = variable
        layer = KernelLayer(variable.value, variable.path)
        self._wrapper = tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=_ToTheEnd(**schedule))
        self._wrapper.build(())
        # TFMOT has a callback do this when training begins.
        self._wrapper.pruning_step.assign(0)
        # Where more weights are 0 than a step asks for, TFMOT's threshold is 0, which all weights reach.
        self._kept = tf.cast(variable.value != 0, variable.value.dtype)

    def take_over(self):
        """Before training: nothing, the variable is the one that is trained."""

    def begin_step(self):
        """Counts the step, and finds the weights to prune when it is time."""
        self._wrapper(NOTHING, training=True)

    def trained(self, gradient):
        """The pairs `(gradient, variable)` that the optimizer gets for that of this kernel."""
        return [(gradient, self.variable)]

    def end_step(self):
        """Sets what is pruned to 0 again."""
        ((_, mask, _),) = self._wrapper.pruning_vars
        self.variable.assign(self.variable.value * mask * self._kept)


class _ToTheEnd(tfmot.sparsity.keras.PolynomialDecay):
    """Prunes at the last step too when that is not a multiple of the interval after the first."""

    def __call__(self, step):
        turn, sparsity = super().__call__(step)
        return tf.logical_or(turn, tf.equal(step, self.end_step)), sparsity


class ClusteredKernel:
    """A kernel whose weights TFMOT replaces by the nearest of a few numbers, the centroids, which are trained.

    Args:
        variable: `keras.Variable`; from here on it holds the replaced weights. Weights that are 0 stay 0.
        number: int, how many centroids there are at most.
        centroids: str, the name in `tfmot.clustering.keras.CentroidInitialization` of how they are found.
    """

    def __init__(self, variable, number, centroids):
        weights = keras.ops.convert_to_numpy(variable)
        sparse = bool((weights == 0).any())
        self.variable = variable
        # TFMOT trains the centroids and, with the gradients of what replaces them, the weights.
        self._weights = keras.Variable(weights)
        self._weights.constraint = variable.constraint
        self._wrapper = tfmot.clustering.keras.cluster_weights(
            KernelLayer(self._weights.value, variable.path),
            # Some ways to find them fail if there are more of them than values; and TFMOT wants a few.
            max(min(number, len(np.unique(weights))), 3 if sparse else 2),
            tfmot.clustering.keras.CentroidInitialization[centroids],
            preserve_sparsity=sparse,
        )
        self._wrapper.build(())
        self._centroids = keras.Variable(self._wrapper.cluster_centroids["kernel"])
        self.end_step()

    def take_over(self):
        """Before training: begins from the variable's weights if others than the last step's were put there."""
        weights = keras.ops.convert_to_numpy(self.variable)
        if np.array_equal(weights, self._replaced()):
            return
        zero = self._wrapper.zero_idx.get("kernel")
        values = np.unique(weights if zero is None else weights[weights != 0])
        count = len(self._centroids.numpy()) - (zero is not None)
        # All values if there are no more than centroids.
        centroids = values[np.linspace(0, len(values) - 1, count).round().astype(int)]
        self._weights.assign(weights)
        self._centroids.assign(centroids if zero is None else np.insert(centroids, zero, 0))
        self.end_step()

    def begin_step(self):
        """Nothing: the variable holds the replaced weights already."""

    def trained(self, gradient):
        """The pairs `(gradient, variable)` that the optimizer gets for that of this kernel."""
        sources = [self._weights, self._centroids]
        if gradient is None:
            return [(None, source) for source in sources]
        with tf.GradientTape() as tape:
            replaced = self._replaced()
        own, summed = tape.gradient(replaced, sources, output_gradients=gradient)
        # TFMOT sums the gradients of all weights that a centroid stands for: with SGD, a network of few and large
        # kernels is lost in a few steps. It can also take means, but not under XLA.
        members = self._wrapper.pulling_indices["kernel"]
        sizes = tf.math.unsorted_segment_sum(tf.ones_like(gradient), members, summed.shape[0])
        return [(own, self._weights), (tf.math.divide_no_nan(summed, sizes), self._centroids)]

    def end_step(self):
        """Replaces the weights."""
        self.variable.assign(self._replaced())

    def _replaced(self):
        return self._wrapper(NOTHING, training=True)
