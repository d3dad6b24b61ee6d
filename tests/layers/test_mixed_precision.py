"""Half precision in every implementation, over enough pixels to reveal a sum in half precision."""

import functools

import keras
import numpy as np
import pytest
from harness import check_half_precision, pseudo_random, slow_after

from keras_sharenets.dtype_policies import in_policy
from keras_sharenets.layers import (
    BatchNormalization,
    DepthwiseConv2D,
    HierarchicalGroupConv2D,
    HighlySharedConv2D,
    InterleavedGroupConv2D,
    ParallelConv2D,
    QuantizedKernels,
    SplitGroupConv2D,
    SqueezeExcite,
)

COMPOSED = ("composed", "multiplied", "factored")
# A function that creates a layer from further arguments, and the implementations to test.
SHARED = functools.partial(HighlySharedConv2D, 64)
LAYERS = {
    "repeated": (
        functools.partial(SHARED, 3, groups=16, channel_repeats=8, arrangements=2),
        ("grouped", "folded"),
    ),
    "arranged": (functools.partial(SHARED, 1, arrangements=4), ("folded", "multiplied")),
    "grouped": (
        functools.partial(SHARED, 1, groups=4, channel_repeats=2, arrangements=2),
        ("grouped", "folded", "multiplied"),
    ),
    "hierarchical": (functools.partial(HierarchicalGroupConv2D, 48, groups=6), COMPOSED),
    "split": (functools.partial(SplitGroupConv2D, 48, groups=4), COMPOSED),
    "interleaved": (functools.partial(InterleavedGroupConv2D, 64, branch_channels=(4, 4, 4)), COMPOSED),
}
CASES = {
    f"{name}, {how}": functools.partial(layer, use_bias=True, implementation=how)
    for name, (layer, ways) in LAYERS.items()
    for how in ways
}
CASES |= {
    "depthwise": lambda: DepthwiseConv2D(3, padding="same"),
    "normalized": BatchNormalization,
    "squeezed": lambda: SqueezeExcite(8),
    "repeated, rounded": lambda: QuantizedKernels(
        HighlySharedConv2D(64, 3, groups=16, channel_repeats=8, arrangements=2, use_bias=True)
    ),
    "hierarchical, rounded": lambda: QuantizedKernels(HierarchicalGroupConv2D(48, groups=6, use_bias=True)),
}
CASES |= {
    f"parallel, {how}": lambda how=how: ParallelConv2D(
        HighlySharedConv2D(64, 3, groups=16, channel_repeats=8, implementation=how),
        HighlySharedConv2D(64, 1, groups=16),
    )
    for how in ("grouped", "folded")
}
# One of each kind for `make test`.
QUICK = ["repeated, folded", "arranged, multiplied", "hierarchical, composed", "interleaved, composed", "squeezed"]
QUICK += ["repeated, rounded"]
FITTED = ["squeezed", "repeated, grouped", "grouped, folded", "hierarchical, factored", "interleaved, multiplied"]
FITTED += ["depthwise", "normalized", "repeated, rounded"]


def network(layer):
    inputs = keras.Input((16, 16, 64))
    return keras.Model(inputs, layer(inputs))


@pytest.mark.parametrize("name", slow_after(len(QUICK), [*QUICK, *sorted(set(CASES) - set(QUICK))]))
def test_outputs_and_gradients_are_within_a_hundredth(name):
    keras.utils.set_random_seed(0)

    def build():
        return network(CASES[name]())

    check_half_precision(build, build().get_weights(), pseudo_random((4, 16, 16, 64)))


@pytest.mark.parametrize("name", slow_after(1, FITTED))
def test_fit_in_float16_scales_the_loss_and_moves_weights_alike(name):
    keras.utils.set_random_seed(0)
    images, start, moves = pseudo_random((4, 16, 16, 64)), None, {}
    for policy in ("float32", "mixed_float16"):
        model = in_policy(policy, lambda: network(CASES[name]()))
        start = model.get_weights() if start is None else start
        model.set_weights(start)
        targets = pseudo_random((4, *model.output_shape[1:]), seed=1)
        # The gradient of a mean over so many values is below the resolution of float16.
        model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=keras.backend.backend() == "jax")
        scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert scaled is (policy == "mixed_float16")
        model.fit(images, targets, batch_size=4, epochs=1, shuffle=False, verbose=0)
        trainable = {id(variable) for variable in model.trainable_variables}
        moves[policy] = [
            after - before
            for variable, before, after in zip(model.weights, start, model.get_weights(), strict=True)
            if id(variable) in trainable
        ]
    for actual, expected in zip(moves["mixed_float16"], moves["float32"], strict=True):
        assert np.linalg.norm(expected) > 0
        assert np.linalg.norm(actual - expected) <= 1e-2 * np.linalg.norm(expected)
