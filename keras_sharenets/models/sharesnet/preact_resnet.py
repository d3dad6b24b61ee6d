"""The residual network of bottlenecks for CIFAR, with or without shared convolutions."""

import functools

from keras_sharenets import _checks
from keras_sharenets.models import parts
from keras_sharenets.models.sharesnet import blocks


def stage_blocks(depth):
    """Blocks of each stage of `PreActResNet(depth=depth)`.

    >>> stage_blocks(164)
    (18, 18, 18)
    """
    return blocks.three_stages(depth, 9, 2)


def PreActResNet(
    *,
    depth=164,
    share="none",
    order="norm_conv",
    width=16,
    input_shape=(32, 32, 3),
    num_classes=10,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="preact_resnet",
):
    """A residual network of three stages of bottlenecks, for small images.

    A bottleneck is a 1x1, a 3x3 and a 1x1 convolution. With sharing, the bottlenecks of a stage use one and the same
    3x3 convolution layer (the paper's W_s); its gradient is the sum over them. Batch normalization is never shared.

    Args:
        depth: int, `9n + 2` for n bottlenecks in each stage.
        share: which bottlenecks use their stage's 3x3 convolution: `"none"` of them, `"rest"` (all but the first of
            the stage; the paper's counts), `"stride1"` (all but the first of a stage that halves the image) or
            `"all"`.
        order: `"norm_conv"` (batch normalization and ReLU before each convolution) or `"conv_norm"` (after it). The
            paper shows both and prints the same counts for both.
        width: int, channels of the stem and of the 3x3 convolutions of the first stage, doubled in each later one.
        input_shape: `(height, width, channels)`; height and width may be `None`.
        num_classes: int.
        include_top: bool, whether the classifier is there.
        pooling: without the top, `None` for feature maps, `"avg"` or `"max"` for one vector per image.
        classifier_activation: activation of the classifier; `None` for logits.
        input_tensor: optional Keras tensor to build on, for example the output of `keras.layers.Normalization`;
            replaces `input_shape`.
        name: name of the model.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

    >>> PreActResNet(depth=20, width=4).count_params() - PreActResNet(depth=20, width=4, share="all").count_params()
    3024
    >>> 9 * (4**2 + 8**2 + 16**2)  # one kernel a stage less
    3024

    Reference: Boulch, "ShaResNet: reducing residual network parameter number by sharing weights", Pattern Recognition
    Letters 2018, section 3, figure 2 and tables 1 and 3.
    """
    counts = stage_blocks(depth)
    _checks.one_of("share", share, blocks.POLICIES)
    _checks.one_of("order", order, ("norm_conv", "conv_norm"))
    _checks.positive("width", width)
    inputs = parts.input_for(input_tensor, input_shape, total_stride=4)
    x = blocks.conv(inputs, width, 3, name="stem")
    if order == "norm_conv":
        x = blocks.stages(x, blocks.preactivated_bottleneck, width, counts, share)
        x = parts.norm_relu(x, "head")
    else:
        x = parts.norm_relu(x, "stem")
        block = functools.partial(blocks.bottleneck, stride_on="reduce")
        x = blocks.stages(x, block, width, counts, share)
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
