"""The wide residual network for CIFAR, with or without shared convolutions."""

import functools

from keras_sharenets import _checks
from keras_sharenets.models import parts
from keras_sharenets.models.sharesnet import blocks


def stage_blocks(depth):
    """Blocks of each stage of `WideResNet(depth=depth)`.

    >>> stage_blocks(28)
    (4, 4, 4)
    """
    return blocks.three_stages(depth, 6, 4)


def WideResNet(
    *,
    depth=28,
    widening=10,
    share="none",
    dropout_rate=0.0,
    input_shape=(32, 32, 3),
    num_classes=10,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="wide_resnet",
):
    """A wide residual network of three stages, for small images.

    A block is two 3x3 convolutions, each after batch normalization and ReLU. With sharing, the blocks of a stage use
    one and the same layer (the paper's W_s) for the second of them; its gradient is the sum over them. Batch
    normalization is never shared.

    Args:
        depth: int, `6n + 4` for n blocks in each stage.
        widening: int, the first stage has `16 * widening` channels, each later one twice as many.
        share: which blocks use their stage's second convolution: `"none"` of them, `"rest"` (all but the first of the
            stage; the paper's counts), `"stride1"` (all but the first of a stage that halves the image) or `"all"`.
        dropout_rate: float, rate of the dropout between the two convolutions. The paper uses it on CIFAR-100 alone and
            states no rate.
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

    >>> model = WideResNet(depth=16, widening=1, share="all", num_classes=100)
    >>> model.output_shape
    (None, 100)

    Reference: Boulch, "ShaResNet: reducing residual network parameter number by sharing weights", Pattern Recognition
    Letters 2018, section 3, figure 2 and tables 1 and 3.
    """
    counts = stage_blocks(depth)
    _checks.positive("widening", widening)
    _checks.one_of("share", share, blocks.POLICIES)
    _checks.rate("dropout_rate", dropout_rate)
    inputs = parts.input_for(input_tensor, input_shape, total_stride=4)
    x = blocks.conv(inputs, 16, 3, name="stem")
    block = functools.partial(blocks.preactivated_basic, dropout_rate=dropout_rate)
    x = blocks.stages(x, block, 16 * widening, counts, share)
    x = parts.norm_relu(x, "head")
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
