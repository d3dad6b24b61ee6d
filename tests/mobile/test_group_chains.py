"""Hierarchical group convolutions in the inference graph: folded normalization and groups stacked in the batch."""

import math

import keras
import numpy as np
import pytest
from harness import assert_close, pseudo_random
from mobile_networks import convert, lower, run

import keras_sharenets as ksn
from keras_sharenets.mobile import predict_tflite
from keras_sharenets.mobile.graph import passes
from keras_sharenets.mobile.graph.group_chains import (
    fold_chain_normalization,
    join_groups,
    split_concat_readers,
    stack_groups,
)
from keras_sharenets.mobile.inspect.benchmark import delegation
from keras_sharenets.mobile.inspect.file import open_tflite


def chain(groups=3, channels=13, filters=12, use_bias=False, smallest=0.5, uses=1, relu=False, also=False):
    """A network of shuffled, normalized hierarchical group convolutions with scales of both signs, and 3 images.

    `smallest` is the smallest magnitude of a scale; with `also`, the unnormalized values are read as well.
    """
    x = inputs = keras.Input((4, 5, channels))
    layer = ksn.layers.HierarchicalGroupConv2D(filters, groups=groups, use_bias=use_bias, name="chain")
    random = np.random.default_rng(groups)
    for _ in range(uses):
        y = layer(ksn.layers.StridedChannelShuffle(groups)(x))
        norm = keras.layers.BatchNormalization(epsilon=1e-3)
        x = norm(y)
        scale = random.choice([-1, 1], filters) * np.array([smallest, *random.uniform(0.5, 1.5, filters - 1)])
        norm.set_weights([scale, random.normal(size=filters), random.normal(size=filters), np.full(filters, 0.999)])
        x = keras.layers.ReLU()(x) if relu else x
        x = keras.layers.Concatenate()([x, y]) if also else x
        x = x if uses == 1 else ksn.layers.ChannelPadding(channels)(x)
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    for place, weight in enumerate(layer.weights):
        weight.assign(pseudo_random(weight.shape, seed=place) / np.sqrt(math.prod(weight.shape[:-1])))
    return model, pseudo_random((3, 4, 5, channels), seed=9)


def lowered_graph(model):
    return passes.simplify(lower(model, materialize=lambda site: False))


def kinds(graph):
    return [operation.kind for operation in graph.operations]


@pytest.mark.parametrize("groups", [2, 3, 4, 6])
@pytest.mark.parametrize("use_bias", [False, True])
def test_normalization_is_folded(groups, use_bias):
    model, images = chain(groups, use_bias=use_bias)
    graph = fold_chain_normalization(lowered_graph(model))
    assert kinds(graph).count("conv") == groups
    assert "affine" not in kinds(graph)
    stored = sum(np.asarray(kernel).size for kernel in model.get_layer("chain").kernels)
    assert sum(kernel.array.size for kernel in graph.uses()) == stored
    assert_close(run(graph, images), np.asarray(model(images)), 1e-5)


@pytest.mark.parametrize(
    "second",
    [lambda part: part, lambda part: keras.layers.Conv2D(2, 1)(keras.layers.Concatenate()([part, part]))],
    ids=["concatenated twice", "read twice by the next part"],
)
def test_normalization_of_a_repeated_part_is_not_folded(second):
    inputs, norm = keras.Input((4, 4, 3)), keras.layers.BatchNormalization()
    part = keras.layers.Conv2D(2, 1)(inputs)
    model = keras.Model(inputs, norm(keras.layers.Concatenate()([part, second(part)])))
    norm.set_weights([pseudo_random((4,), seed=place) ** 2 + 1 for place in range(4)])
    images = pseudo_random((3, 4, 4, 3))
    assert_close(run(fold_chain_normalization(lowered_graph(model)), images), np.asarray(model(images)), 1e-5)


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [({"smallest": 0.01}, 1), ({"smallest": 0.0}, 1), ({"uses": 2}, 2), ({"relu": True}, 1), ({"also": True}, 1)],
    ids=["a tiny scale", "a scale of 0", "kernels used twice", "a ReLU", "unnormalized values used"],
)
def test_normalization_that_cannot_be_folded(arguments, steps):
    model, images = chain(**arguments)
    graph = fold_chain_normalization(lowered_graph(model))
    assert kinds(graph).count("affine") == steps
    assert_close(run(graph, images), np.asarray(model(images)), 1e-5)


@pytest.mark.parametrize("groups", [2, 3, 4, 6])
def test_groups_are_stacked_without_a_permutation(groups):
    model, images = chain(groups)
    values = {}
    graph = stack_groups(lowered_graph(model))
    assert "permute" not in kinds(graph)
    assert kinds(graph).count("pad") == (13 % groups > 0)
    outputs = run(graph, images, watch=lambda value, array: values.setdefault(value.number, np.asarray(array)))
    assert_close(outputs, np.asarray(model(images)), 1e-5)
    slices = [operation for operation in graph.operations if operation.kind == "slice"]
    assert len(slices) == groups
    for group, operation in enumerate(slices):
        np.testing.assert_array_equal(values[operation.output.number], images[..., group::groups])


def shuffled(read, shape=(4, 5, 16)):
    """A network that applies `read` to the strided shuffle of an image into 4 groups."""
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Flatten()(read(ksn.layers.StridedChannelShuffle(4)(inputs))))


@pytest.mark.parametrize(
    "read",
    [
        lambda x: ksn.layers.ChannelSlice(0, 4)(x),
        lambda x: keras.layers.Concatenate()([ksn.layers.ChannelSlice(start, start + 8)(x) for start in (0, 8, 4)]),
        lambda x: keras.layers.Concatenate()([ksn.layers.ChannelSlice(start, start + 5)(x) for start in (0, 5, 10)]),
        lambda x: keras.layers.Concatenate()([x, *(ksn.layers.ChannelSlice(4 * i, 4 * i + 4)(x) for i in range(4))]),
    ],
    ids=["one group", "overlapping slices", "slices of another size", "all channels used too"],
)
def test_other_slices_are_not_stacked(read):
    model, images = shuffled(read), pseudo_random((2, 4, 5, 16))
    graph = stack_groups(lowered_graph(model))
    assert "stack" not in kinds(graph)
    np.testing.assert_array_equal(run(graph, images), np.asarray(model(images)))


@pytest.mark.parametrize("shape", [(16,), (5, 16)])
def test_groups_of_vectors_and_sequences_are_not_stacked(shape):
    model = shuffled(lambda x: sum(ksn.layers.ChannelSlice(4 * i, 4 * i + 4)(x) * i for i in range(4)), shape)
    graph, images = stack_groups(lowered_graph(model)), pseudo_random((2, *shape))
    assert "stack" not in kinds(graph)
    assert_close(run(graph, images), np.asarray(model(images)), 1e-6)


def concat_network(filters=4, widths=(3, 3), strides=1, uses=1, relu=True, also=False, kernel_size=1):
    """A convolution of concatenated channel slices, and 3 images; with `also`, the concatenation is an output too."""
    inputs = keras.Input((4, 5, 6))
    layer = keras.layers.Conv2D(filters, kernel_size, strides, bias_initializer="ones")
    starts = np.cumsum((0, *widths[:-1])).tolist()
    x = [ksn.layers.ChannelSlice(start, start + width)(inputs) for start, width in zip(starts, widths, strict=True)]
    x = keras.layers.Concatenate()(x)
    outputs = [layer(x), *(layer(inputs) for _ in range(uses - 1))]
    outputs = [keras.layers.ReLU()(y) if relu else y for y in outputs] + [x] * also
    model = keras.Model(inputs, keras.layers.Concatenate()([keras.layers.Flatten()(y) for y in outputs]))
    return model, pseudo_random((3, 4, 5, 6))


@pytest.mark.parametrize("arguments", [{}, {"widths": (1, 5)}, {"relu": False}], ids=str)
def test_split_concat_readers(arguments):
    model, images = concat_network(**arguments)
    graph = split_concat_readers(lowered_graph(model))
    assert (kinds(graph).count("conv"), kinds(graph).count("add")) == (2, 1)
    assert [kernel.array.shape[2] for kernel in graph.uses()] == list(arguments.get("widths", (3, 3)))
    assert_close(run(graph, images), np.asarray(model(images)), 1e-5)


@pytest.mark.parametrize(
    "arguments",
    [{"filters": 5}, {"widths": (2, 2, 2)}, {"strides": 2}, {"uses": 2}, {"also": True}, {"kernel_size": 3}],
    ids=["too many filters", "three parts", "strides", "kernel used twice", "concatenation used twice", "3x3"],
)
def test_other_readers_of_concatenations_are_not_split(arguments):
    model, images = concat_network(**arguments)
    graph = split_concat_readers(lowered_graph(model))
    assert "add" not in kinds(graph)
    assert_close(run(graph, images), np.asarray(model(images)), 1e-5)


@pytest.mark.parametrize("groups", [2, 3, 4, 6])
@pytest.mark.parametrize(
    ("quantization", "links", "tolerance"), [(None, 2, 1e-5), ("float16", 2, 1e-2), ("int8", 1, 0.05)]
)
def test_file_has_one_delegate_partition(groups, quantization, links, tolerance, tmp_path):
    model, images = chain(groups, 121, 48)  # Too large to be materialized at no cost.
    (tmp_path / "net.tflite").write_bytes(convert(model, quantization=quantization, representative_data=images))
    interpreter = open_tflite(tmp_path / "net.tflite")
    # The conversions of pixels to int8 and of scores to uint8.
    assert delegation(interpreter) == (1, {"QUANTIZE": 2} if quantization == "int8" else {})
    names = [operator["op_name"] for operator in interpreter._get_ops_details()]
    assert (names.count("CONV_2D"), names.count("TRANSPOSE")) == (1 + links * (groups - 1), 1)
    assert_close(predict_tflite(tmp_path / "net.tflite", images), np.asarray(model(images)), tolerance)


@pytest.mark.parametrize("parts", [5, 6, 7, 12, 30])
def test_concatenation_of_any_number_of_parts_is_delegated(parts, tmp_path):
    inputs = keras.Input((3, 3, parts))
    slices = [ksn.layers.ChannelSlice(start, start + 1)(inputs) for start in reversed(range(parts))]
    x = keras.layers.MaxPooling2D(1)(keras.layers.Concatenate()(slices))
    model = keras.Model(inputs, keras.layers.Flatten()(x))
    images = pseudo_random((2, 3, 3, parts))
    (tmp_path / "net.tflite").write_bytes(convert(model))
    assert delegation(open_tflite(tmp_path / "net.tflite"))[1].get("CONCATENATION", 0) == 0
    expected = images[..., ::-1].reshape(2, -1)
    np.testing.assert_array_equal(predict_tflite(tmp_path / "net.tflite", images), expected)


# Adjacent groups are joined until their inputs and outputs are multiples of four channels, or until one is left.
@pytest.mark.parametrize(("groups", "read", "given", "left"), [(4, 2, 6, 2), (6, 4, 8, 6), (3, 5, 2, 1), (8, 3, 4, 2)])
def test_joined_groups_match_keras(groups, read, given, left):
    inputs = keras.Input((4, 5, groups * read))
    layer = keras.layers.Conv2D(groups * given, 3, groups=groups, padding="same")
    # Called twice: the kernel must remain shared.
    model = keras.Model(inputs, keras.layers.Add()([layer(inputs), layer(keras.layers.ReLU()(inputs))]))
    graph = join_groups(passes.simplify(lower(model)))
    first, second = (operation for operation in graph.operations if operation.kind == "conv")
    assert first.attributes["groups"] == second.attributes["groups"] == left
    assert first.kernel is second.kernel
    images = pseudo_random((2, 4, 5, groups * read))
    assert_close(run(graph, images), model(images), 1e-5)
