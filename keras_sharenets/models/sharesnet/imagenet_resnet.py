"""The residual networks for ImageNet, with or without shared convolutions."""

import functools
from collections.abc import Sequence

from keras_sharenets import _checks
from keras_sharenets.layers import PaddedMaxPooling2D
from keras_sharenets.models import parts
from keras_sharenets.models.sharesnet import blocks

_BLOCKS = {34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_BASIC = {34}


def stage_blocks(depth):
    """Blocks of each stage of `ResNet(depth=depth)`.

    >>> stage_blocks(101)
    (3, 4, 23, 3)
    """
    _checks.one_of("depth", depth, tuple(_BLOCKS))
    return _BLOCKS[depth]


def _check_share(share, depth):
    _checks.one_of("share", share, blocks.POLICIES)
    if share == "all" and depth not in _BASIC:
        raise ValueError(
            f"`share` (='all') must be 'none', 'rest' or 'stride1' at `depth` (={depth}): where a stage of bottlenecks "
            "halves the image, its first 3x3 convolution has stride 2, the others have not."
        )


def _check_blocks(blocks_per_stage):
    if not isinstance(blocks_per_stage, Sequence) or not blocks_per_stage:
        raise ValueError(f"`blocks_per_stage` (={blocks_per_stage!r}) must be a sequence with a number for each stage.")
    return parts.per_stage("blocks_per_stage", blocks_per_stage, len(blocks_per_stage))


def ResNet(
    *,
    depth=50,
    share="none",
    width=64,
    blocks_per_stage=None,
    input_shape=(224, 224, 3),
    num_classes=1000,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="resnet",
):
    """A residual network for large images: 7x7 convolution, max pooling, four stages of residual blocks.

    A block is two 3x3 convolutions (depth 34), or a bottleneck of a 1x1, a 3x3 and a 1x1 convolution (50, 101, 152);
    batch normalization and ReLU follow each. With sharing, the blocks of a stage use one and the same layer (the
    paper's W_s) for their last 3x3 convolution; its gradient is the sum over them. Batch normalization is never shared.
    Padding is symmetric, also at stride 2.

    Args:
        depth: int, 34, 50, 101 or 152.
        share: which blocks use their stage's 3x3 convolution: `"none"` of them, `"rest"` (all but the first of the
            stage), `"stride1"` (all but the first of a stage that halves the image; the paper's counts at depths 50,
            101 and 152) or `"all"` (its counts at depth 34; not with bottlenecks, where that first one is strided).
        width: int, channels of the stem and of the 3x3 convolutions of the first stage, doubled in each later one.
        blocks_per_stage: sequence with the blocks of each stage in place of those that belong to `depth`, which then
            only says whether they are bottlenecks.
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

    >>> model = ResNet(depth=34, share="all", width=8, blocks_per_stage=(2, 2), include_top=False)
    >>> model.output_shape
    (None, 28, 28, 16)

    Reference: Boulch, "ShaResNet: reducing residual network parameter number by sharing weights", Pattern Recognition
    Letters 2018, section 3, figure 2 and table 1.
    """
    counts = stage_blocks(depth)
    _check_share(share, depth)
    _checks.positive("width", width)
    if blocks_per_stage is not None:
        counts = _check_blocks(blocks_per_stage)
    inputs = parts.input_for(input_tensor, input_shape, total_stride=4 * 2 ** (len(counts) - 1))
    x = parts.norm_relu(blocks.conv(inputs, width, 7, 2, name="stem"), "stem")
    x = PaddedMaxPooling2D(3, strides=2, name="stem_pool")(x)
    block = blocks.basic if depth in _BASIC else functools.partial(blocks.bottleneck, stride_on="spatial")
    x = blocks.stages(x, block, width, counts, share)
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
