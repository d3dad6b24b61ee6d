import ast
import contextlib
import pathlib
import re

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_and_gradients, outputs_of, pseudo_random, slow_after
from sharing_networks import images, nested_network, residual_network, set_trained_statistics

import keras_sharenets as ksn
from keras_sharenets.sharing import HierarchicalGroups, InterleavedGroups, ShareChannels, ShareDepth

NOTHING_SHARED = [ShareDepth("none"), ShareChannels(), HierarchicalGroups(1), InterleavedGroups(group_convolutions=1)]
SCHEMES = [
    ShareDepth("all", blending=True),
    ShareChannels(arrangements=2),
    HierarchicalGroups(2),
    ShareDepth("stage"),
    ShareDepth("block"),
    ShareChannels(groups=4, channel_repeats=2),
    InterleavedGroups(),
]


def networks():
    return [residual_network(), residual_network(blocks=1, stages=1, use_bias=True), nested_network()]


@pytest.mark.parametrize("with_images", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("scheme", slow_after(2, NOTHING_SHARED), ids=str)
def test_schemes_without_sharing_do_not_change_outputs(scheme, with_images):
    for model in networks()[with_images:]:
        given = images(model)
        if not isinstance(scheme, (ShareDepth, ShareChannels)) and isinstance(model, keras.Sequential):
            continue  # This network has no 1x1 convolution.
        warned = pytest.warns(UserWarning, match="shares nothing")
        with contextlib.nullcontext() if scheme == ShareDepth("none") else warned:
            shared = ksn.share(model, scheme, where="*", sample_images=given if with_images else None)
        assert_close(outputs_of(shared.model, given), outputs_of(model, given), 1e-5)
        # Biases are merged into the next normalization.
        assert shared.parameters <= shared.parameters_before == ksn.profile(model).stored_parameters


@pytest.mark.parametrize(
    ("scheme", "stages"),
    slow_after(2, [*((scheme, 1) for scheme in SCHEMES[:2]), *((scheme, 2) for scheme in SCHEMES)]),
)
def test_shared_network(scheme, stages, tmp_path):
    model = nested_network() if scheme == ShareDepth("block") else residual_network(stages=stages)
    before = [weight.copy() for weight in model.get_weights()]
    given = images(model)
    outputs = outputs_of(model, given)
    shared = ksn.share(model, scheme, sample_images=given)
    assert shared.parameters < shared.parameters_before
    assert shared.parameters == ksn.profile(shared.model).stored_parameters
    saved = sum(layer.stored_before - layer.stored for layer in shared.layers)
    assert shared.parameters_before - shared.parameters == saved
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))
    assert_close(outputs_of(model, given), outputs, 1e-7)
    _, gradients = outputs_and_gradients(shared.model, given, training=True)
    assert all(gradient is not None and np.abs(gradient).max() > 0 for gradient in gradients)
    shared.model.save(tmp_path / "shared.keras")
    loaded = keras.saving.load_model(tmp_path / "shared.keras")
    assert_close(outputs_of(loaded, given), outputs_of(shared.model, given), 1e-6)
    assert "stored before" in str(shared)


@pytest.mark.parametrize(("blending", "stages"), slow_after(2, [(False, 1), (True, 1), (False, 2), (True, 2)]))
def test_equal_kernels_are_shared_without_loss(blending, stages):
    """Kernels that differ only by a factor per output channel: normalization or scales absorb the factors."""
    for model in (residual_network(use_bias=True, stages=stages), with_input_normalization(nested_network())):
        random = np.random.default_rng(0)
        kernels = {}
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.Conv2D):
                first = kernels.setdefault(layer.kernel.shape, layer.kernel.numpy())
                layer.kernel.assign(first * random.choice([-2, -0.7, 0.5, 1.5], layer.filters))
        given = images(model)
        shared = ksn.share(model, ShareDepth("all", blending), where="*")
        assert shared.parameters < shared.parameters_before
        assert_close(outputs_of(shared.model, given), outputs_of(model, given), 1e-4)
        assert max(layer.kernel_error for layer in shared.layers) < 1e-5


def with_input_normalization(model):
    """The network with a preceding normalization that is adapted to images."""
    inputs = keras.Input(model.input_shape[1:])
    measured = keras.layers.Normalization()
    measured.adapt(3 * images(model) + 2)
    return keras.Model(inputs, model(measured(inputs)))


def test_share_depth_does_not_share_normalization():
    model = residual_network()
    shared = ksn.share(model, ShareDepth("stage"), where="*_spatial")
    calls = ksn.profile(shared.model).layers
    assert [row.name for row in calls if row.name.endswith("_shared") and not row.call] == [
        "stage0_block0_spatial_shared",
        "stage1_block0_spatial_shared",
    ]
    assert sum(row.shared for row in calls) == 2
    assert [row.type for row in calls].count("BatchNormalization") == 14
    assert {layer.path for layer in shared.layers} == {f"stage{s}_block{b}_spatial" for s in (0, 1) for b in (0, 1)}


def test_report_names_frozen_layers():
    model = residual_network()
    for block in range(2):
        model.get_layer(f"stage0_block{block}_spatial").trainable = False
    lines = str(ksn.share(model, ShareDepth("stage"), where="*_spatial")).splitlines()
    frozen = "stage0_block0_spatial, stage0_block1_spatial"
    assert lines[-1] == f"frozen: {frozen}: set `trainable = True` to fine-tune them"
    assert "frozen" not in str(ksn.share(residual_network(), ShareDepth("stage"), where="*_spatial"))


def test_outputs_keep_their_names():
    inputs = x = keras.Input((8, 8, 4))
    for _ in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model({"image": inputs}, {"kind": keras.layers.Dense(3)(x), "size": keras.layers.Dense(1)(x)})
    shared = ksn.share(model, ShareDepth("stage"))
    shared.model.compile("sgd", {"kind": "mse", "size": "mae"}, run_eagerly=True)
    labels = {"kind": pseudo_random((4, 3)), "size": pseudo_random((4, 1))}
    shared.model.fit({"image": images(shared.model, 4)}, labels, verbose=0)


def test_outputs_of_nested_heads_keep_their_names():
    inputs = x = keras.Input((8, 8, 4))
    for _ in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    heads = [
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(3)], name=name)
        for name in ("kind", "size")
    ]
    twice = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="end")])
    model = keras.Model(inputs, [*(head(x) for head in heads), twice(x), twice(heads[0].layers[0](x))])
    shared = ksn.share(model, ShareDepth("stage")).model
    assert shared.output_names == ["kind", "size", twice.name, twice.name]
    assert model.output_names == shared.output_names


def test_outputs_of_changed_convolutions_keep_their_names():
    """The names of new layers differ from all others, also from those of inputs and of nested models."""
    inputs = x = keras.Input((8, 8, 4), name="mask_shared")
    inner = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.ReLU(name="mask_shared")], name="inner")
    for name in ("mask_scale", "depth_shared"):
        x = keras.layers.DepthwiseConv2D(3, padding="same", name=name)(x)
    mask = keras.layers.Conv2D(4, 1, activation="sigmoid", name="mask")(inner(x))
    model = keras.Model(inputs, [mask, keras.layers.Conv2D(4, 1, name="depth")(x)])
    given = images(model, 4)
    for scheme in (ShareDepth("all"), ShareDepth("none"), HierarchicalGroups(1)):
        shared = ksn.share(model, scheme, where="*").model
        assert shared.output_names == model.output_names == ["mask", "depth"]
        if scheme != ShareDepth("all"):
            found, expected = (keras.ops.convert_to_numpy(network(given)[0]) for network in (shared, model))
            assert_close(found, expected, 1e-5)


def test_regularizers_and_constraints_are_kept():
    """Layers with different regularizers do not share; biases have theirs."""
    x = inputs = keras.Input((6, 6, 4))
    kernel_regularizers = [keras.regularizers.L2(0.1), keras.regularizers.L2(0.1), "l1", keras.regularizers.L2(0.2)]
    for number, regularizer in enumerate(kernel_regularizers):
        bias = {"bias_regularizer": keras.regularizers.L1(0.3), "bias_constraint": "non_neg"}
        conv = keras.layers.Conv2D(4, 3, padding="same", kernel_regularizer=regularizer, **bias, name=f"conv{number}")
        x = conv(x)
    model = set_trained_statistics(keras.Model(inputs, x))
    for scheme in (ShareDepth("all"), ShareChannels(arrangements=2)):
        shared = ksn.share(model, scheme, where="*")
        taken = [layer.path for layer in shared.layers]
        assert taken == [f"conv{number}" for number in range(2 if isinstance(scheme, ShareDepth) else 4)]
        layers = [layer for layer in shared.model.layers if getattr(layer, "bias", None) is not None]
        assert [type(layer.bias_constraint).__name__ for layer in layers] == ["NonNeg"] * 4
        biases = [keras.ops.convert_to_numpy(layer.bias) for layer in layers]
        kernels = [layer for layer in shared.model.layers if getattr(layer, "kernel_regularizer", None) is not None]
        penalties = [float(layer.kernel_regularizer(layer.kernel)) for layer in kernels]
        assert len(kernels) == (3 if isinstance(scheme, ShareDepth) else 4)
        expected = sum(penalties) + 0.3 * np.abs(biases).sum()
        assert float(sum(shared.model.losses)) == pytest.approx(expected, rel=1e-5)


def test_constraint_of_a_normalization_is_satisfied():
    """A scale of -1 for one of two opposite kernels would make its gamma negative."""
    x = inputs = keras.Input((6, 6, 4))
    kernel = pseudo_random((3, 3, 4, 4))
    for number, factor in enumerate((1.0, -1.0)):
        conv = keras.layers.Conv2D(4, 3, padding="same", name=f"conv{number}")
        x = keras.layers.BatchNormalization(gamma_constraint="non_neg", name=f"norm{number}")(conv(x))
        conv.kernel.assign(factor * kernel)
    shared = ksn.share(keras.Model(inputs, x), ShareDepth("all", match_channels=False), where="*").model
    for name in ("norm0", "norm1"):
        assert keras.ops.convert_to_numpy(shared.get_layer(name).gamma).min() > 0


class Skipping(keras.layers.BatchNormalization):
    """A normalization that also adds its input: it cannot absorb a scale of the convolution before."""

    def call(self, inputs, **arguments):
        return inputs + super().call(inputs, **arguments)


def test_normalization_with_another_call_absorbs_nothing():
    x = inputs = keras.Input((6, 6, 4))
    kernel = pseudo_random((3, 3, 4, 4))
    for number, factor in enumerate((1.0, 2.0)):
        conv = keras.layers.Conv2D(4, 3, padding="same", name=f"conv{number}")
        x = Skipping()(conv(x))
        conv.kernel.assign(factor * kernel)
    model = set_trained_statistics(keras.Model(inputs, x))
    shared = ksn.share(model, ShareDepth("all"), where="*").model
    assert_close(outputs_of(shared, images(model)), outputs_of(model, images(model)), 1e-4)


def test_measuring_does_not_change_the_network():
    """A normalization may be called in training mode; a call of the network in inference overrides that."""
    x = inputs = keras.Input((6, 6, 4))
    for number in range(2):
        x = keras.layers.Conv2D(4, 3, padding="same", name=f"conv{number}")(x)
        x = keras.layers.BatchNormalization()(x, training=True)
    model = set_trained_statistics(keras.Model(inputs, x))
    before = model.get_weights()
    ksn.share(model, ShareDepth("all"), where="*", sample_images=images(model))
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


def test_weights_stay_frozen():
    model = residual_network(blocks=1, stages=1)
    for name in ("stem", "scores"):
        model.get_layer(name).kernel.trainable = False
    shared = ksn.share(model, ShareChannels(arrangements=2), where="*")
    assert shared.left["stem"] == "one of its weights is frozen, but not the layer"
    frozen = [layer.name for layer in shared.model.layers if hasattr(layer, "kernel") and not layer.kernel.trainable]
    assert frozen == ["stem", "scores"]


@pytest.mark.parametrize("blending", [False, True])
def test_grouped_convolutions(blending):
    """Their outputs read different inputs: scales share them without loss, blending does not apply."""
    x = inputs = keras.Input((6, 6, 8))
    kernel = pseudo_random((3, 3, 4, 8))
    for number in range(4):
        conv = keras.layers.Conv2D(8, 3, padding="same", groups=2, name=f"conv{number}")
        x = conv(x)
        conv.kernel.assign(kernel * (number + 1 + np.arange(8)) / 8)
    model = keras.Model(inputs, x)
    if blending:
        with pytest.raises(ValueError, match="'conv0': blending would mix the outputs of its groups"):
            ksn.share(model, ShareDepth("all", blending=True), where="*")
        return
    shared = ksn.share(model, ShareDepth("all"), where="*").model
    assert_close(outputs_of(shared, images(model)), outputs_of(model, images(model)), 1e-4)


def test_where():
    model = residual_network()
    by_pattern = ksn.share(model, ShareChannels(arrangements=2), where="stage0_*_expand")
    by_names = ksn.share(model, ShareChannels(arrangements=2), where=[f"stage0_block{b}_expand" for b in (0, 1)])
    by_rule = ksn.share(
        model,
        ShareChannels(arrangements=2),
        where=lambda layer: layer.name.startswith("stage0") and layer.name.endswith("expand"),
    )
    paths = {tuple(layer.path for layer in shared.layers) for shared in (by_pattern, by_names, by_rule)}
    assert paths == {("stage0_block0_expand", "stage0_block1_expand")}


def test_sample_images_reduce_output_error():
    """If images span two of eight directions, kernel errors say little about output errors."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 8))
    model = keras.Model(inputs, keras.layers.Conv2D(16, 1, name="conv")(inputs))
    directions = pseudo_random((2, 8))
    given, fresh = (pseudo_random((8, 6, 6, 2), seed) @ directions for seed in (1, 2))
    expected = outputs_of(model, fresh)

    def distance(**arguments):
        shared = ksn.share(model, ShareChannels(arrangements=2), where="*", **arguments)
        return shared, np.linalg.norm(outputs_of(shared.model, fresh) - expected) / np.linalg.norm(expected)

    (shared, error), (_, error_of_weights) = distance(sample_images=given), distance()
    assert error < 0.5 * error_of_weights
    assert abs(shared.layers[0].output_error - error) < 0.3 * error


def test_normalization_statistics_are_updated():
    """The outputs of a normalization have the same mean and variance on the images as before."""
    model = residual_network(blocks=1, stages=1)
    given = images(model, 64)
    changed = ksn.share(model, ShareChannels(groups=4), where="*_spatial", sample_images=given).model

    def statistics(network):
        inner = keras.Model(network.inputs[0], network.get_layer("stage0_block0_spatial_norm").output)
        values = outputs_of(inner, given)
        return np.stack([values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))])

    assert_close(statistics(changed), statistics(model), 1e-2)
    unmeasured = ksn.share(model, ShareChannels(groups=4), where="*_spatial").model
    assert np.abs(statistics(unmeasured) - statistics(model)).max() > 0.1


def test_sequence_of_schemes():
    model = residual_network()
    shared = ksn.share(model, [ShareDepth("stage"), ShareChannels(arrangements=2)], where="*_spatial*")
    alone = ksn.share(model, ShareDepth("stage"), where="*_spatial*")
    assert shared.parameters < alone.parameters < shared.parameters_before == alone.parameters_before
    assert any(isinstance(layer, ksn.layers.HighlySharedConv2D) for layer in shared.model.layers)


def test_sequence_leaves_what_no_scheme_converts():
    inputs = keras.Input((6, 6, 4))
    x = keras.layers.Conv2D(4, 1, name="even")(inputs)
    for name in ("odd1", "odd2", "odd3"):
        x = keras.layers.Conv2D(5, 3, padding="same", name=name)(x)
    shared = ksn.share(keras.Model(inputs, x), [ShareChannels(arrangements=2), ShareDepth("all")], where="*")
    assert [layer.path for layer in shared.layers] == ["even", "odd2", "odd3"]
    assert shared.left == {"odd1": "no other convolution of its shape in the network"}


def test_where_refers_to_layers_of_the_original_network():
    """This also holds for later schemes, although the first one replaced layers and flattened nested models."""
    shared = ksn.share(
        nested_network(), [ShareDepth("stage"), ShareChannels(arrangements=2)], where=["inner/conv1", "conv2"]
    )
    assert [layer.path for layer in shared.layers] == ["inner/conv1", "inner/conv2", "conv1_shared"]
    assert shared.layer_names["inner/conv2"] == shared.layer_names["inner/conv1"] == "conv1_shared"
    assert isinstance(shared.model.get_layer("conv1_shared"), ksn.layers.HighlySharedConv2D)
    assert shared.layer_names["conv0"] != shared.layer_names["inner/conv0"]


def test_stem_is_not_shared_by_default():
    shared = ksn.share(residual_network(), ShareChannels(arrangements=2))
    assert shared.left["stem"]


@pytest.mark.parametrize("fits", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_example_in_documentation(fits):
    page = (pathlib.Path(__file__).parents[2] / "docs" / "share.md").read_text()
    block = "".join(re.findall(r"```python\n(.*?)```", page, re.S))
    names = {}
    exec(block if fits else block.partition("shared.model.compile")[0].replace("print(", "str("), names)
    expression, promise = re.search(r"^(shared\.\S+, \S+)  # (.*)$", block, re.M).groups()
    assert eval(expression, names) == ast.literal_eval(promise)


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the export needs TensorFlow")
@pytest.mark.parametrize("scheme", [ShareDepth("stage"), ShareChannels(arrangements=2)], ids=str)
def test_int8_file_keeps_sharing(scheme, tmp_path):
    model = residual_network(width=16, blocks=2, stages=1)
    given = images(model, 32)
    shared = ksn.share(model, scheme, where="stage*", sample_images=given)
    sizes = [
        ksn.mobile.export_tflite(
            network, tmp_path / "net.tflite", quantization="int8", representative_data=given
        ).file_bytes
        for network in (model, shared.model)
    ]
    # One byte per weight, minus the size of additional operators.
    assert sizes[0] - sizes[1] > 0.5 * (shared.parameters_before - shared.parameters)
