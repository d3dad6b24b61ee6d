"""Sharing in files: size, one copy of every stored tensor, integer arithmetic throughout, one delegate."""

import functools
import pathlib
import re

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from families import REPRESENTATIVES, representative
from harness import calm_statistics, pseudo_random, slow_after
from mobile_networks import check_batches, convert, lower, operators_and_types, relative_error, run
from tensor_names import check_names

import keras_sharenets as ksn
from keras_sharenets.analysis import calls
from keras_sharenets.mobile import predict_tflite
from keras_sharenets.mobile.export import conversion
from keras_sharenets.mobile.graph import passes, scales

BYTES = {None: 4, "float16": 2, "int8": 1}


def with_trained_statistics(model, seed=0, negative=0.02, at_once=True):
    """Sets batch statistics as after training: they match the activations, and some scales are negative."""
    random = np.random.default_rng(seed)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        channels = norm.gamma.shape[0]
        sign = np.where(random.random(channels) < negative, -1, 1)
        norm.gamma.assign(sign * random.uniform(0.5, 1.5, channels))
        norm.beta.assign(random.normal(0, 0.3, channels))
    images = random.normal(size=(8, *model.input_shape[1:])).astype("float32")
    if at_once:
        calm_statistics(model, images)
    for _ in range(0 if at_once else 30):
        model(images, training=True)
    return model, images


@functools.cache
def family_network(family, side):
    keras.utils.set_random_seed(0)
    return with_trained_statistics(representative(family, classifier_activation=None, input_shape=(side, side, 3)))


@pytest.fixture
def network(request):
    """A network and images for it: of a family with 16x16 pixels, or of `(family, side)`.

    Smaller images need a quarter of the arithmetic with the same layers.
    """
    family, side = (request.param, 16) if isinstance(request.param, str) else request.param
    return family_network(family, side)


def slow(family, *arguments):
    """A case for `make test-all`, with images of the family's usual size."""
    return pytest.param(
        (family, 32), *arguments, marks=pytest.mark.slow, id="-".join(map(str, (family, *arguments, 32)))
    )


# `make test` has each family either here or in a file below.
GRAPHS = [("igcnet", True), ("shardnet", True), ("hscnet", False)]
GRAPHS += [slow(family, share) for family in REPRESENTATIVES for share in (True, False)]


@pytest.mark.parametrize(("network", "share"), GRAPHS, indirect=["network"])
def test_graphs_match_keras(network, share):
    model, images = network
    expected = np.asarray(model(images))
    graph = lower(model, materialize=lambda site: not share)
    simple = passes.simplify(graph)
    assert len(simple.operations) < len(graph.operations)
    final = [make(simple, lambda site: not share) for make in (scales.prepare_float, scales.prepare_int8)]
    for form in (graph, simple, *final):
        assert relative_error(run(form, images), expected) < 1e-4


def test_normalization_scales_the_bias_of_the_convolution():
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(5, 3, bias_initializer="random_normal", name="conv")(inputs)
    model, images = with_trained_statistics(keras.Model(inputs, keras.layers.BatchNormalization()(x)))
    model.get_layer("conv").bias.assign([-3.0, -1.0, 0.0, 1.0, 3.0])
    graph = passes.simplify(lower(model))
    assert [operation.kind for operation in graph.operations] == ["conv"]
    assert relative_error(run(graph, images), np.asarray(model(images))) < 1e-5


def test_permutation_is_folded_into_the_kernel_that_reads_it():
    """The inverse of a shuffle of six channels is another permutation."""
    inputs = keras.Input((4, 4, 6))
    model = keras.Model(inputs, keras.layers.Conv2D(5, 3)(ksn.layers.ChannelShuffle(2)(inputs)))
    images = pseudo_random((2, 4, 4, 6))
    graph = passes.simplify(lower(model))
    assert [operation.kind for operation in graph.operations] == ["conv"]
    assert relative_error(run(graph, images), np.asarray(model(images))) < 1e-5


def max_file_bytes(model, quantization):
    """The maximum size of a file: stored weights, a small amount for each use of each channel, and 32 KiB."""
    stored = BYTES[quantization] * ksn.profile(model).stored_parameters
    convolutions = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
    channels = sum(
        call.output_shapes[0][-1]
        for call in calls(model)
        if isinstance(call.operation, convolutions) or hasattr(call.operation, "effective_kernel")
    )
    share, per_channel = (1.15, 24) if quantization == "int8" else (1.10, 20)
    return share * stored + per_channel * channels + 2**15


# Float16 differs from float32 only in the type of the stored constants.
FILES = [("hscnet", "int8", "size"), ("hgcnet", "int8", "speed"), ("sharesnet", None, "size")]
FILES += [
    slow(family, quantization, prefer)
    for family in REPRESENTATIVES
    for quantization in ("int8", None, "float16")
    for prefer in ("size", "speed")
]


@pytest.mark.parametrize(("network", "quantization", "prefer"), FILES, indirect=["network"])
def test_file(network, quantization, prefer, tmp_path):
    model, images = network
    data = convert(model, quantization=quantization, representative_data=images, prefer=prefer)
    if prefer == "size":
        assert len(data) <= max_file_bytes(model, quantization)
    check_names(data, model)
    names, types = operators_and_types(data)
    assert check_batches(data, images[:4]) == ("SLICE" not in names)
    assert names.count("DELEGATE") == 1
    if quantization == "int8":
        assert types <= {schema.TensorType.INT8, schema.TensorType.INT32}
    (tmp_path / "net.tflite").write_bytes(data)
    outputs = predict_tflite(tmp_path / "net.tflite", images)
    assert (
        relative_error(outputs, np.asarray(model(images))) < {None: 1e-4, "float16": 1e-2, "int8": 0.35}[quantization]
    )


@pytest.mark.parametrize(
    ("network", "quantization"),
    [
        *(slow(family, quantization) for family in REPRESENTATIVES for quantization in ("int8", None, "float16")),
    ],
    indirect=["network"],
)
def test_materialized_kernels_do_not_increase_file_size(network, quantization, monkeypatch):
    model, images = network
    size = len(convert(model, quantization=quantization, representative_data=images))
    monkeypatch.setattr(conversion, "_gains", lambda build, quantization: {})
    assert size <= len(convert(model, quantization=quantization, representative_data=images))


def test_small_kernels_are_materialized_unless_clustered():
    inputs = keras.Input((8, 8, 16))
    layer = ksn.layers.HierarchicalGroupConv2D(24, groups=4)
    model = keras.Model(inputs, keras.layers.Flatten()(layer(ksn.layers.StridedChannelShuffle(4)(inputs))))
    # 24 x 16 weights instead of 6 x (4 + 3 x 10), for one operator instead of at least 15.
    assert operators_and_types(convert(model))[0].count("CONV_2D") == 1
    for kernel in layer.kernels:
        kernel.assign(np.random.default_rng(0).choice([-0.5, 0.25, 1.0], kernel.shape))
    assert operators_and_types(convert(model))[0].count("CONV_2D") == 4 + 3


@pytest.mark.slow
@pytest.mark.parametrize("negative", [0.0, 0.02])
# In int8, hgcnet_42_g6 exceeds its maximum of 442,004 bytes by 60.
@pytest.mark.parametrize(
    ("name", "quantization"), [("hgcnet_42_g4", None), ("hgcnet_42_g4", "int8"), ("hgcnet_42_g6", None)]
)
def test_hgcnet_files_are_small_and_have_one_delegate_partition(name, quantization, negative):
    keras.utils.set_random_seed(0)
    model, images = with_trained_statistics(
        ksn.create_model(name, classifier_activation=None, include_preprocessing=False), negative=negative
    )
    data = convert(model, quantization=quantization, representative_data=images)
    assert len(data) <= max_file_bytes(model, quantization)
    assert operators_and_types(data)[0].count("DELEGATE") == 1


def network_with_shared_convolution(gammas):
    """A 3x3 convolution with 16 filters, called three times with different normalization scales."""
    inputs = keras.Input((8, 8, 16))
    shared, x = keras.layers.Conv2D(16, 3, padding="same", use_bias=False, name="shared"), inputs
    for gamma in gammas:
        norm = keras.layers.BatchNormalization()
        x = keras.layers.ReLU()(norm(shared(x)))
        norm.gamma.assign(gamma)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(5)(x))


def kernel_buffers(data):
    """The number of buffers with 3x3 kernels of int8."""
    contents = schema.Model.GetRootAs(data)
    graph = contents.Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    constants = {
        tensor.Buffer(): tuple(tensor.ShapeAsNumpy())
        for tensor in tensors
        if tensor.Type() == schema.TensorType.INT8 and contents.Buffers(tensor.Buffer()).DataLength()
    }
    return sum(shape[1:3] == (3, 3) for shape in constants.values())


# One of each kind by default; all fifty with the slow tests.
@pytest.mark.parametrize("draw", slow_after(3, range(50)))
def test_random_scales_do_not_break_sharing(draw):
    keras.utils.set_random_seed(draw)
    random = np.random.default_rng(draw)
    # Positive scales, scales of both signs, and scales that include zero and tiny values.
    kinds = [random.uniform(0.5, 1.5, (3, 16)), random.normal(0, 1, (3, 16)), random.choice([0, 1e-8, 1, -1], (3, 16))]
    model, images = with_trained_statistics(network_with_shared_convolution(kinds[draw % 3]), seed=draw, negative=0.0)
    for norm, gamma in zip([layer for layer in model.layers if hasattr(layer, "gamma")], kinds[draw % 3], strict=True):
        norm.gamma.assign(gamma)
    data = convert(model, quantization="int8", representative_data=images, prefer="size")
    assert kernel_buffers(data) == 1
    assert operators_and_types(data)[1] <= {schema.TensorType.INT8, schema.TensorType.INT32}


def test_positive_scales_are_folded():
    model = network_with_shared_convolution(np.full((3, 16), 0.7))
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 16)).astype("float32")
    assert (
        operators_and_types(convert(model, quantization="int8", representative_data=images, prefer="size"))[0].count(
            "DEPTHWISE_CONV_2D"
        )
        == 0
    )
    model.layers[2].gamma.assign([-0.7] + 15 * [0.7])
    assert (
        operators_and_types(convert(model, quantization="int8", representative_data=images, prefer="size"))[0].count(
            "DEPTHWISE_CONV_2D"
        )
        == 1
    )


# The budgets of one kernel below run by default.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("cheaper", "shares"),
    # One stage, and the complete network.
    [({"width": (64,), "groups": 2}, (0.0, 1.0)), ({}, (0.0, 0.25, 0.5, 0.75, 1.0))],
)
@pytest.mark.parametrize("quantization", ["int8", None])
def test_max_bytes_is_respected_and_used(quantization, cheaper, shares, tmp_path):
    model, images = with_trained_statistics(representative("hscnet", **cheaper), at_once=bool(cheaper))
    ends = [
        len(convert(model, quantization=quantization, representative_data=images, prefer=prefer))
        for prefer in ("size", "speed")
    ]
    budgets = [round(ends[0] + (ends[1] - ends[0]) * share) for share in shares]
    sizes = [
        len(convert(model, quantization=quantization, representative_data=images, max_bytes=budget))
        for budget in budgets
    ]
    assert all(size <= budget for size, budget in zip(sizes, budgets, strict=True))
    assert sizes == sorted(sizes)
    assert sizes[-1] == ends[1] > sizes[0]
    report = ksn.mobile.export_tflite(
        model,
        tmp_path / "net.tflite",
        quantization=quantization,
        representative_data=images,
        max_bytes=ends[0] + 1000,
    )
    assert report.file_bytes <= ends[0] + 1000
    assert report.prefer == "max_bytes"


def test_max_bytes_may_copy_a_kernel_for_some_uses():
    """Each use with a separate kernel adds 16 * 16 * 9 values of 4 bytes."""
    model = network_with_shared_convolution(np.random.default_rng(0).uniform(0.5, 1.5, (3, 16)))
    smallest, kernel = len(convert(model)), 16 * 16 * 9 * 4
    sizes = [len(convert(model, max_bytes=smallest + more * kernel)) for more in (0, 1, 2)]
    # The operator for the scale after the shared kernel is removed, which saves less than 1 KB.
    for more, size in enumerate(sizes):
        assert more * kernel - 1024 * more <= size - smallest <= more * kernel
    # With the last use, the shared kernel itself is removed.
    assert len(convert(model, prefer="speed")) - smallest <= 2 * kernel


def test_max_bytes_below_minimum(tmp_path):
    model = network_with_shared_convolution(np.random.default_rng(0).uniform(0.5, 1.5, (3, 16)))
    least = ksn.mobile.export_tflite(model, tmp_path / "net.tflite").file_bytes
    (tmp_path / "net.tflite").unlink()
    with pytest.raises(
        ValueError, match=rf"`max_bytes` \(=1000\) must be at least {least}, the size with every tensor stored once"
    ):
        ksn.mobile.export_tflite(model, tmp_path / "net.tflite", max_bytes=1000)
    assert not list(tmp_path.iterdir())
    assert ksn.mobile.export_tflite(model, tmp_path / "net.tflite", max_bytes=least).file_bytes == least


PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "networks.md").read_text()
SIZES = re.findall(
    r"^\| `(\w+)` \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.M
)


@pytest.mark.slow
@pytest.mark.parametrize("row", SIZES, ids=lambda row: row[0])
def test_file_sizes_in_documentation(row):
    keras.utils.set_random_seed(0)
    model, images = with_trained_statistics(
        ksn.create_model(row[0], num_classes=10, classifier_activation=None, include_preprocessing=False)
    )
    stored = ksn.profile(model).stored_parameters
    sizes = [4 * stored]
    sizes += [len(convert(model, representative_data=images, prefer=prefer)) for prefer in ("size", "speed")]
    sizes += [stored]
    sizes += [
        len(convert(model, quantization="int8", representative_data=images, prefer=prefer))
        for prefer in ("size", "speed")
    ]
    # Quantized values, and thus which buffers are equal, may depend on the rounding of the CPU.
    assert [int(size.replace(",", "")) for size in row[1:]] == pytest.approx(sizes, rel=0.005)


def test_documentation_lists_file_sizes():
    assert len(SIZES) == 6
