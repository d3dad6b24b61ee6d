"""Operations merged in the inference graph: convolutions, reshapes, padding, gate factors, and equal operations."""

import dataclasses

import keras
import numpy as np
import pytest
from harness import assert_close, pseudo_random
from mobile_networks import lower, run

from keras_sharenets.mobile.graph.merging import merge_added, merge_equal, merge_reshapes
from keras_sharenets.mobile.graph.passes import fold_gate_factors, fold_padding, pad_with_zeros, simplify


def network(uses=1, strides=1, padded=False, also=None, kernel_size=3, padding="same"):
    """`spatial(x) + pointwise(x)`, both called `uses` times; `also` is the index of a summand that is used again."""
    x = inputs = keras.Input((6, 6, 4))
    spatial = keras.layers.Conv2D(
        4, kernel_size, strides, "valid" if padded else padding, use_bias=False, name="spatial"
    )
    pointwise = keras.layers.Conv2D(4, 1, strides, use_bias=False, name="pointwise")
    for _ in range(uses):
        planes = keras.layers.ZeroPadding2D(1)(x) if padded else x
        parts = spatial(planes), pointwise(x)
        x = keras.layers.Add()([parts[0], parts[1]])
        x = x if also is None else keras.layers.Concatenate()([x, parts[also]])
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    model.set_weights([pseudo_random(weight.shape, seed=place) for place, weight in enumerate(model.weights)])
    return model


def kinds(graph):
    return [operation.kind for operation in graph.operations]


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        ({}, (1, 1)),
        ({"kernel_size": 5}, (2, 2)),
        # The center of a strided kernel coincides with the 1x1 kernel if padding is explicit, but not if it is "same".
        ({"strides": 2, "padded": True}, (1, 1)),
        ({"uses": 3}, (1, 1)),
    ],
)
def test_pointwise_kernel_is_added_to_the_center(arguments, place):
    model = network(**arguments)
    images = pseudo_random((3, 6, 6, 4), seed=7)
    graph = lower(model)
    merged = merge_added(graph)
    assert "add" not in kinds(merged)
    assert kinds(merged).count("conv") == arguments.get("uses", 1)
    assert len(merged.uses()) == 1
    expected = model.get_weights()[0].copy()
    expected[place] += model.get_weights()[1][0, 0]
    (kernel,) = merged.uses()
    assert_close(kernel.array, expected, 1e-6)
    assert_close(run(merged, images), np.asarray(model(images)), 1e-5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"strides": 2},
        {"kernel_size": 2},
        {"also": 0},
        {"also": 1},
    ],
    ids=["same padding at stride 2", "even kernel", "spatial output used again", "pointwise output used again"],
)
def test_convolutions_that_cannot_be_merged(arguments):
    graph = lower(network(**arguments))
    assert kinds(merge_added(graph)) == kinds(graph)


def test_sum_that_broadcasts_is_not_merged():
    """The single output pixel of one convolution is added to the four pixels of the 1x1 convolution."""
    inputs = keras.Input((2, 2, 4))
    padded = keras.layers.ZeroPadding2D(((1, 0), (1, 0)))(inputs)
    parts = [keras.layers.Conv2D(4, 3, use_bias=False)(padded), keras.layers.Conv2D(4, 1, use_bias=False)(inputs)]
    model, images = keras.Model(inputs, keras.layers.Add()(parts)), pseudo_random((3, 2, 2, 4))
    assert_close(run(merge_added(lower(model)), images), np.asarray(model(images)), 1e-5)


def test_kernel_with_another_use_is_not_merged():
    inputs = keras.Input((6, 6, 4))
    spatial = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
    pointwise = keras.layers.Conv2D(4, 1, use_bias=False)
    x = keras.layers.Add()([spatial(inputs), pointwise(inputs)])
    x = keras.layers.GlobalAveragePooling2D()(pointwise(x))
    graph = lower(keras.Model(inputs, x))
    assert kinds(merge_added(graph)) == kinds(graph)


def test_sum_keeps_its_activation():
    """A registered rule may add a sum with an activation."""
    graph, images = lower(network()), pseudo_random((3, 6, 6, 4))
    graph = graph.with_operations(
        dataclasses.replace(step, activation="relu") if step.kind == "add" else step for step in graph.operations
    )
    merged = merge_added(graph)
    assert "add" not in kinds(merged)
    assert_close(run(merged, images), run(graph, images), 1e-5)


def gate_network(side, reduction=keras.layers.GlobalAveragePooling2D, also=False):
    """A squeeze-and-excitation gate as in `keras.applications`; with `also`, the vector is an output too."""
    inputs = keras.Input((side, side, 4))
    vector = reduction()(inputs)
    y = keras.layers.Conv2D(4, 1, activation="relu", bias_initializer="ones")(keras.layers.Reshape((1, 1, 4))(vector))
    y = keras.layers.Flatten()(keras.layers.Multiply()([inputs, y]))
    return keras.Model(inputs, keras.layers.Concatenate()([y, vector]) if also else y)


@pytest.mark.parametrize("reduction", [keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D])
@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ({"side": 3}, ["reduction", "conv", "identity", "multiply", "reshape"]),
        # The mean of a single pixel is the pixel.
        ({"side": 1}, ["conv", "identity", "multiply", "reshape"]),
        ({"side": 3, "also": True}, ["reduction", "reshape", "conv", "identity", "multiply", "reshape", "concat"]),
    ],
    ids=["image", "single pixel", "vector used again"],
)
def test_reshape_after_a_reduction_is_merged(reduction, arguments, left):
    model = gate_network(reduction=reduction, **arguments)
    graph = lower(model)
    merged = merge_reshapes(graph)
    reductions = ("mean", "max")
    assert ["reduction" if kind in reductions else kind for kind in kinds(merged)] == left
    pixels = pseudo_random((3, *model.input_shape[1:]), seed=3)
    assert_close(run(merged, pixels), np.asarray(model(pixels)), 1e-6)


def test_consecutive_reshapes_are_merged():
    inputs = keras.Input((2, 6))
    y = keras.layers.Reshape((3, 4))(keras.layers.Reshape((12,))(inputs))
    y = keras.layers.Reshape((3, 4))(keras.layers.Flatten()(keras.layers.ReLU()(y)))
    merged = merge_reshapes(lower(keras.Model(inputs, keras.layers.Dense(2)(y))))
    assert kinds(merged)[:3] == ["reshape", "identity", "reshape"]
    assert [operation.output.shape for operation in merged.operations[:3]] == [(1, 3, 4), (1, 3, 4), (1, 1, 3, 4)]


def test_output_that_equals_an_input_remains_a_copy():
    inputs = keras.Input((2, 6))
    graph = lower(keras.Model(inputs, [inputs, keras.layers.Reshape((2, 6))(inputs)]))
    assert kinds(merge_reshapes(graph)) == ["reshape", "reshape"]


def test_learned_range_is_kept_when_a_reshape_is_merged():
    graph = lower(gate_network(3))
    (vector, image) = (operation.output for operation in graph.operations[:2])
    graph.ranges[vector.number] = -1.0, 2.0
    merged = merge_reshapes(graph)
    assert merged.operations[0].output == image
    assert merged.ranges[image.number] == (-1.0, 2.0)


def padded(zeros, side=8, stride=2, kernel_size=3, dilation=1, also=False):
    """Zero padding, then a depthwise and a full convolution; with `also`, the padded image is cropped as well."""
    inputs = keras.Input((side, side + 1, 4))
    y = keras.layers.ZeroPadding2D(zeros)(inputs)
    window = {"strides": stride, "dilation_rate": dilation, "bias_initializer": "ones"}
    parts = [keras.layers.DepthwiseConv2D(kernel_size, **window)(y), keras.layers.Conv2D(4, kernel_size, **window)(y)]
    parts += [keras.layers.Cropping2D((kernel_size - 1) // 2)(y)] if also else []
    return keras.Model(inputs, keras.layers.Add()(parts))


@pytest.mark.parametrize(
    ("arguments", "folds"),
    [
        # As `keras.applications` pads before a stride of 2: an even side by one zero at the end, an odd side by two.
        ({"zeros": ((0, 1), (1, 1))}, True),
        ({"zeros": ((1, 2), (2, 2)), "kernel_size": 5}, True),
        ({"zeros": 1, "stride": 1}, True),
        ({"zeros": 2, "stride": 1, "dilation": 2}, True),
        ({"zeros": ((1, 0), (1, 1))}, False),
        ({"zeros": 1}, False),
        ({"zeros": 1, "stride": 1, "dilation": 2}, False),
        ({"zeros": 1, "stride": 1, "also": True}, False),
    ],
)
def test_zero_padding_is_folded_into_convolutions(arguments, folds):
    model = padded(**arguments)
    graph = lower(model)
    folded = fold_padding(graph)
    assert ("pad" in kinds(folded)) == (not folds)
    images = pseudo_random((3, *model.input_shape[1:]), seed=5)
    assert_close(run(folded, images), np.asarray(model(images)), 1e-6)
    (pad,) = (operation for operation in graph.operations if operation.kind == "pad")
    graph.ranges[pad.output.number] = -1.0, 1.0
    assert "pad" in kinds(fold_padding(graph))


def gated(reader="Conv2D", factor=1 / 6, shift=0.0, uses=1, also=False, again=False, **options):
    """An image times a scaled gate, as in MobileNetV3, read by a layer `uses` times, and with `also` by a sum.

    With `again`, the layer reads the image itself too.
    """
    inputs = keras.Input((5, 5, 4))
    gate = keras.layers.Rescaling(factor, shift)(keras.layers.GlobalAveragePooling2D(keepdims=True)(inputs))
    y = keras.layers.Multiply()([inputs, gate])
    layer = getattr(keras.layers, reader)(**options)
    parts = [layer(y) for _ in range(uses)] + ([y] if also else []) + ([layer(inputs)] if again else [])
    return keras.Model(inputs, keras.layers.Add()(parts) if len(parts) > 1 else parts[0])


WINDOW = {"kernel_size": 3, "padding": "same", "bias_initializer": "ones"}


@pytest.mark.parametrize(
    ("arguments", "folds"),
    [
        ({"filters": 4}, True),
        ({"filters": 4, "groups": 2}, True),
        ({"reader": "DepthwiseConv2D"}, True),
        ({"reader": "Conv2DTranspose", "filters": 4}, True),
        ({"filters": 4, "factor": -2.0}, True),
        ({"filters": 4, "factor": [0.1, 0.2, 0.3, 0.4]}, False),
        ({"filters": 4, "factor": 0.0}, False),
        ({"filters": 4, "shift": 0.5}, False),
        ({"filters": 4, "uses": 2}, False),
        ({"filters": 4, "also": True}, False),
        ({"filters": 4, "again": True}, False),
    ],
)
def test_gate_factor_is_folded_into_the_next_kernel(arguments, folds):
    model = gated(**arguments, **WINDOW)
    graph = lower(model)
    folded = fold_gate_factors(graph)
    assert ("affine" not in kinds(folded)) == folds
    images = pseudo_random((3, 5, 5, 4), seed=8)
    assert_close(run(folded, images), np.asarray(model(images)), 1e-6)
    (product,) = (operation for operation in graph.operations if operation.kind == "multiply")
    graph.ranges[product.output.number] = 0.0, 1.0
    assert "affine" in kinds(fold_gate_factors(graph))


@pytest.mark.parametrize(("reader", "options"), [("ReLU", {}), ("AveragePooling2D", {"pool_size": 2})])
def test_gate_factor_is_kept_without_a_kernel(reader, options):
    assert "affine" in kinds(fold_gate_factors(lower(gated(reader, **options))))


def test_relus_in_front_of_different_padding_are_merged():
    inputs = keras.Input((6, 6, 4))
    x = keras.layers.Conv2D(4, 1)(inputs)
    sums = []
    for side in (3, 5):
        padded = keras.layers.ZeroPadding2D(((side // 2 - 1, side // 2),) * 2)(keras.layers.ReLU()(x))
        sums.append(keras.layers.Conv2D(4, side, 2)(padded))
    model = keras.Model(inputs, [x, *sums])
    simple = simplify(merge_equal(lower(model)))
    assert kinds(simple).count("identity") == 1
    assert kinds(simple).count("pad") == 0


def branches(kind):
    """Two branches that begin with equal or similar operations."""
    x, sizes = keras.Input((6, 6, 4)), iter((2, 3))
    shared = keras.layers.Conv2D(4, 3, padding="same")
    begin = {
        "relu": keras.layers.ReLU,
        "pool": lambda: keras.layers.AveragePooling2D(2, 1, padding="same"),
        "shared": lambda: shared,
        "other kernel": lambda: keras.layers.Conv2D(4, 3, padding="same"),
        "other window": lambda: keras.layers.MaxPooling2D(next(sizes), 1, padding="same"),
        "other shape": lambda: keras.layers.UpSampling2D(next(sizes)),
    }[kind]
    parts = [keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(4, 1)(begin()(x))) for _ in range(2)]
    return keras.Model(x, keras.layers.Add()(parts))


@pytest.mark.parametrize(
    ("kind", "merges"),
    [
        ("relu", True),
        ("pool", True),
        ("shared", True),
        ("other kernel", False),
        ("other window", False),
        ("other shape", False),
    ],
)
def test_equal_operations_are_merged(kind, merges):
    model = branches(kind)
    graph = lower(model)
    merged = merge_equal(graph)
    assert len(graph.operations) - len(merged.operations) == merges
    images = pseudo_random((3, 6, 6, 4), seed=6)
    assert_close(run(merged, images), np.asarray(model(images)), 1e-6)
    graph.ranges[graph.operations[0].output.number] = 0.0, 1.0
    assert merge_equal(graph) is graph


def test_equal_operations_with_different_scales_are_not_merged():
    """Each of two equal ReLUs is concatenated with other values and has their quantization scale."""
    inputs = keras.Input((6, 6, 4))
    small, large = (keras.layers.Conv2D(4, 1)(inputs) for _ in range(2))
    parts = [keras.layers.Concatenate()([keras.layers.ReLU()(inputs), part]) for part in (small, large)]
    graph = lower(keras.Model(inputs, keras.layers.Add()([keras.layers.Conv2D(2, 1)(part) for part in parts])))
    assert kinds(merge_equal(graph)) == kinds(graph)


def test_equal_outputs_are_not_merged():
    inputs = keras.Input((6, 6, 4))
    graph = lower(keras.Model(inputs, [keras.layers.ReLU()(inputs), keras.layers.ReLU()(inputs)]))
    assert kinds(merge_equal(graph)) == ["identity", "identity"]


@pytest.mark.parametrize(
    ("border", "reader", "zeros"),
    [
        (1, keras.layers.MaxPooling2D(3, 2), True),
        (1, keras.layers.MaxPooling2D(2, 2), True),
        # A window of the border only, and a window of zeros and one pixel where symmetric padding repeats a larger one.
        (2, keras.layers.MaxPooling2D(2, 2), False),
        (2, keras.layers.MaxPooling2D(3, 1), False),
        (1, keras.layers.MaxPooling2D(2, 2, padding="same"), False),
        (1, keras.layers.AveragePooling2D(3), False),
        (1, keras.layers.Conv2D(2, 3), False),
    ],
)
def test_symmetric_padding_becomes_zeros_only_before_max_pooling(border, reader, zeros):
    inputs = keras.Input((5, 5, 2))
    x = keras.ops.pad(keras.layers.ReLU()(inputs), ((0, 0), (border, border), (border, border), (0, 0)), "symmetric")
    model, images = keras.Model(inputs, reader(x)), pseudo_random((4, 5, 5, 2))
    graph = pad_with_zeros(lower(model))
    assert [operation.attributes.get("mode") for operation in graph.operations if operation.kind == "pad"] == (
        [None] if zeros else ["symmetric"]
    )
    assert_close(run(graph, images), np.asarray(model(images)), 1e-5)
