"""ShardNet's residual networks for CIFAR (the paper's section 4 and table 4)."""

from keras_sharenets import _checks
from keras_sharenets.models import parts
from keras_sharenets.models.shardnet import blocks as shardnet_blocks


def ShardResNet(
    *,
    filters=128,
    share="spatial",
    blocks_per_level=3,
    conv_bias=True,
    linear_bias=True,
    input_shape=(32, 32, 3),
    num_classes=10,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="shard_resnet",
):
    """A residual network of three levels with one 3x3 convolution in all its places.

    A 3x3 convolution, then three levels of basic blocks, which keep their width; between levels a 1x1 blending layer
    and max pooling. Each 3x3 convolution has its own batch normalization. In the paper's names E means equivalent
    (`share="none"`), S shared, L with linear layers, here those that E has too; the number behind the letters is
    that of the blocks per level.

    Args:
        filters: int, channels at every level (the paper's n), or a sequence of three, all equal if shared. The paper's
            E networks have p, 2p and 4p.
        share: `"none"`, or `"spatial"`: one 3x3 convolution in all `1 + 6 * blocks_per_level` places. The first of them
            is the image, padded with channels of zeros to `filters`.
        blocks_per_level: int, or a sequence of three (the paper's b).
        conv_bias, linear_bias: bool, whether 3x3 convolutions and blending layers have a bias. The paper does not say;
            its counts need both.
        input_shape: `(height, width, channels)`; height and width may be `None`.
        num_classes: int.
        include_top: bool, whether the classifier is there.
        pooling: without the top, `None` for feature maps, `"avg"` or `"max"` for one vector per image.
        classifier_activation: activation of the classifier; `None` for logits.
        input_tensor: optional Keras tensor to build on; replaces `input_shape`.
        name: name of the model.

    Returns:
        A functional `keras.Model`. Its blending layers are `blend1` and `blend2`.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

    >>> model = ShardResNet(filters=8, blocks_per_level=1, num_classes=10)
    >>> model.get_layer("shared_spatial").count_params(), model.output_shape
    (584, (None, 10))

    Reference: Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020, section 4, tables 4
    and 7.
    """
    _checks.one_of("share", share, ("none", "spatial"))
    shared = share == "spatial"
    widths = shardnet_blocks.widths_for(filters, 3, shared)
    counts = parts.per_stage("blocks_per_level", blocks_per_level, 3)
    inputs = parts.input_for(input_tensor, input_shape, total_stride=4)
    x = shardnet_blocks.padded_image(inputs, widths[0]) if shared else inputs
    convolution = shardnet_blocks.convolutions(shared, conv_bias)
    x = parts.norm_relu(convolution(widths[0], 3, "stem")(x), "stem")
    x = shardnet_blocks.residual_levels(x, shardnet_blocks.basic_block, widths, 1, counts, convolution, linear_bias)
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)
