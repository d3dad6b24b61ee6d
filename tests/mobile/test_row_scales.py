"""Scales that stand alone as whole multiples of one number, what is left of them in the kernels behind."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from harness import assert_close, pseudo_random

import keras_sharenets as ksn
from keras_sharenets.mobile import converter, execution, passes, predict_tflite
from keras_sharenets.mobile.lowering import lower
from keras_sharenets.mobile.row_scales import whole_scales

SCALE = np.array([1.01, -0.7, 0.31, 0.013, -0.0087, 0.5, 2.0, 1.9])
# The nearest multiples of a 127th of the largest.
WHOLE = [64, -44, 20, 1, -1, 32, 127, 121]


def network(behind, scale=SCALE, activation="relu"):
    """A scale and a shift that nothing takes up, an activation, what `behind` makes of it; and 3 pictures."""
    inputs = keras.Input((6, 6, 8))
    norm = keras.layers.BatchNormalization(name="alone", epsilon=1e-3)
    x = behind(keras.layers.Activation(activation)(norm(inputs)))
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    for place, weight in enumerate(model.trainable_weights):
        weight.assign(pseudo_random(weight.shape, seed=place))
    norm.set_weights([scale, pseudo_random((8,), seed=5), np.zeros(8), np.full(8, 0.999)])
    return model, pseudo_random((3, 6, 6, 8), seed=6)


def lowered(model):
    return passes.simplify(lower(model, compact=lambda site: True))


def multiples(graph):
    """The scale of the one operation that only scales and shifts, in 127ths of its largest."""
    (scale,) = (operation.scale for operation in graph.operations if operation.kind == "affine")
    return scale / np.abs(scale).max() * 127


def chain(x):
    return ksn.layers.HierarchicalGroupConv2D(6, 3)(ksn.layers.ChannelDeal(3)(x))


def joined(x):
    parts = [keras.layers.MaxPooling2D(2)(x), keras.layers.AveragePooling2D(2)(x)]
    return keras.layers.Conv2D(4, 3)(keras.layers.Concatenate()(parts))


@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize(
    "behind",
    [
        lambda x: keras.layers.Conv2D(5, 3, padding="same")(x),
        lambda x: keras.layers.Conv2D(6, 1, groups=2)(x),
        lambda x: keras.layers.DepthwiseConv2D(3, padding="same")(x),
        lambda x: keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)),
        lambda x: keras.layers.Conv2D(4, 1, groups=4)(ksn.layers.ChannelShuffle(2)(x)),
        chain,
        joined,
    ],
    ids=["convolution", "groups", "depthwise", "dense", "shuffle", "chain", "joined with itself"],
)
def test_what_is_left_goes_into_the_rows_behind(behind, activation):
    model, pictures = network(behind, activation=activation)
    whole = whole_scales(lowered(model))
    np.testing.assert_allclose(multiples(whole), WHOLE, atol=1e-4)
    assert_close(execution.run(whole, pictures), np.asarray(model(pictures)), 1e-5)


def test_a_scale_of_0_stays_0():
    scale = np.where(np.arange(8) == 3, 0, SCALE)
    model, pictures = network(keras.layers.Conv2D(5, 3), scale)
    whole = whole_scales(lowered(model))
    np.testing.assert_allclose(multiples(whole), np.where(np.arange(8) == 3, 0, WHOLE), atol=1e-4)
    assert_close(execution.run(whole, pictures), np.asarray(model(pictures)), 1e-5)


def shared(x):
    convolution = keras.layers.Conv2D(8, 3, padding="same")
    return convolution(convolution(x))


def added(x):
    return keras.layers.Add()([x, keras.layers.Conv2D(8, 1)(x)])


def clustered(x):
    layer = keras.layers.Conv2D(8, 3, use_bias=False)
    y = layer(x)
    layer.trainable = False  # Keeps what is assigned here.
    layer.kernel.assign(np.random.default_rng(0).choice([-0.5, 0.25, 1.0], layer.kernel.shape))
    return y


@pytest.mark.parametrize(
    ("behind", "arguments"),
    [
        (lambda x: keras.layers.Conv2D(5, 3)(x), {"scale": np.where(np.arange(8) == 3, 0.007, SCALE)}),
        (lambda x: keras.layers.Conv2D(5, 3)(x), {"activation": "relu6"}),
        (keras.layers.Flatten(), {}),
        (shared, {}),
        (added, {}),
        (clustered, {}),
    ],
    ids=["a scale that would become 0", "relu6", "no kernel", "kernel of two uses", "added", "clustered kernel"],
)
def test_left_as_they_are(behind, arguments):
    model, _ = network(behind, **arguments)
    graph = lowered(model)
    whole = whole_scales(graph)
    np.testing.assert_array_equal(multiples(whole), multiples(graph))
    assert [id(kernel) for kernel in whole.uses()] == [id(kernel) for kernel in graph.uses()]


@pytest.mark.parametrize(("behind", "scales"), [(keras.layers.Conv2D(5, 3), 1), (shared, 8)])
def test_a_file_has_one_scale_for_all(behind, scales, tmp_path):
    model, pictures = network(behind)
    data = converter.convert(model, "int8", pictures)
    contents = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data))
    graph, codes = contents.subgraphs[0], contents.operatorCodes
    depthwise = schema.BuiltinOperator.DEPTHWISE_CONV_2D
    (step,) = (step for step in graph.operators if codes[step.opcodeIndex].builtinCode == depthwise)
    kernel, bias = (graph.tensors[number] for number in step.inputs[1:])
    assert len(kernel.quantization.scale) == len(bias.quantization.scale) == scales
    integers = contents.buffers[kernel.buffer].data.astype("int8")
    np.testing.assert_array_equal(integers, WHOLE if scales == 1 else 127 * np.sign(SCALE))
    (tmp_path / "net.tflite").write_bytes(data)
    assert_close(predict_tflite(tmp_path / "net.tflite", pictures), np.asarray(model(pictures)), 0.05)
