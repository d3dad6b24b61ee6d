"""HSC-Net: stem, stages of modules, classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Configured, Tensor
from keras_sharenets.layers import PaddedMaxPooling2D
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked
from keras_sharenets.models.hscnet.module import Options, module, resolve_sharing

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _stem(x: Tensor, kind: str, filters: int, options: Options) -> Tensor:
    kernel_size, strides = (7, 2) if kind == "imagenet" else (3, 1)
    initializer = options.kernel_initializer
    x = base.conv2d(x, filters, kernel_size, strides=strides, kernel_initializer=initializer, name="stem")
    return PaddedMaxPooling2D(3, strides=2, name="stem_pool")(x) if kind == "imagenet" else x


def _stage_widths(width: int | Sequence[int]) -> tuple[int, ...]:
    """The width of each stage; a single number stands for three stages with doubling widths."""
    if isinstance(width, Sequence):
        return _checks.sizes("width", width)
    _checks.positive("width", width)
    return (width, 2 * width, 4 * width)


@checked
def HSCNet(
    *,
    width: int | Sequence[int] = 128,
    groups: int = 16,
    channel_repeats: int = 8,
    arrangements: int = 2,
    blocks_per_stage: int | Sequence[int] = 4,
    alpha: float = 2,
    star: bool = False,
    sharing: Sequence[str] | None = None,
    stem: str = "cifar",
    stem_filters: int = 16,
    shuffle_groups: int = 2,
    plane_orders: str = "distinct",
    arrange_first_expand: bool = True,
    arrange_group_pointwise: bool = False,
    arrange_in_transition: str = "expand",
    share_in_transition: bool = True,
    spatial_order: str = "group_major",
    stride_on: str = "spatial",
    shortcut: str = "projection",
    projection_input: str = "activated",
    dropout_rate: float = 0.0,
    kernel_initializer: Configured = "he_normal",
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """HSC-Net, a highly shared convolutional network.

    A module has two general layers. Each consists of a 1x1 convolution to the bottleneck (theta1, arranged and shared
    by both), a 3x3 group convolution (theta4: repeated, shared and arranged) plus a 1x1 group convolution (theta5,
    shared), and a 1x1 convolution back (theta2 in the first, arranged; theta3 in the second). Batch normalization is
    never shared.

    Args:
        width: int, number of output channels of the first of three stages, doubled in each later one (the paper's M);
            or a sequence with the width of each stage, which must not decrease with `shortcut="pad"`.
        groups: int, number of groups of the 3x3 convolution (G); must divide the bottleneck width of each stage.
        channel_repeats: int, number of times that each group filter is used along the channels (R); must divide
            `groups`.
        arrangements: int, number of times that each arranged filter is used (T); must divide the number of bottleneck
            channels per group.
        blocks_per_stage: int, or a sequence with one entry per stage, number of modules in each stage (B).
        alpha: float, ratio of stage width to bottleneck width.
        star: bool, whether the last 1x1 convolution of each module (theta3) is also arranged. Off by default, although
            algorithm 1 prints an A for theta3: with it, networks without a star in their names would have 12 to 20 %
            fewer parameters than printed.
        sharing: sequence of five strings, how theta1 to theta5 are shared, in the letters of algorithm 1. L: shared by
            both general layers of a module (theta1 only in modules that are not transitions); C: repeated along the
            channels `channel_repeats` times; A: arranged `arrangements` times. Four strings omit theta5. `None` stands
            for `("LA", "A", "", "CLA", "L")`, modified by `star`, `arrange_first_expand` and `arrange_group_pointwise`.
            As printed: `("LA", "A", "A", "CLA", "L")`; channel repeated filters only: `("", "", "", "C", "")`; arranged
            filters only: `("A", "A", "", "A", "")`; no sharing: five `""`.
        stem: `"cifar"` (3x3) or `"imagenet"` (7x7 with stride 2, max pooling).
        stem_filters: int, number of channels of the stem. The paper does not specify it; 16 as in WideResNet.
        shuffle_groups: int, number of rows of the shuffle that arranges filters. The paper does not specify it.
        plane_orders: order of the input planes with more than two arrangements, as in `HighlySharedConv2D`:
            `"distinct"` or `"shuffled"`. The paper does not specify it.
        arrange_first_expand: bool, whether theta2 is arranged, as the counts of networks without a star require.
        arrange_group_pointwise: bool, whether theta5 is arranged. The paper does not specify it.
        arrange_in_transition: which 1x1 convolution of a transition is arranged: `"expand"` (theta2) or `"reduce"` (the
            second theta1). The paper does not specify it; the count is the same.
        share_in_transition: bool, whether both general layers of a transition share theta4 and theta5. The paper does
            not specify it.
        spatial_order: order of theta4's output channels: `"group_major"`, or `"arrangement_major"` (all base filters
            before all arranged ones). The paper does not specify it.
        stride_on: the strided convolution of a transition: `"spatial"` (theta4 and theta5) or `"reduce"` (theta1). The
            paper does not specify it.
        shortcut: `"projection"` (a 1x1 convolution if the width changes) or `"pad"` (zero channels; theta1 is then also
            shared in transitions). The paper does not specify it.
        projection_input: input of the projection, `"activated"` or `"raw"`. The paper does not specify it.
        dropout_rate: float, dropout rate between the general layers of a module. The paper does not mention dropout.
        kernel_initializer: initializer of all kernels; its fan-in is that of the full kernel.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes.

    >>> model = HSCNet(width=32, groups=4, channel_repeats=2, blocks_per_stage=1, num_classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", Expert Systems with Applications 2021,
    algorithm 1, figure 5 and tables 1 to 5.
    """
    options = Options(
        groups=groups,
        channel_repeats=channel_repeats,
        arrangements=arrangements,
        alpha=alpha,
        sharing=resolve_sharing(sharing, star, arrange_first_expand, arrange_group_pointwise),
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
    frame = base.frame("hscnet", common)
    _checks.one_of("stem", stem, ("cifar", "imagenet"))
    _checks.positive("stem_filters", stem_filters)
    widths = _stage_widths(width)
    if shortcut == "pad" and stem_filters > widths[0]:
        raise ValueError(f"`stem_filters` (={stem_filters}) must be at most the first stage's width (={widths[0]}).")
    if shortcut == "pad" and list(widths) != sorted(widths):
        raise ValueError(f"`width` (={width!r}) must not decrease with `shortcut` (='pad').")
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, len(widths))
    total_stride = 2 ** (len(widths) - 1) * (4 if stem == "imagenet" else 1)
    images = frame.images(total_stride)
    x = _stem(images, stem, stem_filters, options)
    for stage, (stage_width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        for index in range(1, count + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            x = module(x, stage_width, strides, options, f"stage{stage}_module{index}")
    return frame.network(images, frame.head(base.norm_relu(x, "head")))
