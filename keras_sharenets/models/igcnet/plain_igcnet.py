"""The plain network with which the IGC-V2 paper compares blocks of one width."""

from keras_sharenets import _checks
from keras_sharenets.models import parts
from keras_sharenets.models.igcnet import blocks as igcnet_blocks


def PlainIGCNet(
    *,
    block="igcv2",
    width=144,
    branch_channels=None,
    blocks=6,
    norm_each=False,
    input_shape=(32, 32, 3),
    num_classes=10,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="plain_igcnet",
):
    """A stem and blocks of one width, at the size of the images and without shortcuts.

    Args:
        block: as in `IGCNet`.
        width: int, channels of the stem and of all blocks (the paper's C); even with `"igcv1"` and
            `"igcv2_i"`.
        branch_channels: with `"igcv2"` and `"igcv2_i"`, a tuple as in `InterleavedGroupConv2D`, or `None` for as few
            eights as connect all channels; else `None`.
        blocks: int.
        norm_each, input_shape, num_classes, include_top, pooling, classifier_activation, input_tensor, name: as in
            `IGCNet`.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

    >>> model = PlainIGCNet(width=16, branch_channels=(4, 4), blocks=1, input_shape=(8, 8, 3), num_classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, sections 4.2 to
    4.4, tables 2 and 5.
    """
    options = igcnet_blocks.Options(block, width, norm_each)
    _checks.positive("blocks", blocks)
    sizes = options.branch_channels(branch_channels, width)
    inputs = parts.input_for(input_tensor, input_shape, total_stride=1)
    x = parts.norm_relu(parts.conv2d(inputs, width, 3, name="stem"), "stem")
    for index in range(1, blocks + 1):
        place = f"block{index}"
        x = parts.norm_relu(igcnet_blocks.block(x, width, 1, sizes, options, place), place)
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
