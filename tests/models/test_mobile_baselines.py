import keras
import numpy as np
import pytest
from harness import assert_close, check_choice, check_model, counts_only, outputs_of, pseudo_random, slow_after

import keras_sharenets as ksn
from keras_sharenets.layers import SqueezeExcite
from keras_sharenets.models import IGCV3, MobileNetV1, MobileNetV2, ShuffleNet, ShuffleNetV2

WIDTHS_244, WIDTHS_224 = (24, 244, 488, 976, 2048), (24, 224, 488, 976, 2048)
# Strides that give a larger final map for a 32x32 image than the defaults: 8x8 instead of 4x4.
LATE = {
    MobileNetV2: (1, 1, 1, 1, 2, 1, 2, 1),
    IGCV3: (1, 1, 1, 1, 2, 1, 2, 1),
    ShuffleNetV2: (1, 1, 1, 2, 2),
    MobileNetV1: (1, 1, 2, 2, 2, 1),
    ShuffleNet: (1, 1, 1, 1, 2),
}
# Side of a 32x32 image divided by that of the last map.
TOTAL = {MobileNetV2: 8, IGCV3: 8, ShuffleNetV2: 8, MobileNetV1: 16, ShuffleNet: 4}
TINY = {
    MobileNetV2: {"width_multiplier": 0.25, "blocks_per_stage": (1, 2, 1, 1, 1, 1, 1)},
    IGCV3: {"width_multiplier": 0.25, "blocks_per_stage": (1, 2, 1, 1, 1, 1, 1)},
    ShuffleNetV2: {"width": (8, 12, 16, 20, 32), "blocks_per_stage": (2, 3, 1)},
    MobileNetV1: {"width_multiplier": 0.1, "blocks_per_stage": (1, 2, 1, 1, 1)},
    ShuffleNet: {"width": 24, "stem_filters": 6, "blocks_per_stage": (2, 1, 1)},
}
SMALL = {"include_preprocessing": False, "input_shape": (8, 8, 3), "num_classes": 5}
LOUD = 8  # Factor that makes images bright enough for ReLU6 to clip.


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


# The specification's table of baselines: number of classes and trainable count.
COUNTS = [
    (MobileNetV2, {"width_multiplier": 1.25}, {200: 3_769_576, 10: 3_465_386}),
    (IGCV3, {"width_multiplier": 1.0}, {1000: 3_491_688, 10: 2_223_498, 100: 2_338_788}),
    (ShuffleNetV2, {"width": WIDTHS_244}, {1000: 7_393_996, 200: 5_754_796, 100: 5_549_896, 10: 5_365_486}),
    (MobileNetV2, {"width_multiplier": 1.0}, {1000: 3_504_872, 10: 2_236_682, 100: 2_351_972}),
    (MobileNetV2, {"width_multiplier": 1.4}, {1000: 6_108_776}),
    (IGCV3, {"width_multiplier": 1.25}, {200: 3_719_096, 10: 3_414_906}),
    (IGCV3, {"width_multiplier": 1.4}, {1000: 6_030_216}),
    (ShuffleNetV2, {"width": WIDTHS_224}, {1000: 7_366_536, 100: 5_522_436}),
    (MobileNetV1, {}, {1000: 4_231_976, 10: 3_217_226}),
    (ShuffleNet, {"width": 384, "groups": 8}, {1000: 2_434_768, 10: 913_138}),
    # Each channel of the last convolution reads 320 others, and has a scale, an offset, and ten classes.
    (MobileNetV2, {"last_filters": 128}, {10: 2_236_682 - (1280 - 128) * (320 + 2 + 10)}),
    # Each block has two dense layers with bias: to half of its half width, and back.
    (ShuffleNetV2, {"squeeze_excite": 2}, {1000: 7_393_996 + 1_488_400 + 6_588}),
]


@counts_only
@pytest.mark.parametrize(("factory", "arguments", "counts"), slow_after(3, COUNTS))
def test_counts_for_any_number_of_classes(factory, arguments, counts):
    model = factory(**arguments, input_shape=(32, 32, 3), num_classes=next(iter(counts)))
    assert trainable(model) == counts[model.output_shape[1]]
    features = model.get_layer("predictions").input.shape[1]
    body = trainable(model) - (features + 1) * model.output_shape[1]
    assert {classes: body + (features + 1) * classes for classes in counts} == counts


# Millions of multiply-adds with 1000 classes: at 32x32 with a last map of 4x4 and of 8x8, and at 224x224.
@counts_only
@pytest.mark.parametrize(
    ("factory", "small", "late", "large"),
    slow_after(
        1,
        [
            (MobileNetV2, 89, 298, 301),
            (IGCV3, 95, 312, 313),
            (ShuffleNetV2, 190, 742, 583),
            (MobileNetV1, 47, 66, 569),
            (ShuffleNet, 165, 512, 137),
        ],
    ),
)
def test_strides_change_the_work_and_nothing_else(factory, small, late, large):
    models = [
        factory(input_shape=(32, 32, 3)),
        factory(input_shape=(32, 32, 3), strides=LATE[factory]),
        factory(input_shape=(224, 224, 3)),
    ]
    assert len({trainable(model) for model in models}) == 1
    assert [round(ksn.profile(model).multiply_adds / 1e6) for model in models] == [small, late, large]


@pytest.mark.parametrize("factory", TINY)
@pytest.mark.parametrize("side", slow_after(1, [111, 112, 32]))
def test_small_images_keep_their_size_for_longer(factory, side):
    model = factory(**TINY[factory], input_shape=(side, side, 3), include_top=False)
    last = -(-side // (TOTAL[factory] if side < 112 else 32))
    assert model.output_shape[1:3] == (last, last)


# The complexity in millions in table 1 of ShuffleNet's paper with 1, 2, 3, 4 and 8 groups; matched within 1 %.
@pytest.mark.slow
@counts_only
@pytest.mark.parametrize(
    ("groups", "width", "printed"), [(1, 144, 143), (2, 200, 140), (3, 240, 137), (4, 272, 133), (8, 384, 137)]
)
def test_shufflenets_cost_what_their_paper_prints(groups, width, printed):
    model = ShuffleNet(groups=groups, width=width, input_shape=(224, 224, 3))
    assert ksn.profile(model).multiply_adds / 1e6 == pytest.approx(printed, abs=1.4)


def scramble(model):
    """Sets random normalizations, as initial ones would hide a missing one; avoids ReLUs that are always 0."""
    for index, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            numbers = np.random.default_rng(index).uniform(0.5, 1.5, (4, layer.gamma.shape[0]))
            layer.set_weights([numbers[0], numbers[1] - 1, numbers[2] - 1, numbers[3]])
        if isinstance(layer, SqueezeExcite):
            layer.squeeze.bias.assign(np.ones(layer.squeeze.bias.shape))


def scrambled(factory):
    def build(**arguments):
        model = factory(**arguments)
        # The initial offsets of normalizations are 0, and so are many values that depend on them.
        scramble(model)
        return model

    return build


STRIDES = {
    MobileNetV2: (1, 1, 2, 1, 2, 1, 1, 1),
    IGCV3: (1, 1, 2, 1, 2, 1, 1, 1),
    ShuffleNetV2: (1, 2, 1, 2, 1),
    MobileNetV1: (1, 1, 2, 1, 2, 1),
    ShuffleNet: (1, 2, 1, 2, 1),
}


def arguments_of(factory):
    more = {"blocks_per_stage": (2, 1, 1), "squeeze_excite": 2} if factory is ShuffleNetV2 else {}
    return {**TINY[factory], **SMALL, "strides": STRIDES[factory], **more}


@pytest.mark.slow  # These networks share nothing: by default, sharing networks run on the other backend.
@pytest.mark.parametrize("factory", TINY)
def test_harness(factory, tmp_path, other_backend):
    check_model(scrambled(factory), arguments_of(factory), tmp_path, other_backend)


@pytest.mark.parametrize("factory", slow_after(1, [MobileNetV1, MobileNetV2, IGCV3, ShuffleNetV2, ShuffleNet]))
def test_factories(factory, tmp_path):
    check_choice(scrambled(factory), arguments_of(factory), tmp_path)


def test_mobilenet_v2_equals_that_of_keras():
    keras.utils.set_random_seed(0)
    # Odd at every stride of 2 (33, 17, 9, 5, 3), where the padding of Keras is also symmetric.
    common = {"input_shape": (33, 33, 3), "classifier_activation": None}
    theirs = keras.applications.MobileNetV2(weights=None, alpha=0.35, classes=10, **common)
    strides = (2, 1, 2, 2, 2, 1, 2, 1)
    ours = MobileNetV2(width_multiplier=0.35, num_classes=10, strides=strides, include_preprocessing=False, **common)
    # Ours uses He initialization: with the smaller weights of Keras, only the offsets would reach the output.
    scramble(ours)
    assert [weight.shape for weight in ours.weights] == [weight.shape for weight in theirs.weights]
    theirs.set_weights(ours.get_weights())
    for layer in ours.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = 1e-3
    images = LOUD * pseudo_random((2, 33, 33, 3))
    assert_close(outputs_of(ours, images), outputs_of(theirs, images), 1e-5)


def conv(images, kernel, strides=1, groups=1):
    """A group convolution with (k - 1) / 2 zeros of padding on each side, in NumPy; `kernel` is group-major."""
    size, inputs, filters = kernel.shape[0], kernel.shape[2], kernel.shape[3] // groups
    height, width = images.shape[1:3]
    images = np.pad(images, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    outputs = []
    for group in range(groups):
        planes = images[..., group * inputs : (group + 1) * inputs]
        own = kernel[..., group * filters : (group + 1) * filters]
        windows = [
            planes[:, row : row + height : strides, column : column + width : strides] @ own[row, column]
            for row in range(size)
            for column in range(size)
        ]
        outputs.append(sum(windows))
    return np.concatenate(outputs, axis=-1)


class Reference:
    """The tensors of a model by layer name, and the operations that the papers' figures apply to them."""

    def __init__(self, model):
        self.stored = {layer.name: [np.asarray(v, "float64") for v in layer.get_weights()] for layer in model.layers}

    def conv(self, x, name, strides=1, groups=1):
        """A convolution and its normalization; `groups=None` for a depthwise one."""
        (kernel,) = self.stored[name]
        if groups is None:
            kernel, groups = kernel.swapaxes(2, 3), x.shape[-1]
        scale, offset, mean, variance = self.stored[f"{name}_norm"]
        return (conv(x, kernel, strides, groups) - mean) / np.sqrt(variance + 1e-5) * scale + offset

    def classified(self, x):
        kernel, bias = self.stored["predictions"]
        return x.mean((1, 2)) @ kernel + bias


def model_and_reference(factory, **arguments):
    """A tiny network with random normalizations that outputs logits, and its tensors."""
    keras.utils.set_random_seed(0)
    model = factory(**TINY[factory], **SMALL, classifier_activation=None, **arguments)
    scramble(model)
    return model, Reference(model)


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def test_igcv3_equals_the_network_computed_in_numpy():
    strides = (1, 1, 2, 1, 2, 1, 1, 1)
    model, reference = model_and_reference(IGCV3, strides=strides)

    def block(x, name, strides):
        y = reference.conv(x, f"{name}_expand", groups=2)
        # The channels of the two groups are interleaved; then restored, even channels before odd ones.
        half = y.shape[-1] // 2
        y = np.stack([y[..., :half], y[..., half:]], axis=-1).reshape(y.shape)
        y = relu6(reference.conv(y, f"{name}_depthwise", strides, groups=None))
        y = reference.conv(y, f"{name}_project", groups=2)
        return np.concatenate([y[..., 0::2], y[..., 1::2]], axis=-1)

    images = LOUD * pseudo_random((2, 8, 8, 3))
    x = relu6(reference.conv(images, "stem"))
    for stage, count in enumerate(TINY[IGCV3]["blocks_per_stage"], start=1):
        for index in range(1, count + 1):
            block_strides = strides[stage] if index == 1 else 1
            y = block(x, f"stage{stage}_block{index}", block_strides)
            x = x + y if x.shape == y.shape and block_strides == 1 else y
    x = relu6(reference.conv(x, "last"))
    assert_close(outputs_of(model, images), reference.classified(x), 1e-4)


def test_mobilenet_v1_equals_the_network_computed_in_numpy():
    strides, counts = (1, 1, 2, 1, 2, 1), TINY[MobileNetV1]["blocks_per_stage"]
    model, reference = model_and_reference(MobileNetV1, strides=strides)
    images = pseudo_random((2, 8, 8, 3))
    x = relu(reference.conv(images, "stem"))
    for stage, count in enumerate(counts, start=1):
        for index in range(1, count + 1):
            name = f"stage{stage}_block{index}"
            x = relu(reference.conv(x, f"{name}_depthwise", strides[stage] if index == 1 else 1, groups=None))
            x = relu(reference.conv(x, f"{name}_pointwise"))
    assert_close(outputs_of(model, images), reference.classified(x), 1e-4)


def test_shufflenet_equals_the_network_computed_in_numpy():
    strides, counts = (1, 1, 1, 2, 2), TINY[ShuffleNet]["blocks_per_stage"]
    model, reference = model_and_reference(ShuffleNet, strides=strides)
    images = pseudo_random((2, 8, 8, 3))
    x = relu(reference.conv(images, "stem"))
    for stage, count in enumerate(counts, start=1):
        for index in range(1, count + 1):
            name, pace = f"stage{stage}_block{index}", strides[stage + 1] if index == 1 else 1
            y = relu(reference.conv(x, f"{name}_pointwise1", groups=1 if name == "stage1_block1" else 3))
            # Channel 0 of each of three groups, channel 1 of each, and so on.
            y = np.concatenate([y[..., place :: y.shape[-1] // 3] for place in range(y.shape[-1] // 3)], axis=-1)
            y = reference.conv(y, f"{name}_depthwise", pace, groups=None)
            y = reference.conv(y, f"{name}_pointwise2", groups=3)
            if pace == 2:
                mean = np.eye(x.shape[-1]) * np.full((3, 3, 1, 1), 1 / 9)
                x = conv(x, mean, 2)
            x = relu(np.concatenate([x, y], axis=-1) if index == 1 else x + y)
    assert_close(outputs_of(model, images), reference.classified(x), 1e-4)


@pytest.mark.parametrize("squeeze_excite", slow_after(1, [2, None]))
def test_shufflenet_v2_equals_the_network_computed_in_numpy(squeeze_excite):
    model, reference = model_and_reference(ShuffleNetV2, strides=(1, 1, 2, 2, 1), squeeze_excite=squeeze_excite)

    def convolved(x, name, strides):
        x = relu(reference.conv(x, f"{name}_pointwise1"))
        x = reference.conv(x, f"{name}_depthwise", strides, groups=None)
        x = relu(reference.conv(x, f"{name}_pointwise2"))
        if squeeze_excite is None:
            return x
        squeeze, squeezed, excite, excited = reference.stored[f"{name}_squeeze_excite"]
        means = relu(x.mean((1, 2)) @ squeeze + squeezed)
        return x / (1 + np.exp(-(means @ excite + excited)))[:, None, None]

    def first_block(x, name, strides):
        past = reference.conv(x, f"{name}_shortcut_depthwise", strides, groups=None)
        return relu(reference.conv(past, f"{name}_shortcut_pointwise")), convolved(x, name, strides)

    def later_block(x, name):
        half = x.shape[-1] // 2
        return x[..., :half], convolved(x[..., half:], name, 1)

    images = pseudo_random((2, 8, 8, 3))
    x = relu(reference.conv(images, "stem"))
    for stage, (count, strides) in enumerate(zip((2, 3, 1), (2, 2, 1), strict=True), start=1):
        for index in range(1, count + 1):
            name = f"stage{stage}_block{index}"
            branches = first_block(x, name, strides) if index == 1 else later_block(x, name)
            x = np.stack(branches, axis=-1).reshape(*branches[0].shape[:3], -1)
    x = relu(reference.conv(x, "last"))
    assert_close(outputs_of(model, images), reference.classified(x), 1e-4)


def test_shufflenet_v2_pools_behind_the_stem_of_large_images_only():
    names = {
        side: {layer.name for layer in ShuffleNetV2(**TINY[ShuffleNetV2], input_shape=(side, side, 3)).layers}
        for side in (32, 224)
    }
    assert names[224] - names[32] == {"stem_pool", "stem_pad"}


@pytest.mark.parametrize("factory", slow_after(1, TINY))
def test_unknown_height_and_width(factory):
    open_sides = factory(**TINY[factory], input_shape=(None, None, 3), num_classes=5, strides=LATE[factory])
    assert open_sides(pseudo_random((1, 12, 20, 3))).shape == (1, 5)


@pytest.mark.parametrize("factory", slow_after(1, TINY))
def test_without_the_top_and_upon_a_tensor(factory):
    inputs = keras.Input((32, 32, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    features = factory(**TINY[factory], input_tensor=scaled, include_top=False, pooling="avg")
    assert features.input is inputs
    full = factory(**TINY[factory], input_shape=(32, 32, 3))
    assert [weight.shape for weight in features.weights] == [weight.shape for weight in full.weights[:-2]]


@pytest.mark.parametrize(
    ("factory", "changes", "message"),
    [
        (MobileNetV2, {"width_multiplier": 0}, r"`width_multiplier` \(=0\) must be a number above 0"),
        (MobileNetV2, {"last_filters": 0}, r"`last_filters` \(=0\) must be a positive integer"),
        (IGCV3, {"blocks_per_stage": (1, 2)}, r"`blocks_per_stage` \(=\(1, 2\)\) must be .* each of the 7 stages"),
        (MobileNetV2, {"strides": 2}, r"`strides` \(=2\) must be a sequence of positive integers"),
        (ShuffleNetV2, {"strides": (1, 1)}, r"`strides` \(=\(1, 1\)\) must be a sequence of 5 numbers, or `None`"),
        (IGCV3, {"strides": (1, 1, 1, 2, 0, 1, 2, 1)}, r"`strides` \(=0\) must be a positive integer"),
        (IGCV3, {"input_shape": (None, 32, 3)}, r"`strides` \(=None\) must be given for images of unknown height"),
        (MobileNetV2, {"input_shape": (32, 6, 3)}, r"`input_shape` \(=\(32, 6, 3\)\) must be .* stride \(=8\)"),
        (ShuffleNetV2, {"width": (8, 15, 16, 20, 32)}, r"`width` \(=\(8, 15, .* must be even for each stage"),
        (ShuffleNetV2, {"width": (8, 16)}, r"`width` \(=\(8, 16\)\) must be .* each of the 5 stages"),
        (ShuffleNetV2, {"squeeze_excite": 5}, r"`reduction` \(=5\) must divide the number of input channels \(=6\)"),
        (ShuffleNet, {"width": 30}, r"`4 \* groups` \(=12\) must divide `width` \(=30\)"),
        (ShuffleNet, {"stem_filters": 8}, r"`groups` \(=3\) must divide `width - stem_filters` \(=16\)"),
        (ShuffleNet, {"stem_filters": 24}, r"`width` \(=24\) must be above `stem_filters` \(=24\)"),
        (MobileNetV1, {"width_multiplier": 0.0}, r"`width_multiplier` \(=0\.0\) must be a number above 0"),
    ],
)
def test_bad_arguments(factory, changes, message):
    with pytest.raises(ValueError, match=message):
        factory(**{**TINY[factory], **SMALL, **changes})
