"""Training steps for a TPU: JAX lowers for a TPU on a machine without one."""

import re

import keras
import pytest
from families import representative

from keras_sharenets.dtype_policies import in_policy
from keras_sharenets.models.registry import FAMILIES

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX lowers for TPUs")

BATCH = 8


def lowered_training_step(model):
    """A complete step (forward, loss, gradients, SGD with momentum, moving statistics) as StableHLO for a TPU."""
    import jax

    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(trained, fixed, state, images, labels):
        def loss(trained, fixed):
            logits, fixed = model.stateless_call(trained, fixed, images, training=True)
            return cross_entropy(labels, logits), fixed

        (value, fixed), gradients = jax.value_and_grad(loss, has_aux=True)(trained, fixed)
        trained, state = optimizer.stateless_apply(state, gradients, trained)
        return value, trained, fixed, state

    def shapes(variables):
        return [jax.ShapeDtypeStruct(variable.shape, variable.dtype) for variable in variables]

    exported = jax.export.export(jax.jit(step), platforms=["tpu"])(
        shapes(model.trainable_variables),
        shapes(model.non_trainable_variables),
        shapes(optimizer.variables),
        jax.ShapeDtypeStruct((BATCH, *model.input_shape[1:]), "float32"),
        jax.ShapeDtypeStruct((BATCH,), "int32"),
    )
    return exported


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_step_lowers_for_tpu(family, policy):
    model = in_policy(policy, lambda: representative(family, classifier_activation=None))
    exported = lowered_training_step(model)
    text = exported.mlir_module()
    assert exported.platforms == ("tpu",)
    assert all(isinstance(side, int) for value in exported.in_avals for side in value.shape)
    assert "tensor<?" not in text, "a shape that is not static"
    assert not re.search(r"callback|infeed|outfeed|stablehlo\.(send|recv)", text), "the host would be asked"
    convolutions = re.findall(r"stablehlo\.convolution\(.*", text)
    # Forward, and gradients by the input and by the kernel: about three for every call of a convolution.
    assert len(convolutions) >= 2 * sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers)
    if policy == "mixed_bfloat16":
        assert all("bf16>" in call for call in convolutions), "a convolution in full precision"
    # The results of a step have the types of its arguments.
    taken = [value.shape for value in exported.in_avals[:-2]]
    assert [value.shape for value in exported.out_avals[1:]] == taken
