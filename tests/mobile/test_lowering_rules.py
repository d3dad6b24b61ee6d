"""Lowering rules reject arguments and overridden methods that they do not handle, with the name of the layer."""

import dataclasses

import keras
import numpy as np
import pytest
from keras import layers, ops
from mobile_networks import lower, run
from random_networks import (
    CenteredReLU,
    NegatedKernelConv2D,
    RenamedConv2D,
    ScaledConv2D,
    StandardizedConv2D,
    SymmetricConv2D,
    WeightedAdd,
    images,
)

import keras_sharenets as ksn
from keras_sharenets.mobile import export_tflite
from keras_sharenets.mobile.export.reference import (
    TOLERANCE,
    ExportMismatchError,
    LayerMismatchError,
    check_graph,
    check_layers,
    results_of,
)
from keras_sharenets.mobile.graph import passes, scales
from keras_sharenets.mobile.graph.lowering import lower_model
from keras_sharenets.mobile.graph.rules import RULES, UnsupportedLayerError


def network_around(middle, end=True):
    inputs = keras.Input((8, 8, 3))
    y = middle(layers.Conv2D(4, 3, padding="same", name="before")(inputs))
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(y) if end else y)


class AlwaysDropout(layers.Dropout):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


class GainConv2D(layers.Conv2D):
    def __init__(self, filters, kernel_size, gain=1.0, **kwargs):
        super().__init__(filters, kernel_size, **kwargs)
        self.gain = gain

    def get_config(self):
        return {**super().get_config(), "gain": self.gain}


class SlowedSharing(ksn.layers.HighlySharedConv2D):
    def call(self, inputs, **kwargs):
        return 0.5 * super().call(inputs, **kwargs)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (StandardizedConv2D(4, 3, name="own"), "'own', a StandardizedConv2D, .* it overrides `convolution_op`"),
        (ScaledConv2D(4, 3, name="own"), "'own', a ScaledConv2D, .* it overrides `call`"),
        (NegatedKernelConv2D(4, 3, name="own"), "'own', a NegatedKernelConv2D, .* it overrides `kernel`"),
        (CenteredReLU(name="own"), "'own', a CenteredReLU, .* it overrides `call`"),
        (AlwaysDropout(0.5, name="own"), "'own', an AlwaysDropout, .* it overrides `call`"),
        (SlowedSharing(4, 3, name="own"), "'own', a SlowedSharing, .* it overrides `call`"),
        (GainConv2D(4, 3, gain=2.0, name="own"), r"'own', a GainConv2D, has `gain` \(=2.0\)"),
        (layers.Normalization(axis=1, mean=1.0, variance=2.0, name="own"), "'own', a Normalization, has `mean`"),
        (layers.Normalization(axis=(1, 3), mean=1.0, variance=2.0, name="own"), "'own', a Normalization, has `mean`"),
        (layers.Rescaling(np.ones((8, 4)).tolist(), name="own"), "'own', a Rescaling, has `scale`"),
        (layers.Flatten(data_format="channels_first", name="own"), r"`data_format` \(='channels_first'\)"),
        (layers.MaxPooling2D(1, data_format="channels_first", name="own"), r"`data_format` \(='channels_first'\)"),
        (layers.ZeroPadding2D(1, data_format="channels_first", name="own"), r"`data_format` \(='channels_first'\)"),
        (layers.BatchNormalization(axis=1, name="own"), r"'own', a BatchNormalization, has `axis` \(=1\)"),
        (layers.RandomCrop(4, 4, name="own"), "'own', a RandomCrop, has no lowering rule"),
        (layers.Pipeline([layers.RandomFlip(), layers.CenterCrop(4, 4)], name="own"), "'own', a Pipeline, contains"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, layers.Layer) else "",
)
def test_unsupported_arguments_and_methods_are_named(layer, message, rules_only):
    with pytest.raises(UnsupportedLayerError, match=message):
        lower(network_around(layer, end=False))


def test_overridden_merge_function_is_rejected(rules_only):
    with pytest.raises(UnsupportedLayerError, match=r"'own', a WeightedAdd, .* it overrides `_merge_function`"):
        lower(network_around(lambda y: WeightedAdd(name="own")([y, y])))


def test_method_replaced_on_an_instance_is_rejected(rules_only):
    layer = layers.Dense(4, name="patched")
    model = network_around(layer)
    layer.call = lambda inputs: inputs
    with pytest.raises(UnsupportedLayerError, match=r"'patched', a Dense, .* it overrides `call`"):
        lower(model)


def test_unsupported_call_arguments_are_rejected(rules_only):
    norm, mask = layers.BatchNormalization(name="masked"), np.ones((1, 8, 8), bool)
    with pytest.raises(UnsupportedLayerError, match="'masked', a BatchNormalization, is called with `mask`"):
        lower(network_around(lambda y: norm(y, mask=mask)))
    # The `training` argument of the whole network takes precedence.
    assert lower(network_around(lambda y: layers.Dropout(0.5)(y, training=True))).operations


def test_new_axes_of_a_batch_of_fixed_size(rules_only):
    inputs = keras.Input(batch_shape=(2, 4, 3))
    steps = lower(keras.Model(inputs, ops.squeeze(ops.expand_dims(inputs, 1), 1))).operations
    assert [(step.kind, step.output.shape) for step in steps] == [("reshape", (1, 1, 4, 3)), ("reshape", (1, 4, 3))]
    with pytest.raises(UnsupportedLayerError, match="an ExpandDims, changes the batch axis"):
        lower(keras.Model(inputs, ops.expand_dims(inputs, 0)))


def test_network_quantized_by_keras_is_rejected():
    model = network_around(layers.Dense(4, name="integers"))
    model.quantize("int8")
    with pytest.raises(UnsupportedLayerError, match="'integers', a Dense, was quantized by Keras"):
        lower(model)


def _branch(y):
    return layers.Conv2D(4, 1, activation="relu")(y)


@pytest.mark.parametrize(
    "middle",
    [
        lambda y: layers.Conv2D(4, 3, dilation_rate=(1, 2))(y),
        lambda y: layers.DepthwiseConv2D(3, dilation_rate=2, padding="same")(y),
        lambda y: ksn.layers.DepthwiseConv2D(3, dilation_rate=2)(y),
        lambda y: layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[4.0, 3.0, 2.0, 1.0], invert=True)(y),
        lambda y: RenamedConv2D(4, 3)(y),
        lambda y: SymmetricConv2D(4, strides=(2, 2))(y),
        lambda y: layers.Subtract()([y, _branch(y)]),
        lambda y: layers.Average()([y, _branch(y), _branch(y)]),
        lambda y: layers.Maximum()([y, _branch(y)]),
        lambda y: ops.minimum(y, _branch(y)),
        lambda y: layers.Multiply()([y, layers.Dense(4, "sigmoid")(layers.GlobalMaxPooling2D()(y))]),
        lambda y: (2 - y) / 4.0 + np.arange(4, dtype="float32"),
        lambda y: ops.relu6(ops.add(y, _branch(y))) * y,
        lambda y: layers.Dense(5, activation="relu")(y),
        lambda y: layers.Dense(5)(layers.EinsumDense("bhwc,cd->bhwd", (None, None, 3))(y)),
        lambda y: layers.Pipeline([layers.RandomFlip(), layers.RandomContrast(0.2)])(y),
        lambda y: ops.reshape(ops.concatenate([y, _branch(y)], axis=-1), (-1, 4, 16, 8)),
        lambda y: layers.Reshape((16, 4, 4))(layers.Softmax()(y)),
        lambda y: layers.BatchNormalization(gamma_initializer="random_normal")(layers.Reshape((64, 4))(y)),
    ],
)
def test_supported_layers_match_keras(middle):
    model, pixels = network_around(middle, end=False), images(0, 4) / 255
    np.testing.assert_allclose(run(lower(model), pixels), model(pixels, training=False), rtol=1e-4, atol=1e-5)
    check_layers(lower_model(model), (pixels,))


def test_wrong_layer_is_named_despite_saturated_probabilities(tmp_path):
    """A third-party layer whose `effective_kernel` is incomplete, before a saturated softmax."""
    inputs = keras.Input((8, 8, 3))
    y = layers.Rescaling(1 / 255)(inputs)
    y = SymmetricConv2D(4, gain=1.001, name="gained")(layers.Conv2D(4, 3, name="right")(y))
    y = layers.Dense(3, activation="softmax")(1e4 * layers.GlobalAveragePooling2D()(y))
    model = keras.Model(inputs, y)
    with pytest.raises(LayerMismatchError, match="'gained', a SymmetricConv2D, would compute something"):
        export_tflite(model, tmp_path / "net.tflite", "int8", representative_data=images(0, 8))
    assert not list(tmp_path.iterdir())


def test_layer_with_saturated_softmax_is_compared_by_its_logits(monkeypatch):
    inputs = keras.Input((8, 8, 3))
    dense = layers.Dense(3, activation="softmax", name="sure", kernel_initializer="random_normal")
    model = keras.Model(inputs, dense(layers.Flatten()(inputs)))
    lowered = lower_model(model)
    np.testing.assert_equal(
        check_layers(lowered, (images(0, 8) * 1e3,)), results_of(lowered, (images(0, 8) * 1e3,)), strict=True
    )
    dense.kernel.assign(dense.kernel * 1.01)
    with pytest.raises(LayerMismatchError, match="'sure', a Dense"):
        check_layers(lowered, (images(0, 8) * 1e3,))


def test_functional_model_with_overridden_call_is_rejected(tmp_path):
    class Doubled(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    inputs = keras.Input((8, 8, 3))
    model = Doubled(inputs, layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(inputs))))
    with pytest.raises(ValueError, match=r"'doubled', a Doubled\) must be .* without a `call` of its own"):
        export_tflite(model, tmp_path / "net.tflite")


def test_rounding_errors_are_distinguished_from_a_wrong_graph():
    """Normalization removes a large offset from a small signal, of which float32 keeps three digits."""
    keras.utils.set_random_seed(0)
    inputs, gains = keras.Input((8, 8, 3)), keras.initializers.RandomUniform(0.5, 1.5)
    y = layers.Conv2D(16, 3, name="before")(layers.Rescaling(1.0, 1e4)(inputs))
    norm = layers.BatchNormalization(momentum=0.0, gamma_initializer=gains)
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(norm(y)))
    pixels = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    model(pixels, training=True)
    lowered = lower_model(model)
    graph = scales.prepare_float(passes.simplify(lowered.graph), lambda site: True)
    expected = results_of(lowered, (pixels,))
    error = np.linalg.norm(results_of(graph, (pixels,))[0][0] - expected[0][0]) / np.linalg.norm(expected[0][0])
    assert error > TOLERANCE
    check_graph(graph, expected, (pixels,))
    (kernel,) = graph.uses()
    kernel.array[0, 0, 0] *= 1.01
    with pytest.raises(ExportMismatchError, match="The inference graph does not compute what Keras computes"):
        check_graph(graph, expected, (pixels,))


def test_lora_is_merged_into_the_kernel():
    model = network_around(layers.Dense(4, name="adapted"))
    layer = model.get_layer("adapted")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones((2, 4)))
    pixels = images(0, 4) / 255
    np.testing.assert_allclose(run(lower(model), pixels), model(pixels), rtol=1e-4, atol=1e-5)


def test_fixed_batch(tmp_path):
    inputs = keras.Input((8, 8, 3), batch_size=3)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.Rescaling(1 / 255)(inputs))))
    pixels = images(0, 8)
    assert export_tflite(model, tmp_path / "net.tflite", representative_data=pixels).score_error < 1e-5


def test_network_without_shared_layers_is_lowered_once(tmp_path, monkeypatch):
    rule, seen = RULES[layers.Dense], []

    def lower_dense(builder, layer, *rest):
        seen.append(layer.name)
        return rule.lower(builder, layer, *rest)

    monkeypatch.setitem(RULES, layers.Dense, dataclasses.replace(rule, lower=lower_dense))
    export_tflite(network_around(layers.Dense(2, name="only")), tmp_path / "net.tflite")
    assert seen == ["only"]
