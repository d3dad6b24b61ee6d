"""MobileNetV2, for large images and small ones."""

from keras_sharenets import _checks
from keras_sharenets.models import parts
from keras_sharenets.models.baselines import inverted_residuals
from keras_sharenets.models.baselines.inverted_residuals import norm_relu6
from keras_sharenets.models.baselines.mobile_strides import strided_input


def _block(x, hidden, filters, strides, name):
    """1x1 to `hidden`, 3x3 depthwise, 1x1 to `filters`; the last without ReLU. Nothing to widen, no first 1x1."""
    if hidden != x.shape[-1]:
        x = norm_relu6(parts.conv2d(x, hidden, name=f"{name}_expand"), f"{name}_expand")
    x = norm_relu6(parts.depthwise_conv2d(x, 3, strides, name=f"{name}_depthwise"), f"{name}_depthwise")
    return parts.norm(parts.conv2d(x, filters, name=f"{name}_project"), f"{name}_project")


def MobileNetV2(
    *,
    width_multiplier=1.0,
    blocks_per_stage=(1, 2, 3, 4, 3, 3, 1),
    strides=None,
    input_shape=(224, 224, 3),
    num_classes=1000,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="mobilenet_v2",
):
    """A network of inverted residuals: blocks that are narrow outside, wide and depthwise inside.

    It has the layers and weights of `keras.applications.MobileNetV2`. Results differ in the constants of batch
    normalization, and, where a convolution of stride 2 reads an even side, by the padding: here it is symmetric.

    Args:
        width_multiplier: number above 0 that all widths are multiplied by (Keras's alpha); products are rounded to
            multiples of 8.
        blocks_per_stage: int, or a sequence with one entry for each of the seven stages.
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

    >>> model = MobileNetV2(width_multiplier=0.35, blocks_per_stage=1, input_shape=(32, 32, 3), num_classes=10)
    >>> model.get_layer("last").output.shape
    (None, 4, 4, 1280)

    Reference: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, tables 1 and 2.
    """
    _checks.above_zero("width_multiplier", width_multiplier)
    counts = parts.per_stage("blocks_per_stage", blocks_per_stage, len(inverted_residuals.STAGES))
    defaults = (inverted_residuals.STRIDES, inverted_residuals.SMALL_PICTURE_STRIDES)
    inputs, strides = strided_input(strides, *defaults, input_tensor, input_shape)
    x = inverted_residuals.body(inputs, _block, width_multiplier, counts, strides)
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
