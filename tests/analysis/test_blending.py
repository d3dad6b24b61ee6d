import io
import math

import keras
import numpy as np
import pytest
from harness import outputs_of, pseudo_random, slow_after
from keras import layers
from PIL import Image

from keras_sharenets.analysis import count_parameters
from keras_sharenets.analysis.blending import blending_layers, blending_patterns
from keras_sharenets.analysis.blending_pruning import CurveRow, Pruning, prune_blending, pruning_curve
from keras_sharenets.analysis.figures import draw_blending_patterns, draw_pruning_curve
from keras_sharenets.models import ShardResNet, ShardVGGNet
from keras_sharenets.rendering import figures

WEIGHTS = 6 * 6 + 6 * 10


def network():
    """One 3x3 convolution in two places, each followed by a blending layer; all layers have a bias."""
    keras.utils.set_random_seed(0)
    images = keras.Input((4, 4, 6), name="images")
    shared = layers.Conv2D(6, 3, padding="same", bias_initializer="random_normal", name="shared")
    x = layers.BatchNormalization(name="norm")(shared(images))
    x = layers.Conv2D(6, 1, bias_initializer="random_normal", name="blend0")(layers.ReLU(name="relu")(x))
    x = layers.Conv2D(10, 1, bias_initializer="random_normal", name="blend1")(shared(x))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(images, layers.Dense(5, name="predictions")(x), name="tiny")


def kernels(model, *names):
    return {name: np.array(model.get_layer(name).kernel) for name in names or ("blend0", "blend1")}


def zeroed_by_hand(stored, fraction, ranking):
    """Sorts weights as `(magnitude, position in the network)` and sets the first of them to 0."""
    pools = [list(stored)] if ranking == "global" else [[name] for name in stored]
    result = {name: kernel.copy() for name, kernel in stored.items()}
    for pool in pools:
        places = [(name, index) for name in pool for index in np.ndindex(stored[name].shape)]
        ranked = sorted((abs(stored[name][index]), number) for number, (name, index) in enumerate(places))
        for _, number in ranked[: math.floor(fraction * len(places))]:
            name, index = places[number]
            result[name][index] = 0
    return result


@pytest.mark.parametrize("ranking", ["global", "per_layer"])
@pytest.mark.parametrize("fraction", slow_after(2, [0.13, 0.95, 0, 0.5]))
def test_the_smallest_weights_become_0_and_nothing_else_changes(fraction, ranking):
    model = network()
    before = model.get_weights()
    expected = zeroed_by_hand(kernels(model), fraction, ranking)
    pruned, report = prune_blending(model, fraction, ranking=ranking)
    for name, kernel in kernels(pruned).items():
        assert np.array_equal(kernel, expected[name])
    assert report.zeroed == sum(np.count_nonzero(kernel == 0) for kernel in expected.values())
    assert report.total == WEIGHTS
    if ranking == "global":
        assert report.zeroed == math.floor(fraction * WEIGHTS)
    for old, new in zip(model.layers, pruned.layers, strict=True):
        untouched = slice(1, None) if old.name.startswith("blend") else slice(None)
        for was, value in zip(old.get_weights()[untouched], new.get_weights()[untouched], strict=True):
            assert np.array_equal(was, value), old.name
    assert all(np.array_equal(was, value) for was, value in zip(before, model.get_weights(), strict=True))


def test_the_earlier_of_equal_weights_become_0():
    model = network()
    for name in ("blend0", "blend1"):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.where(pseudo_random(kernel.shape) > 0, 0.5, -0.5))
    pruned, report = prune_blending(model, 0.5)
    flat = np.concatenate([kernel.ravel() for kernel in kernels(pruned).values()])
    assert report.zeroed == WEIGHTS // 2
    assert np.array_equal(flat == 0, np.arange(WEIGHTS) < WEIGHTS // 2)


def uses(model):
    return {layer["name"]: len(layer["inbound_nodes"]) for layer in model.get_config()["layers"]}


def test_the_copy_shares_its_layers_and_has_weights_of_its_own():
    model = network()
    images = pseudo_random((2, 4, 4, 6))
    model(images, training=True)
    pruned, _ = prune_blending(model, 0)
    assert pruned.name == model.name
    assert uses(pruned) == uses(model)
    assert uses(pruned)["shared"] == 2
    assert pruned.count_params() == model.count_params()
    assert np.array_equal(outputs_of(pruned, images), outputs_of(model, images))
    before = outputs_of(model, images)
    pruned.set_weights([0 * weight for weight in pruned.get_weights()])
    assert np.array_equal(outputs_of(model, images), before)


def test_a_pruned_network_computes_with_the_pruned_weights():
    model = network()
    images = pseudo_random((2, 4, 4, 6))
    pruned, _ = prune_blending(model, 0.5)
    outputs = outputs_of(pruned, images)
    for name, kernel in zeroed_by_hand(kernels(model), 0.5, "global").items():
        model.get_layer(name).kernel.assign(kernel)
    assert np.array_equal(outputs, outputs_of(model, images))


def test_statistics_that_were_adapted_are_copied():
    normalize = layers.Normalization(name="normalize")
    normalize.adapt(10 + 3 * pseudo_random((8, 2, 2, 4)))
    images = keras.Input((2, 2, 4))
    model = keras.Model(images, layers.Conv2D(4, 1, name="blend")(normalize(images)))
    pruned, _ = prune_blending(model, 0)
    some = 10 + pseudo_random((2, 2, 2, 4))
    assert np.array_equal(outputs_of(pruned, some), outputs_of(model, some))


def test_layers_are_found_by_name_and_in_order():
    model = network()
    assert list(blending_layers(model)) == ["blend0", "blend1"]
    assert blending_layers(model)["blend1"] is model.get_layer("blend1")
    assert list(blending_layers(model, ["blend1"])) == ["blend1"]
    assert list(blending_layers(model, ["blend1", "blend0"])) == ["blend0", "blend1"]
    _, report = prune_blending(model, 0.5, layers=["blend1"])
    assert (report.zeroed, report.total) == (30, 60)


def test_layers_in_models_inside():
    inner = keras.Sequential([keras.Input((4, 4, 6)), layers.Conv2D(6, 1, name="blend7")], name="inner")
    images = keras.Input((4, 4, 6))
    model = keras.Model(images, inner(inner(images)))
    assert list(blending_layers(model)) == ["inner/blend7"]
    pruned, report = prune_blending(model, 0.5, layers=["inner/blend7"])
    assert report.total == 36
    assert np.count_nonzero(np.array(pruned.get_layer("inner").get_layer("blend7").kernel)) == 18


@pytest.mark.parametrize("build", slow_after(1, [ShardResNet, ShardVGGNet]))
def test_the_networks_of_the_paper(build):
    model = build(
        width=8, input_shape=(32, 32, 3), num_classes=10, **({"hidden_units": (8,)} if build is ShardVGGNet else {})
    )
    names = {ShardResNet: ["blend1", "blend2"], ShardVGGNet: ["blend1", "blend2", "blend3", "blend4"]}[build]
    assert list(blending_layers(model)) == names
    pruned, report = prune_blending(model, 0.6, baseline=1000)
    assert report.total == 64 * len(names)
    zeros = sum(np.count_nonzero(kernel == 0) for kernel in kernels(pruned, *names).values())
    assert zeros == report.zeroed == math.floor(0.6 * 64 * len(names))
    # One 3x3 convolution with a bias, and the 1x1 convolutions, which have a bias only in the residual network.
    convolutions = 9 * 64 + 8 + 64 * len(names) + (16 if build is ShardResNet else 0)
    assert (report.convolutions, report.compression) == (convolutions, 1000 / (convolutions - zeros))
    assert uses(pruned) == uses(model)
    assert uses(pruned)["shared_spatial"] > 10


def test_compression_of_the_papers_figure_5():
    # SL-ResNet-50(512) for Tiny ImageNet: its blending layers are 512 x 2048 and three times 2048 x 2048, with biases.
    total = 512 * 2048 + 3 * 2048**2
    before = Pruning(0, total, 18_109_952, 26_449_344)
    after = Pruning(math.floor(0.6 * total), total, 18_109_952, 26_449_344)
    assert round(before.compression, 2) == 1.46
    assert round(after.compression, 2) == 2.66
    assert round(26.8e6 / after.remaining, 2) == 2.70
    assert Pruning(1, 2, 3).compression is None


def test_curve_measures_every_fraction_from_the_same_weights():
    model = network()
    images = pseudo_random((40, 4, 4, 6))
    labels = outputs_of(model, images).argmax(1)
    labels[::4] = (labels[::4] + 1) % 5
    before = model.get_weights()
    seen = []
    # Not in order: weights zeroed for an earlier fraction must be restored.
    rows = pruning_curve(model, images, labels, (0.9, 0, 0.5), baseline=1000, batch_size=16, on_row=seen.append)
    assert rows == seen
    convolutions = 9 * 36 + 6 + (36 + 6) + (60 + 10)
    for row, fraction in zip(rows, (0.9, 0.0, 0.5), strict=True):
        pruned, report = prune_blending(model, fraction)
        right = (outputs_of(pruned, images).argmax(1) == labels).mean()
        assert report.convolutions == convolutions == count_parameters(model, "conv_kernels_and_biases")
        remaining = convolutions - math.floor(fraction * WEIGHTS)
        assert row == CurveRow(fraction, report.zeroed, remaining, 1000 / remaining, pytest.approx(right))
    assert rows[1].accuracy == 0.75
    assert len({row.accuracy for row in rows}) > 1
    assert all(np.array_equal(was, value) for was, value in zip(before, model.get_weights(), strict=True))


def test_curve_of_one_sigmoid():
    images = keras.Input((4, 4, 6))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 1, name="blend")(images))
    logit = layers.Dense(1, name="logit")(x)
    batch = pseudo_random((40, 4, 4, 6))
    values = outputs_of(keras.Model(images, logit), batch)[:, 0]
    labels = (values > 0).astype(int)
    assert 0 < labels.mean() < 1
    labels[:4] = 1 - labels[:4]
    (row,) = pruning_curve(keras.Model(images, layers.Activation("sigmoid")(logit)), batch, labels, (0,))
    assert row.accuracy == 36 / 40
    with pytest.raises(ValueError, match="must be a classifier"):
        pruning_curve(keras.Model(images, logit), batch, labels, (0,))


def test_frozen_convolutions_of_any_kind_count():
    images = keras.Input((4, 4, 6))
    x = layers.Conv2D(6, 1, name="blend")(images)
    x = layers.Conv2DTranspose(5, 2)(layers.SeparableConv2D(4, 3)(x))
    x = layers.Conv1D(3, 2)(layers.Reshape((-1, 5))(x))
    model = keras.Model(images, layers.Dense(2)(x))
    kernels = 6 * 6 + (9 * 6 + 6 * 4) + 4 * 4 * 5 + 2 * 5 * 3
    biases = 6 + 4 + 5 + 3
    for trainable in (True, False):
        model.trainable = trainable
        counts = [count_parameters(model, rule) for rule in ("conv_kernels", "conv_kernels_and_biases", "trainable")]
        assert counts == [kernels, kernels + biases, kernels + biases + 3 * 2 + 2]
    assert prune_blending(model, 0.5)[1].remaining == kernels + biases - 18


def test_interrupted_curve_leaves_the_model_alone():
    model = network()
    before = model.get_weights()
    seen = []

    def stop(row):
        seen.append(row)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pruning_curve(model, pseudo_random((4, 4, 4, 6)), np.arange(4), on_row=stop)
    assert [row.fraction for row in seen] == [0.0, 0.1]
    assert all(np.array_equal(was, value) for was, value in zip(before, model.get_weights(), strict=True))


def one_layer(kernel):
    """A network with one blending layer and the kernel `(inputs, outputs)`."""
    images = keras.Input((2, 2, kernel.shape[0]))
    layer = layers.Conv2D(kernel.shape[1], 1, use_bias=False, name="blend0")
    model = keras.Model(images, layer(images))
    layer.kernel.assign(kernel[None, None])
    return model


@pytest.mark.parametrize(("inputs", "outputs", "each"), [(80, 7, 32), (64, 9, 32), (63, 5, 31), (7, 80, 3), (1, 3, 0)])
def test_rows_of_a_pattern(inputs, outputs, each):
    # Rounded, so that many magnitudes are equal.
    kernel = pseudo_random((inputs, outputs)).round(1)
    (pattern,) = blending_patterns(one_layer(kernel))
    assert (pattern.name, pattern.each, pattern.matrix.dtype) == ("blend0", each, np.int8)
    assert pattern.matrix.shape == (outputs, inputs)
    for row, weights in zip(pattern.matrix, kernel.T, strict=True):
        assert [np.count_nonzero(row == sign) for sign in (-1, 0, 1)] == [each, inputs - 2 * each, each]
        ranked = sorted(range(inputs), key=lambda channel: (abs(weights[channel]), channel))
        assert set(np.flatnonzero(row == -1)) == set(ranked[:each])
        assert set(np.flatnonzero(row == 1)) == set(ranked[inputs - each :])


def test_equal_weights_are_marked_from_either_end():
    (pattern,) = blending_patterns(one_layer(np.ones((6, 2), "float32")), strongest=2)
    assert pattern.matrix.tolist() == [[-1, -1, 0, 0, 1, 1]] * 2


def test_a_channel_that_no_output_uses_stands_out():
    kernel = np.abs(pseudo_random((10, 400))) + 0.1
    kernel[3] = 0
    (pattern,) = blending_patterns(one_layer(kernel), strongest=2)
    assert pattern.chance == 0.2
    assert pattern.blue_share[3] == 1
    # The other blue weight of each row is in one of nine channels.
    assert np.all(np.abs(np.delete(pattern.blue_share, 3) - 1 / 9) < 0.06)
    assert pattern.blue_share.mean() == pytest.approx(pattern.chance)


def test_patterns_come_in_the_order_of_the_network():
    patterns = blending_patterns(network(), strongest=1)
    assert [(pattern.name, pattern.matrix.shape, pattern.each) for pattern in patterns] == [
        ("blend0", (6, 6), 1),
        ("blend1", (10, 6), 1),
    ]


def colors(png):
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    found, counts = np.unique(pixels, axis=0, return_counts=True)
    return {"#" + bytes(color).hex(): count for color, count in zip(found.astype("uint8"), counts, strict=True)}


def test_figure_of_patterns_has_the_colors_of_the_matrix():
    (pattern,) = blending_patterns(one_layer(pseudo_random((16, 16))), strongest=4)
    counts = colors(draw_blending_patterns([pattern], "title"))
    # A quarter of the cells is red, and otherwise only the legend.
    assert counts[figures.RED] / counts["#ffffff"] > 0.1
    height = 4.4 * figures.NARROW_DPI
    assert 0.2 * height**2 < counts[figures.RED] < 0.35 * height**2
    # The plot below the matrix is also blue.
    assert counts[figures.BLUE] > counts[figures.RED]


@pytest.mark.slow
def test_lines_are_seen_where_cells_are_smaller_than_pixels():
    kernel = np.abs(pseudo_random((2048, 2048))) + 0.1
    dead = [300, 501, 802, 1103, 1404, 1705]
    kernel[dead] = 0
    image = Image.open(io.BytesIO(draw_blending_patterns(blending_patterns(one_layer(kernel)), "title")))
    pixels = np.asarray(image.convert("RGB"), "float64")
    height, width, _ = pixels.shape
    # The middle of the matrix, without its frame and ticks.
    matrix = pixels[height // 4 : height // 2, width // 8 : -width // 16]
    blueness = (matrix[..., 2] - matrix[..., 0]).mean(axis=0)
    lines = np.flatnonzero((blueness[1:-1] > blueness[:-2]) & (blueness[1:-1] >= blueness[2:]) & (blueness[1:-1] > 30))
    assert np.percentile(blueness, 95) < 5
    assert len(lines) == len(dead)
    # With the same distances as in the matrix.
    np.testing.assert_allclose(np.diff(lines) / np.ptp(lines), np.diff(dead) / np.ptp(dead), atol=2 / width)


def test_figure_of_the_curve():
    rows = [CurveRow(0.0, 0, 10, None, 0.9), CurveRow(0.5, 5, 5, None, 0.5)]
    plain = draw_pruning_curve(rows, "title")
    assert colors(plain)[figures.BLUE] > 500
    assert plain == draw_pruning_curve(rows[::-1], "title")
    compared = [CurveRow(row.fraction, row.zeroed, row.remaining, 20 / row.remaining, row.accuracy) for row in rows]
    assert draw_pruning_curve(compared, "title") != plain


def unblended():
    images = keras.Input((4, 4, 4))
    x = layers.Conv2D(4, 3, name="blend_of_pixels")(images)
    x = layers.Conv2D(4, 1, groups=2, name="blend_of_groups")(x)
    return keras.Model(images, layers.Conv2D(4, 1, name="mix")(x), name="unblended")


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (lambda: blending_layers(unblended()), r"`model` \(='unblended'\) must have 1x1 convolutions .* 'blend'"),
        (lambda: prune_blending(unblended(), 0.5), r"`model` \(='unblended'\) must have 1x1 convolutions"),
        (lambda: blending_layers(network(), ["shared"]), r"`layers` \(=\['shared'\]\) .*; available: blend0, blend1\."),
        (lambda: blending_layers(unblended(), ["blend_of_groups"]), r"without groups of 'unblended'; available: mix\."),
        (lambda: blending_layers(network(), []), r"`layers` \(=\[\]\) must be names of 1x1 convolutions"),
        (lambda: prune_blending(network(), 1.0), r"`fraction` \(=1\.0\) must be at least 0 and below 1"),
        (lambda: prune_blending(network(), 0.5, ranking="all"), r"`ranking` \(='all'\) must be one of 'global', "),
        (lambda: prune_blending(network(), 0.5, baseline=0), r"`baseline` \(=0\) must be a positive integer"),
        (lambda: blending_patterns(network(), strongest=0), r"`strongest` \(=0\) must be a positive integer"),
        (lambda: pruning_curve(network(), None, [0], (0.5, 2)), r"`fractions` \(=2\) must be at least 0 and below 1"),
        (
            lambda: pruning_curve(network(), None, [[0, 1]]),
            r"`labels` \(of shape \(1, 2\), int64\) must be one integer",
        ),
        (
            lambda: pruning_curve(network(), pseudo_random((3, 4, 4, 6)), [0, 1]),
            r"The number of `labels` \(=2\) must be the number of rows of `model`'s output \(=\(3, 5\)\)",
        ),
    ],
)
def test_bad_arguments(work, message):
    with pytest.raises(ValueError, match=message):
        work()
