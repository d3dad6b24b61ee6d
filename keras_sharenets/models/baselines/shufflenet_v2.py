"""ShuffleNetV2, for large images and small ones."""

import keras

from keras_sharenets.layers import ChannelShuffle, ChannelSlice, PaddedMaxPooling2D
from keras_sharenets.models import parts
from keras_sharenets.models.baselines.mobile_strides import strided_input

# Of the stem, of the max pooling, and of the first block of every stage.
STRIDES = (2, 2, 2, 2, 2)
SMALL_PICTURE_STRIDES = (1, 1, 2, 2, 2)


def _convolved(x, filters, strides, name):
    """1x1, 3x3 depthwise, 1x1; ReLU after the 1x1 alone."""
    x = parts.norm_relu(parts.conv2d(x, filters, name=f"{name}_pointwise1"), f"{name}_pointwise1")
    return _depthwise_pointwise(x, filters, strides, f"{name}_depthwise", f"{name}_pointwise2")


def _depthwise_pointwise(x, filters, strides, depthwise, pointwise):
    x = parts.norm(parts.depthwise_conv2d(x, 3, strides, name=depthwise), depthwise)
    return parts.norm_relu(parts.conv2d(x, filters, name=pointwise), pointwise)


def _block(x, filters, strides, is_first, name):
    """Two branches of half the channels, side by side, shuffled."""
    half = filters // 2
    if is_first:
        past = _depthwise_pointwise(x, half, strides, f"{name}_shortcut_depthwise", f"{name}_shortcut_pointwise")
    else:
        past = ChannelSlice(0, half, name=f"{name}_past")(x)
        x = ChannelSlice(half, filters, name=f"{name}_convolved")(x)
    x = keras.layers.Concatenate(name=f"{name}_concat")([past, _convolved(x, half, strides, name)])
    return ChannelShuffle(2, name=f"{name}_shuffle")(x)


def ShuffleNetV2(
    *,
    filters=(24, 244, 488, 976, 2048),
    blocks_per_stage=(4, 8, 4),
    strides=None,
    input_shape=(224, 224, 3),
    num_classes=1000,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="shufflenet_v2",
):
    """A network whose blocks convolve one half of the channels, keep the other, and shuffle both.

    Args:
        filters: sequence of five ints: channels of the stem, of three stages (even ones) and of the last convolution.
            The default is the 2.0x of table 5; implementations with `(24, 224, 488, 976, 2048)` are in use too.
        blocks_per_stage: int, or a sequence with one entry for each of the three stages.
        strides: sequence of five ints, those of the stem, of the max pooling (1: none) and of the first block of every
            stage. `None` for 2 everywhere from 112x112 pixels on, and `(1, 1, 2, 2, 2)` for smaller images, as is
            usual on CIFAR. Strides do not change the count of parameters.
        input_shape: `(height, width, channels)`; with `strides` given, height and width may be `None`.
        num_classes: int.
        include_top: bool, whether the classifier is there.
        pooling: without the top, `None` for feature maps, `"avg"` or `"max"` for one vector per image.
        classifier_activation: activation of the classifier; `None` for logits.
        input_tensor: optional Keras tensor to build on; replaces `input_shape`.
        name: name of the model.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

    >>> model = ShuffleNetV2(filters=(8, 16, 32, 64, 128), blocks_per_stage=2, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("last").output.shape
    (None, 4, 4, 128)

    Reference: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV 2018, figure
    3c and 3d, table 5.
    """
    stem_filters, *widths, last_filters = parts.per_stage("filters", filters, 5)
    if any(width % 2 for width in widths):
        raise ValueError(f"`filters` (={filters!r}) must be even for each stage: a block convolves one half of them.")
    counts = parts.per_stage("blocks_per_stage", blocks_per_stage, len(widths))
    inputs, strides = strided_input(strides, STRIDES, SMALL_PICTURE_STRIDES, input_tensor, input_shape)
    x = parts.norm_relu(parts.conv2d(inputs, stem_filters, 3, strides[0], name="stem"), "stem")
    if strides[1] > 1:
        x = PaddedMaxPooling2D(3, strides=strides[1], name="stem_pool")(x)
    for stage, (width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        for index in range(1, count + 1):
            block_strides = strides[stage + 1] if index == 1 else 1
            x = _block(x, width, block_strides, index == 1, f"stage{stage}_block{index}")
    x = parts.norm_relu(parts.conv2d(x, last_filters, name="last"), "last")
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
