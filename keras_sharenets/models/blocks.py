"""The blocks of the papers' networks, for use in custom networks.

A block takes keyword arguments and returns a function of a tensor, similar to a Keras layer. It adds ordinary layers to
the model, with names that begin with `name`. Create a new block for each place: calling one twice would add layers with
duplicate names. To share weights between places, pass the same layer to several blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Configured, Tensor
from keras_sharenets.models.arguments import checked
from keras_sharenets.models.hgcnet import hgcnet
from keras_sharenets.models.hscnet import module as hscnet
from keras_sharenets.models.igcnet import blocks as igcnet
from keras_sharenets.models.shardnet import blocks as shardnet
from keras_sharenets.models.sharesnet import blocks as sharesnet


def _channels(x: Tensor) -> int:
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) != 4 or shape[-1] is None:
        raise ValueError(f"`x` (of shape {shape}) must be `(batch, height, width, channels)` with the channels known.")
    return shape[-1]


def _check_shared(shared: keras.layers.Layer, x: Tensor, width: int) -> None:
    """Raises a `ValueError` unless the layer preserves the shape of a tensor with `width` channels."""
    shape = (*x.shape[:3], width)
    made = tuple(shared.compute_output_shape(shape))
    if made != shape:
        raise ValueError(f"`shared` (='{shared.name}') must keep the shape of its input, {shape}, but returns {made}.")


@checked
def HSCModule(
    *,
    width: int,
    name: str,
    strides: int = 1,
    groups: int = 16,
    channel_repeats: int = 8,
    arrangements: int = 2,
    alpha: float = 2,
    sharing: Sequence[str] | None = None,
    shuffle_groups: int = 2,
    plane_orders: str = "distinct",
    arrange_in_transition: str = "expand",
    share_in_transition: bool = True,
    spatial_order: str = "group_major",
    stride_on: str = "spatial",
    shortcut: str = "projection",
    projection_input: str = "activated",
    dropout_rate: float = 0.0,
    kernel_initializer: Configured = "he_normal",
) -> Callable[[Tensor], Tensor]:
    """The module of HSC-Net: two general layers that share theta1, theta4 and theta5, and a shortcut.

    Batch normalization and ReLU precede each convolution; add both after the last module.

    Input shape: `(batch, height, width, channels)`.
    Output shape: `(batch, ceil(height / strides), ceil(width / strides), width)`.

    With `channels` equal to `width` and `sharing=None`, the convolutions store
    `2 * M * K / T + M * K + 9 * K**2 / (G * R * T) + K**2 / G` weights, where M is `width`, K is `width / alpha`, and
    G, R and T are `groups`, `channel_repeats` and `arrangements`. Batch normalization adds `4 * M + 8 * K` trainable
    parameters.

    Args:
        width: int, number of output channels.
        name: str, prefix of the layer names.
        strides: int, strides of the module.
        groups, channel_repeats, arrangements, alpha, sharing: as in `keras_sharenets.models.HSCNet`, like all other
            arguments.

    Raises:
        ValueError: an argument violates a rule of `HSCNet`. The message states the rule.

    >>> x = keras.Input((8, 8, 16))
    >>> y = HSCModule(width=16, groups=2, channel_repeats=2, name="module1")(x)
    >>> keras.Model(x, y).get_layer("module1_reduce").count_params() == 16 * 8 // 2
    True

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", Expert Systems with Applications 2021, figure 5
    and algorithm 1.
    """
    options = hscnet.Options(
        groups=groups,
        channel_repeats=channel_repeats,
        arrangements=arrangements,
        alpha=alpha,
        sharing=hscnet.resolve_sharing(sharing, star=False, arrange_first_expand=True, arrange_group_pointwise=False),
        shuffle_groups=shuffle_groups,
        plane_orders=plane_orders,
        arrange_in_transition=arrange_in_transition,
        share_in_transition=share_in_transition,
        spatial_order=spatial_order,
        stride_on=stride_on,
        shortcut=shortcut,
        projection_input=projection_input,
        dropout_rate=dropout_rate,
        kernel_initializer=kernel_initializer,
    )
    options.hidden_width(width)

    def apply(x: Tensor) -> Tensor:
        channels = _channels(x)
        if shortcut == "pad" and channels > width:
            raise ValueError(
                f"`width` (={width}) must be at least the number of input channels (={channels}) with `shortcut` "
                "(='pad')."
            )
        return hscnet.module(x, width, strides, options, name)

    return apply


@checked
def HGCModule(
    *,
    growth: int,
    name: str,
    groups: int = 4,
    hierarchical: bool = True,
    bottleneck: int = 6,
    squeeze_excite: int | None = None,
    squeeze_excite_after: str = "group_pointwise",
    shuffle: str = "strided",
    around_depthwise: Sequence[str] = ("norm", "norm"),
) -> Callable[[Tensor], Tensor]:
    """The module of HGCNet: a hierarchical group convolution, a depthwise 3x3 and a dense 1x1 convolution.

    The output is the input concatenated with the result.

    Input shape: `(batch, height, width, channels)`.
    Output shape: `(batch, height, width, channels + growth)`.

    If `groups` divides `channels`, the convolutions store `C * I / G + (G - 1) * (I / G)**2 + 9 * I + I * growth`
    weights, where C is `channels`, G is `groups` and I is `growth * bottleneck`. The second term applies only with
    `hierarchical=True`. Batch normalization adds `2 * C + 4 * I` trainable parameters.

    Args:
        growth: int, number of channels that the module adds.
        name: str, prefix of the layer names.
        groups, hierarchical, bottleneck: as in `keras_sharenets.models.HGCNet`, like all other arguments.

    Raises:
        ValueError: an argument violates a rule of `HGCNet`. The message states the rule.

    >>> HGCModule(growth=8, name="module1")(keras.Input((8, 8, 16))).shape
    (None, 8, 8, 24)

    Reference: "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network", arXiv 1906.03657, figure 3b.
    """
    options = hgcnet.Options(
        groups=groups,
        hierarchical=hierarchical,
        growth=growth,
        bottleneck=bottleneck,
        squeeze_excite=squeeze_excite,
        squeeze_excite_after=squeeze_excite_after,
        shuffle=shuffle,
        around_depthwise=tuple(around_depthwise),
    )

    def apply(x: Tensor) -> Tensor:
        _channels(x)
        return hgcnet.module(x, growth, options, name)

    return apply


@checked
def IGCBlock(
    *,
    width: int,
    name: str,
    block: str = "igcv2",
    strides: int = 1,
    branch_channels: Sequence[int] | None = None,
    spatial_branches: int | None = None,
    widens: str = "last",
    norm_each: bool = False,
) -> Callable[[Tensor], Tensor]:
    """The block of IGC-V2, IGC-V1 or Xception: a 3x3 convolution and a 1x1 part, both sparse in the channels.

    The block contains no nonlinearity and does not end with a normalization. Add batch normalization and ReLU after it;
    a shortcut is added between the two.

    Input shape: `(batch, height, width, channels)`.
    Output shape: `(batch, ceil(height / strides), ceil(width / strides), width)`.

    With `block="igcv2"` and `channels` equal to `width`, the block stores `channels * (9 + sum(branch_channels))`
    weights.

    Args:
        width: int, number of output channels.
        name: str, prefix of the layer names.
        block: `"igcv2"`, `"igcv2_i"`, `"igcv1"`, `"xception"` or `"deep_roots"`, as in
            `keras_sharenets.models.IGCNet`.
        strides: int, strides of the 3x3 convolution.
        branch_channels: with `"igcv2"` and `"igcv2_i"`, as in `keras_sharenets.layers.InterleavedGroupConv2D`, or
            `None` for `(8, 8, ...)` with the fewest entries that connect all channels; otherwise `None`.
        spatial_branches: int, number of branches of a 3x3 convolution that is not depthwise, or `None` for `width / 2`;
            must divide the number of input channels and `width`.
        widens: which convolution of the 1x1 part widens: `"last"` or, with `"igcv2"`, `"first"`.
        norm_each: bool, whether batch normalization follows each convolution except the last.

    Raises:
        ValueError: an argument violates a rule. The message states the rule.

    >>> x = keras.Input((8, 8, 16))
    >>> keras.Model(x, IGCBlock(width=16, branch_channels=(4, 4), name="block1")(x)).count_params() == 16 * (9 + 4 + 4)
    True

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, section 3.
    """
    options = igcnet.Options(block, width, norm_each, widens=widens, spatial_branches=spatial_branches)
    sizes = options.branch_channels(branch_channels, width)

    def apply(x: Tensor) -> Tensor:
        channels = _channels(x)
        if options.kind.grouped:
            for number in (channels, width):
                _checks.divides("spatial_branches", options.branches, "the channels of a 3x3 convolution", number)
        return igcnet.block(x, width, strides, sizes, options, name)

    return apply


_RESIDUAL = {
    "preactivated_basic": sharesnet.preactivated_basic,
    "preactivated_bottleneck": sharesnet.preactivated_bottleneck,
    "basic": sharesnet.basic,
    "bottleneck": sharesnet.bottleneck,
}


@checked
def SharedResidualBlock(
    *,
    width: int,
    name: str,
    shared: keras.layers.Layer | None = None,
    block: str = "preactivated_basic",
    strides: int = 1,
    stride_on: str = "reduce",
    dropout_rate: float = 0.0,
) -> Callable[[Tensor], Tensor]:
    """The residual block of ShaResNet, in which one 3x3 convolution can be shared with other blocks.

    Input shape: `(batch, height, width, channels)`.
    Output shape: `(batch, ceil(height / strides), ceil(width / strides), filters)`, where `filters` is `width`, or
    `4 * width` for bottlenecks.

    The model stores the shared layer once. A `"preactivated_basic"` block with as many input as output channels adds
    `9 * width**2` weights to it, and batch normalization adds `4 * width` trainable parameters.

    Args:
        width: int, number of channels of the 3x3 convolution.
        name: str, prefix of the layer names.
        shared: layer that replaces the last 3x3 convolution of the block, or `None` for a separate convolution. It must
            preserve the shape of a tensor with `width` channels, for example
            `keras.layers.Conv2D(width, 3, padding="same", use_bias=False)`.
        block: `"preactivated_basic"` (two 3x3 convolutions) or `"preactivated_bottleneck"` (1x1, 3x3, 1x1); or
            `"basic"` or `"bottleneck"`, with batch normalization and ReLU after each convolution.
        strides: int, strides of the first convolution.
        stride_on: with `"bottleneck"`, the convolution that has the strides: `"reduce"` (the first 1x1) or `"spatial"`
            (the 3x3, which then cannot be shared).
        dropout_rate: float, dropout rate between the convolutions of `"preactivated_basic"`.

    Raises:
        ValueError: an argument violates a rule. The message states the rule.

    >>> shared = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
    >>> x = y = keras.Input((8, 8, 4))
    >>> for name in ("block1", "block2"):
    ...     y = SharedResidualBlock(width=4, shared=shared, name=name)(y)
    >>> keras.Model(x, y).count_params() == 3 * 9 * 4**2 + 4 * 4 * 4  # four normalizations
    True

    Reference: Boulch, "ShaResNet: reducing residual network parameter number by sharing weights", Pattern Recognition
    Letters 2018, section 3 and figure 2.
    """
    _checks.one_of("block", block, tuple(_RESIDUAL))
    _checks.one_of("stride_on", stride_on, ("reduce", "spatial"))
    _checks.rate("dropout_rate", dropout_rate)
    if stride_on == "spatial" and (block != "bottleneck" or (shared is not None and strides > 1)):
        raise ValueError(
            "`stride_on` (='spatial') must be 'reduce' unless `block` is 'bottleneck' and its 3x3 convolution is not "
            f"shared or not strided; `block` is {block!r}, `strides` is {strides}."
        )
    if dropout_rate and block != "preactivated_basic":
        raise ValueError(f"`dropout_rate` (={dropout_rate}) must be 0 for `block` (={block!r}).")
    of_blocks = {"bottleneck": {"stride_on": stride_on}, "preactivated_basic": {"dropout_rate": dropout_rate}}
    more: dict[str, Any] = of_blocks.get(block, {})

    def apply(x: Tensor) -> Tensor:
        _channels(x)
        if shared is not None:
            _check_shared(shared, x, width)
        return _RESIDUAL[block](x, width, strides, shared, name, **more)

    return apply


@checked
def SLBlock(
    *,
    shared: keras.layers.Layer,
    name: str,
    block: str = "plain",
    count: int = 2,
    linear_bias: bool = True,
) -> Callable[[Tensor], Tensor]:
    """The block of ShardNet's SL networks: a shared 3x3 convolution applied several times, and a blending layer.

    Batch normalization and ReLU follow each call of the convolution. The blending layer, `blend_{name}`, is a 1x1
    convolution without either (the paper's linear layer), and is not shared. The output has the shape of the input; add
    pooling after the block.

    The model stores the shared layer once. With C channels, a block adds `C**2 + C` parameters for its blending layer.
    Batch normalization adds `2 * C` trainable parameters per call; there are `count` calls, or `2 * count` in residual
    blocks.

    Args:
        shared: layer that preserves the shape of its input, such as
            `keras.layers.Conv2D(channels, 3, padding="same")`; pass the same layer to all blocks of a network.
        name: str, prefix of the layer names, except for the blending layer.
        block: `"plain"` (a sequence of convolutions, as in the paper's VGG-like networks) or `"residual"` (pairs of
            convolutions with an identity shortcut, as in its networks for CIFAR).
        count: int, number of convolutions, or of residual blocks.
        linear_bias: bool, whether the blending layer has a bias.

    Raises:
        ValueError: an argument violates a rule. The message states the rule.

    >>> shared = keras.layers.Conv2D(8, 3, padding="same")
    >>> x = keras.Input((8, 8, 8))
    >>> y = keras.layers.MaxPooling2D()(SLBlock(shared=shared, name="block1")(x))
    >>> keras.Model(x, SLBlock(shared=shared, name="block2")(y)).output_shape
    (None, 4, 4, 8)

    Reference: Jetley et al., "ShardNet: One filter set to rule them all", submission to ICLR 2020, sections 3 and 4.
    """
    _checks.one_of("block", block, ("plain", "residual"))

    def apply(x: Tensor) -> Tensor:
        width = _channels(x)
        _check_shared(shared, x, width)
        given = (width, count, lambda *_: shared, name)
        if block == "plain":
            x = shardnet.plain_convolutions(x, *given)
        else:
            x = shardnet.blocks_of_level(x, shardnet.basic_block, *given)
        return shardnet.blend(x, width, f"blend_{name}", linear_bias)

    return apply
