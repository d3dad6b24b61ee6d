"""A layer that is called in several places: XLA expands its kernel once, and every use contributes a gradient.

The library does not cache an expanded kernel: one from outside a gradient tape would silently have no gradient, and
one from inside a branch or a checkpoint could not be used outside. XLA merges the expansions of several uses into one.
In the backward pass, the gradients of the uses are added one by one, since no compiler exchanges a sum with the
transpose of an expansion. TensorFlow without XLA reads and expands a variable for each use.
"""

import collections
import re

import keras
import numpy as np
import pytest
from harness import assert_close, pseudo_random, slow_after

from keras_sharenets.layers import HierarchicalGroupConv2D, HighlySharedConv2D, InterleavedGroupConv2D, QuantizedKernels

TENSORFLOW = keras.backend.backend() == "tensorflow"
SHAPE = (4, 4, 16)


def shared():
    return HighlySharedConv2D(16, 3, groups=4, channel_repeats=2, arrangements=2, implementation="grouped")


# A layer, the XLA operations that only the expansion of its kernel needs, and their number: arranging permutes planes
# and concatenates the copies; a chain of 4 groups has 3 products; two group convolutions have two products; rounding
# takes the magnitudes of a kernel once.
LAYERS = {
    "arranged": (shared, {"gather": 1, "concatenate": 1}),
    "hierarchical": (lambda: HierarchicalGroupConv2D(16, groups=4, implementation="composed"), {"dot": 3}),
    "interleaved": (lambda: InterleavedGroupConv2D(16, branch_channels=(4, 4), implementation="composed"), {"dot": 2}),
    "rounded": (lambda: QuantizedKernels(shared()), {"abs": 1, "gather": 1, "concatenate": 1}),
}


def network(layers):
    """Calls the layers in sequence, each followed by a ReLU."""
    inputs = features = keras.Input(SHAPE)
    for layer in layers:
        features = keras.layers.ReLU()(layer(features))
    return keras.Model(inputs, features)


def step_of(model, training):
    """A function of images and weights: the sum of the squared outputs, or its gradients by the weights."""
    if TENSORFLOW:
        import tensorflow as tf

        def loss(images):
            return tf.reduce_sum(tf.square(model(images, training=training)))

        def gradients(images):
            with tf.GradientTape() as tape:
                result = loss(images)
            return tape.gradient(result, [variable.value for variable in model.trainable_variables])

        return gradients if training else loss
    import jax

    fixed = [variable.value for variable in model.non_trainable_variables]

    def loss(images, weights):
        return (model.stateless_call(weights, fixed, images, training=training)[0] ** 2).sum()

    return jax.grad(loss, 1) if training else loss


def operations(model, training):
    """The number of each operation in a step compiled by XLA."""
    step, images = step_of(model, training), pseudo_random((2, *SHAPE))
    if TENSORFLOW:
        import tensorflow as tf

        compiled = tf.function(step, jit_compile=True)
        text = compiled.experimental_get_compiler_ir(tf.constant(images))(stage="optimized_hlo")
    else:
        import jax

        weights = [variable.value for variable in model.trainable_variables]
        text = jax.jit(step).lower(images, weights).compile().as_text()
    return collections.Counter(re.findall(r"= \S+ ([a-z-]+)\(", text))


def gradients_of(model, images, compiled):
    if TENSORFLOW:
        import tensorflow as tf

        step = tf.function(step_of(model, True), jit_compile=True) if compiled else step_of(model, True)
        return [np.asarray(tf.convert_to_tensor(gradient)) for gradient in step(tf.constant(images))]
    import jax

    step = jax.jit(step_of(model, True)) if compiled else step_of(model, True)
    weights = [variable.value for variable in model.trainable_variables]
    return [np.asarray(gradient) for gradient in step(images, weights)]


@pytest.mark.parametrize("name", slow_after(1, LAYERS))
def test_xla_expands_a_kernel_once_for_all_uses(name):
    build, expected = LAYERS[name]
    layer = build()
    for uses in (1, 2, 4, 8):
        found = operations(network([layer] * uses), training=False)
        # A 1x1 convolution may also be compiled to a product: one per use.
        pixels = uses if found["convolution"] == 0 else 0
        assert found["convolution"] + pixels == uses
        counts = {kind: found[kind] - (pixels if kind == "dot" else 0) for kind in expected}
        assert counts == expected, f"{uses} uses"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arranged", "rounded"])
def test_xla_expands_a_kernel_once_in_a_training_step(name):
    """Forward as above; backward, each use scatters the gradient of its copies to the original planes."""
    build, expected = LAYERS[name]
    layer = build()
    for uses in (1, 2, 4):
        found = operations(network([layer] * uses), training=True)
        assert {kind: found[kind] for kind in expected} == expected, f"{uses} uses"
        assert found["scatter"] <= uses


@pytest.mark.parametrize("compiled", slow_after(1, [False, True]))
@pytest.mark.parametrize("name", slow_after(3, LAYERS))
def test_gradients_of_all_uses_meet_in_what_is_stored(name, compiled):
    """The gradient of a layer called three times is the sum of those of three layers with the same weights."""
    build, _ = LAYERS[name]
    tied, images = network([build()] * 3), pseudo_random((2, *SHAPE))
    untied = network([build() for _ in range(3)])
    weights = [pseudo_random(weight.shape, seed) * 0.3 for seed, weight in enumerate(tied.trainable_variables)]
    tied.set_weights(weights)
    untied.set_weights(weights * 3)
    apart = gradients_of(untied, images, compiled)
    count = len(weights)
    for place, gradient in enumerate(gradients_of(tied, images, compiled)):
        expected = sum(apart[place + use * count] for use in range(3))
        assert min(np.abs(apart[place + use * count]).max() for use in range(3)) > 0
        assert_close(gradient, expected, 1e-4)


def built(name):
    layer = LAYERS[name][0]()
    layer.build((None, *SHAPE))
    return layer


@pytest.mark.skipif(not TENSORFLOW, reason="JAX has no tapes")
@pytest.mark.parametrize("where", slow_after(2, ["eager", "function", "xla"]))
@pytest.mark.parametrize("name", slow_after(2, LAYERS))
def test_call_before_a_tape_takes_no_gradient_from_one_inside(name, where):
    import tensorflow as tf

    layer, images = built(name), tf.constant(pseudo_random((2, *SHAPE)))
    kernels = [variable.value for variable in layer.trainable_variables]

    def gradients(before):
        outside = layer(images) if before else 0.0
        with tf.GradientTape() as tape:
            inside = layer(images)
            result = tf.reduce_sum(inside**2 + outside)
        return tape.gradient(result, kernels)

    run = gradients if where == "eager" else tf.function(gradients, jit_compile=where == "xla")
    for actual, expected in zip(run(True), run(False), strict=True):
        assert np.abs(expected).max() > 0
        assert_close(np.asarray(actual), np.asarray(expected), 1e-5)


@pytest.mark.skipif(not TENSORFLOW, reason="JAX has no variables that change in a step")
@pytest.mark.parametrize("where", slow_after(2, ["eager", "function", "xla"]))
@pytest.mark.parametrize("name", ["arranged", "interleaved"])
def test_weights_that_change_between_two_calls_count(name, where):
    import tensorflow as tf

    layer, images = built(name), tf.constant(pseudo_random((2, *SHAPE)))
    kernel = layer.trainable_variables[0]

    def before_and_after():
        before = layer(images)
        kernel.assign(kernel * 3.0)
        return before, layer(images)

    run = before_and_after if where == "eager" else tf.function(before_and_after, jit_compile=where == "xla")
    before, after = run()
    assert np.abs(before).max() > 0
    assert_close(np.asarray(after), 3 * np.asarray(before), 1e-5)


@pytest.mark.parametrize("name", slow_after(1, LAYERS))
def test_calls_in_a_branch_a_loop_and_a_checkpoint_leave_nothing_behind(name):
    """Each has a separate graph; a kernel expanded in one cannot be used outside or in the other model."""
    layer = built(name)
    inputs = keras.Input(SHAPE)
    other = keras.Model(inputs, layer(inputs))

    class Everywhere(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = layer

        def call(self, inputs):
            features = keras.ops.cond(keras.ops.sum(inputs) > -1e9, lambda: self.inner(inputs), lambda: 0.0 * inputs)
            again = keras.remat(self.inner)(features)
            return self.inner(keras.ops.fori_loop(0, 2, lambda _, state: self.inner(state), again))

    model = keras.Model(inputs, Everywhere()(inputs))
    images = pseudo_random((2, *SHAPE))
    expected = images
    for _ in range(5):
        expected = keras.ops.convert_to_numpy(layer(expected))
    if TENSORFLOW:
        import tensorflow as tf

        actual = tf.function(model)(tf.constant(images))
    else:
        import jax

        weights = [[variable.value for variable in group] for group in (model.trainable_variables, [])]
        actual = jax.jit(lambda *given: model.stateless_call(*given)[0])(*weights, images)
    assert_close(keras.ops.convert_to_numpy(actual), expected, 1e-4)
    assert_close(keras.ops.convert_to_numpy(other(images)), keras.ops.convert_to_numpy(layer(images)), 1e-5)
