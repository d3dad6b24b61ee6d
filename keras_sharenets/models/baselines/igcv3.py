"""IGCV3-D, for large images and small ones."""

from keras_sharenets import _checks
from keras_sharenets.layers import ChannelShuffle
from keras_sharenets.models import parts
from keras_sharenets.models.baselines import inverted_residuals
from keras_sharenets.models.baselines.mobile_strides import strided_input

GROUPS = 2


def _block(x, hidden, filters, strides, name):
    """1x1 to `hidden`, 3x3 depthwise, 1x1 to `filters`; both 1x1 in groups. Only the depthwise one has a ReLU.

    The first shuffle gives each group of the second 1x1 channels of both groups of the first, the second shuffle does
    so for the next block.
    """
    x = parts.conv2d(x, hidden, groups=GROUPS, name=f"{name}_expand")
    x = ChannelShuffle(GROUPS, name=f"{name}_expand_shuffle")(parts.norm(x, f"{name}_expand"))
    x = parts.depthwise_conv2d(x, 3, strides, name=f"{name}_depthwise")
    x = inverted_residuals.norm_relu6(x, f"{name}_depthwise")
    x = parts.conv2d(x, filters, groups=GROUPS, name=f"{name}_project")
    return ChannelShuffle(filters // GROUPS, name=f"{name}_project_shuffle")(parts.norm(x, f"{name}_project"))


def IGCV3(
    *,
    width_multiplier=1.0,
    blocks_per_stage=(1, 4, 6, 8, 6, 6, 1),
    strides=None,
    input_shape=(224, 224, 3),
    num_classes=1000,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="igcv3",
):
    """MobileNetV2 with its 1x1 convolutions in two groups, and twice as many blocks for as many parameters.

    Args:
        width_multiplier: number above 0 that all widths are multiplied by; products are rounded to multiples of 8.
        blocks_per_stage: int, or a sequence with one entry for each of the seven stages. The default is the deep form,
            IGCV3-D.
        strides: sequence of eight ints, those of the stem and of the first block of every stage. `None` for
            `(2, 1, 2, 2, 2, 1, 2, 1)` from 112x112 pixels on, and `(1, 1, 1, 2, 2, 1, 2, 1)` for smaller images, as
            is usual on CIFAR. Strides do not change the count of parameters.
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

    >>> model = IGCV3(width_multiplier=0.25, blocks_per_stage=1, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("last").output.shape
    (None, 4, 4, 1280)

    Reference: Sun et al., "IGCV3: Interleaved Low-Rank Group Convolutions for Efficient Deep Neural Networks", BMVC
    2018. Shuffles and ReLUs are where its authors' code has them.
    """
    _checks.above_zero("width_multiplier", width_multiplier)
    counts = parts.per_stage("blocks_per_stage", blocks_per_stage, len(inverted_residuals.STAGES))
    defaults = (inverted_residuals.STRIDES, inverted_residuals.SMALL_PICTURE_STRIDES)
    inputs, strides = strided_input(strides, *defaults, input_tensor, input_shape)
    x = inverted_residuals.body(inputs, _block, width_multiplier, counts, strides)
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
