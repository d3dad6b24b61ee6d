import collections

import keras
import numpy as np
import pytest
from harness import assert_close, check_choice, check_model, counts_only, outputs_of, pseudo_random, slow_after

import keras_sharenets as ksn
from keras_sharenets.analysis.graph import calls, rebuild, trace
from keras_sharenets.models import HSCModule, HSCNet

SMALL = {"width": 16, "groups": 4, "channel_repeats": 2, "alpha": 1, "blocks_per_stage": 1, "stem_filters": 8}
TINY = {**SMALL, "include_preprocessing": False, "input_shape": (8, 8, 3), "num_classes": 5}


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


# The specification's table of other interpretations of the paper, for M128 with 10 classes (exact counts).
@counts_only
@pytest.mark.parametrize(
    ("choice", "expected"),
    slow_after(
        2,
        [
            ({"share_in_transition": False}, 1_787_370),
            ({"arrange_group_pointwise": True}, 1_768_218),
            ({"arrange_first_expand": False}, 2_123_034),
            ({"shortcut": "pad", "arrange_first_expand": False, "stem_filters": 128}, 1_791_434),
            ({"stem_filters": 128}, 1_775_050),
            ({"arrange_in_transition": "reduce"}, 1_778_970),
            ({"stride_on": "reduce"}, 1_778_970),
            ({"spatial_order": "arrangement_major"}, 1_778_970),
            ({"projection_input": "raw"}, 1_778_970),
            ({"dropout_rate": 0.3}, 1_778_970),
            # In total, theta1 has 258,048 weights outside transitions; theta2 and theta3 have 688,128 each without A.
            ({"sharing": ("LA", "A", "A", "CLA", "L")}, 1_434_906),
            ({"sharing": ("A", "A", "", "CA", "")}, 1_778_970 + 3 * 86_016 + 4 * (3_024 + 5_376)),
            ({"sharing": ("LA", "A", "", "CLA")}, 1_778_970 - 4 * 5_376),
            ({"sharing": ("L", "A", "", "CLA", "L")}, 1_778_970 + 3 * 86_016),
            ({"sharing": ("LA", "", "", "CLA", "L")}, 1_778_970 + 4 * 86_016),
            ({"sharing": ("LA", "A", "", "CL", "L")}, 1_778_970 + 4 * 3_024),
            ({"sharing": ("L", "", "A", "CL", "L")}, 1_778_970 + 3 * 86_016 + 4 * 3_024),
            ({"sharing": ("", "", "", "C", "")}, 2_954_970),
            ({"sharing": ("A", "A", "", "A", "")}, 2_239_962),
            # Nothing is shared: the effective parameters of docs/networks.md.
            ({"sharing": ("", "", "", "", "")}, 3_293_658),
        ],
    ),
)
def test_counts_of_other_readings(choice, expected):
    assert trainable(ksn.create_model("hscnet_m128_g16_r8_a2", **choice)) == expected


TWO_STAGES = {**TINY, "width": (16, 32)}
CHOICES = [
    {},
    {"star": True},
    {"shortcut": "pad"},
    {"stride_on": "reduce", "projection_input": "raw"},
    {"arrange_in_transition": "reduce", "share_in_transition": False},
    {"spatial_order": "arrangement_major", "arrange_group_pointwise": True},
    {"stem": "imagenet", "input_shape": (32, 32, 3), "width": (16, 24), "blocks_per_stage": (2, 1)},
    {"sharing": ("A", "", "A", "LA"), "blocks_per_stage": 2},
    {"sharing": ("L", "A", "", "C", "L"), "blocks_per_stage": 2},
    {"sharing": ("", "", "", "", "")},
]


@pytest.mark.parametrize("choice", slow_after(1, CHOICES), ids=lambda choice: "-".join(choice) or "default")
def test_harness(choice, tmp_path, other_backend):
    check_model(HSCNet, {**TWO_STAGES, **choice}, tmp_path, other_backend)


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES[1:], ids="-".join)
def test_choices(choice, tmp_path):
    check_choice(HSCNet, {**TWO_STAGES, **choice}, tmp_path)


def conv(images, kernel, strides=1, groups=1):
    """A group convolution with (k - 1) / 2 zeros of padding on each side, in NumPy."""
    size = kernel.shape[0]
    border = size // 2
    images = np.pad(images, ((0, 0), (border, border), (border, border), (0, 0)))
    side = (images.shape[1] - size) // strides + 1
    inputs, filters = kernel.shape[2], kernel.shape[3] // groups
    outputs = np.zeros((len(images), side, side, kernel.shape[3]))
    for row in range(side):
        for column in range(side):
            top, left = row * strides, column * strides
            patch = images[:, top : top + size, left : left + size]
            for group in range(groups):
                own = slice(group * filters, (group + 1) * filters)
                planes = patch[..., group * inputs : (group + 1) * inputs]
                outputs[:, row, column, own] = np.einsum("bhwc,hwcf->bf", planes, kernel[..., own])
    return outputs


def arrange(kernel, groups=1):
    """Two arrangements inside each group: base filters, then the same with planes 0 .. c-1 as 0, c/2, 1, c/2+1 ..."""
    planes = kernel.shape[2]
    order = [plane % 2 * (planes // 2) + plane // 2 for plane in range(planes)]
    parts = [half for group in np.split(kernel, groups, axis=3) for half in (group, group[:, :, order])]
    return np.concatenate(parts, axis=3)


LETTERS = ("LA", "A", "", "CLA", "L")


def reference(model, images, groups, channel_repeats, stages, letters=LETTERS):
    """The network of the specification (sections 1.1, 1.2, 1.4), computed from the stored tensors."""
    layers = {call.operation.name: call.operation for call in calls(model)}
    weights = {
        name: [np.asarray(value, "float64") for value in layer.get_weights()]
        for name, layer in layers.items()
        if isinstance(layer, keras.Layer)
    }

    def norm_relu(x, name):
        scale, offset, mean, variance = weights[f"{name}_norm"]
        return np.maximum((x - mean) / np.sqrt(variance + 1e-5) * scale + offset, 0)

    def stored(name, layer, theta):
        """The kernel of one theta: the one shared by both layers, or that of the second layer."""
        own = "2" if layer == "layer2" and "L" not in letters[theta - 1] else ""
        (kernel,) = weights[f"{name}{own}"]
        return kernel

    def arranged(kernel, theta, groups=1):
        return arrange(kernel, groups) if "A" in letters[theta - 1] else kernel

    def general_layer(x, module, layer, theta1, theta23, stride):
        repeats = channel_repeats if "C" in letters[3] else 1
        theta4 = arranged(stored(f"{module}_spatial", layer, 4), 4, groups // repeats)
        full = np.concatenate([theta4] * repeats, axis=3)
        y = norm_relu(conv(x, theta1), f"{module}_{layer}_reduced")
        z = conv(y, full, stride, groups)
        if len(letters) == 5:
            z = z + conv(y, stored(f"{module}_group_pointwise", layer, 5), stride, groups)
        y = z
        return conv(norm_relu(y, f"{module}_{layer}_convolved"), theta23)

    x = conv(images, weights["stem"][0])
    for stage, count in enumerate(stages, start=1):
        for index in range(1, count + 1):
            module, stride = f"stage{stage}_module{index}", 2 if stage > 1 and index == 1 else 1
            active = norm_relu(x, f"{module}_input")
            if index == 1:
                x = conv(active, weights[f"{module}_projection"][0], stride)
                first, second = weights[f"{module}_reduce1"][0], weights[f"{module}_reduce2"][0]
            else:
                names = ("", "") if "L" in letters[0] else ("1", "2")
                first, second = (arranged(weights[f"{module}_reduce{name}"][0], 1) for name in names)
            y = general_layer(active, module, "layer1", first, arranged(weights[f"{module}_expand1"][0], 2), stride)
            y = norm_relu(y, f"{module}_middle")
            x = x + general_layer(y, module, "layer2", second, arranged(weights[f"{module}_expand2"][0], 3), 1)
    features = norm_relu(x, "head").mean((1, 2))
    return features @ weights["predictions"][0] + weights["predictions"][1]


@pytest.mark.parametrize(
    "letters",
    slow_after(1, [(LETTERS,), (("A", "", "A", "LA"),), (("L", "A", "", "C", "L"),), (("", "", "", "", ""),)]),
)
def test_equals_the_network_computed_in_numpy(letters):
    keras.utils.set_random_seed(3)
    arguments = {**TINY, "blocks_per_stage": 2, "alpha": 0.5, "sharing": None if letters == LETTERS else letters}
    model = HSCNet(**arguments, classifier_activation=None)
    for index, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            numbers = np.random.default_rng(index).uniform(0.5, 1.5, (4, layer.gamma.shape[0]))
            layer.set_weights([numbers[0], numbers[1] - 1, numbers[2] - 1, numbers[3]])
    images = pseudo_random((2, 8, 8, 3))
    expected = reference(model, images, groups=4, channel_repeats=2, stages=(2, 2, 2), letters=letters)
    assert_close(outputs_of(model, images), expected, 1e-4)


def test_layers_are_shared_as_the_paper_shares_them():
    model = HSCNet(**{**TINY, "blocks_per_stage": 2})
    uses = collections.Counter(
        each.path for each in calls(model) if isinstance(each.operation, keras.Layer) and each.operation.weights
    )
    shared = ("spatial", "group_pointwise")
    expected = {f"stage{stage}_module{module}_{role}" for stage in (1, 2, 3) for module in (1, 2) for role in shared}
    # A shared theta1 of a transition would have to read two widths.
    expected |= {f"stage{stage}_module2_reduce" for stage in (1, 2, 3)}
    assert {name for name, count in uses.items() if count == 2} == expected
    assert max(uses.values()) == 2


def test_spatial_orders_differ_by_the_order_of_channels_alone():
    images = pseudo_random((2, 8, 8, 3))
    arguments = {**TINY, "width": (16,), "stem_filters": 16}
    models = [HSCNet(**arguments, spatial_order=order) for order in ("group_major", "arrangement_major")]
    models[1].set_weights(models[0].get_weights())
    taps = []
    for model in models:
        outputs = {}

        def call(each, operation, *args, outputs=outputs, **kwargs):
            return outputs.setdefault((each.path, each.index), operation(*args, **kwargs))

        rebuilt = rebuild(model, trace(model), call)
        spatial = outputs.get(("stage1_module1_layer1_arrangement_major", 0), outputs["stage1_module1_spatial", 0])
        taps.append(outputs_of(keras.Model(rebuilt.input, spatial), images))
    group_major, arrangement_major = taps
    # 16 channels: 4 groups of 2 arrangements of 2 filters.
    for group in range(4):
        for copy in range(2):
            for base in range(2):
                here, there = (group * 2 + copy) * 2 + base, (copy * 4 + group) * 2 + base
                assert_close(arrangement_major[..., there], group_major[..., here], 1e-6)


def test_without_the_top_the_weights_are_the_full_networks():
    full = HSCNet(**TINY)
    headless = HSCNet(**TINY, include_top=False)
    pooled = HSCNet(**TINY, include_top=False, pooling="avg")
    assert headless.output_shape == (None, 2, 2, 64)
    assert pooled.output_shape == (None, 64)
    assert [tuple(w.shape) for w in headless.weights] == [tuple(w.shape) for w in full.weights[:-2]]
    headless.set_weights(full.get_weights()[:-2])
    images = pseudo_random((2, 8, 8, 3))
    features = outputs_of(headless, images).mean((1, 2))
    kernel, bias = full.get_layer("predictions").get_weights()
    logits = features @ kernel + bias
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    assert_close(outputs_of(full, images), probabilities, 1e-4)


@pytest.mark.parametrize(("plane_orders", "copies"), [("distinct", 4), ("shuffled", 2)])
@pytest.mark.filterwarnings("ignore:`arrangements`")
def test_four_arrangements_of_four_planes(plane_orders, copies):
    """A group of M128-G16 has four planes: with `"shuffled"`, every filter of its 3x3 convolution occurs twice."""
    x = keras.Input((8, 8, 16))
    module = HSCModule(
        width=16, groups=4, channel_repeats=2, arrangements=4, alpha=1, plane_orders=plane_orders, name="m"
    )
    layer = keras.Model(x, module(x)).get_layer("m_convolution").spatial
    assert layer.count_params() == 3 * 3 * 4 * 16 // (2 * 4)
    kernel = keras.ops.convert_to_numpy(layer.effective_kernel())[..., :4]
    assert len(np.unique(kernel.reshape(36, 4), axis=1).T) == copies
    # Over the copies, each of the four inputs of a group is combined with each of the four planes.
    met, planes = np.sort(kernel, axis=3), np.sort(kernel[..., 0], axis=2)
    assert np.array_equal(met, np.repeat(planes[:, :, None], 4, axis=2)) == (copies == 4)


def test_kernels_differ_with_an_initializer_object():
    """One object gives all kernels of a shape the same numbers."""
    model = HSCNet(**TINY, kernel_initializer=keras.initializers.HeNormal())
    kernels = [keras.ops.convert_to_numpy(weight).tobytes() for weight in model.weights if len(weight.shape) == 4]
    assert len(set(kernels)) == len(kernels)


def test_input_tensor_is_built_upon():
    inputs = keras.Input((8, 8, 3))
    model = HSCNet(**TINY, input_tensor=keras.layers.Rescaling(1 / 255)(inputs))
    assert model.input is inputs
    assert isinstance(model.layers[1], keras.layers.Rescaling)


def test_unknown_height_and_width():
    model = HSCNet(**{**TINY, "input_shape": (None, None, 3)})
    assert model(pseudo_random((1, 12, 20, 3))).shape == (1, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": 3}, r"`channel_repeats` \(=2\) must divide `groups` \(=3\)"),
        ({"groups": 6}, r"`groups` \(=6\) must divide the bottleneck of a stage of width 16 \(=16\)"),
        ({"channel_repeats": 3}, r"`channel_repeats` \(=3\) must divide `groups` \(=4\)"),
        ({"arrangements": 3}, r"`arrangements` \(=3\) must divide the bottleneck channels per group \(=4\)"),
        ({"alpha": 1.7}, r"`alpha` \(=1\.7\) must divide every stage width \(=16\)"),
        ({"alpha": 0}, r"`alpha` \(=0\) must be a number above 0"),
        ({"width": 0}, r"`width` \(=0\) must be a positive integer"),
        ({"width": []}, r"`width` \(=\(\)\) must be a tuple or list of at least one positive integer"),
        ({"blocks_per_stage": (1, 2)}, r"`blocks_per_stage` \(=\(1, 2\)\) must be .* each of the 3 stages"),
        ({"input_shape": (8, 3, 3)}, r"`input_shape` \(=\(8, 3, 3\)\) must be at least .* total stride \(=4\)"),
        ({"input_shape": (8, 8)}, r"`input_shape` \(=\(8, 8\)\) must be `\(height, width, channels\)`"),
        ({"plane_orders": "any"}, r"`plane_orders` \(='any'\) must be one of 'distinct', 'shuffled'"),
        ({"stem": "resnet"}, r"`stem` \(='resnet'\) must be one of 'cifar', 'imagenet'"),
        (
            {"shortcut": "pad", "width": (32, 16)},
            r"`width` \(=\(32, 16\)\) must not decrease with `shortcut` \(='pad'\)",
        ),
        ({"shortcut": "none"}, r"`shortcut` \(='none'\) must be one of"),
        ({"num_classes": 0}, r"`num_classes` \(=0\) must be a positive integer"),
        ({"pooling": "sum"}, r"`pooling` \(='sum'\) must be one of None, 'avg', 'max'"),
        ({"sharing": ("LA", "A", "")}, r"`sharing` \(=.*\) must be 5 strings, for theta1 to theta5, or 4: without"),
        (
            {"sharing": ("LC", "A", "", "", "")},
            r"`sharing` \(=.*\) may have only letters of 'LA' for theta1, not 'LC'\.",
        ),
        ({"sharing": "LA"}, r"`sharing` \(='LA'\) must be a sequence of strings\."),
        (
            {"sharing": ("LA", "A", "", "CLA", "L"), "star": True},
            r"`star` \(=True\) must agree with `sharing` \(=.*\) or be omitted\.",
        ),
        ({"dropout_rate": 1.0}, r"`dropout_rate` \(=1\.0\) must be at least 0 and below 1"),
        ({"shortcut": "pad", "width": 4, "groups": 2, "alpha": 1}, r"`stem_filters` \(=8\) must be at most .* \(=4\)"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        HSCNet(**{**TINY, **changes})
