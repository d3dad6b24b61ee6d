"""The networks that the IGC-V2 paper compares: a residual one of three stages, and a plain one of one width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked
from keras_sharenets.models.igcnet import LARGE_IMAGE, STAGES
from keras_sharenets.models.igcnet import blocks as igcnet_blocks

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _branches_of_stages(
    branch_channels: Sequence[Sequence[int]] | None, widths: Sequence[int], options: igcnet_blocks.Options
) -> list[Sequence[int] | None]:
    """The branches of the 1x1 parts of every stage."""
    if branch_channels is None:
        return [options.branch_channels(None, width) for width in widths]
    if not isinstance(branch_channels, (tuple, list)) or len(branch_channels) != len(widths):
        raise ValueError(
            f"`branch_channels` (={branch_channels!r}) must be one tuple for each of the {len(widths)} stages."
        )
    return [options.branch_channels(sizes, width) for sizes, width in zip(branch_channels, widths, strict=True)]


@checked
def IGCNet(
    *,
    block: str = "igcv2",
    width: int = 64,
    branch_channels: Sequence[Sequence[int]] | None = None,
    blocks_per_stage: int | Sequence[int] = 2,
    stem_filters: int | None = None,
    stem_strides: int | None = None,
    norm_each: bool = False,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A residual network of three stages whose convolutions are products of sparse ones.

    A block is a 3x3 convolution and a 1x1 part, then batch normalization and ReLU; a shortcut spans two blocks. With
    B blocks in each stage the paper calls the depth `3B + 2`.

    Args:
        block: what the blocks are: `"xception"` (depthwise 3x3, dense 1x1), `"igcv1"` (3x3 with `width / 2` branches,
            then 1x1 with branches of `width / 2` channels, shuffles behind both), `"igcv2"` (depthwise 3x3, then an
            `InterleavedGroupConv2D`) or `"igcv2_i"` (the 3x3 convolution of IGC-V1 before that; the paper has it in
            plain networks alone).
        width: int, output channels of the first of three stages, doubled in each later one (the paper's x); even unless
            `block="xception"`.
        branch_channels: with `"igcv2"` and `"igcv2_i"`, one tuple a stage as in `InterleavedGroupConv2D`, or `None` for
            as few eights as connect all channels of the stage (the paper's IGC-V2*); else `None`.
        blocks_per_stage: int, or a sequence with one entry a stage; multiples of 2.
        stem_filters: int, channels of the stem, at most `width`, or `None` for `width`; with `"igcv1"` and `"igcv2_i"`,
            `width` or half of it.
        stem_strides: int, stride of the stem, or `None` for 2 from 64x64 pixels on (as the paper has it on Tiny
            ImageNet) and 1 for smaller images and open sizes.
        norm_each: bool, whether batch normalization follows each convolution of a block, and not just the last. Open in
            the paper.
        **common: `keras_sharenets.models.CommonArguments`; images are 32x32x3 and classes 10 by default.

    >>> model = IGCNet(width=16, branch_channels=((4, 4), (8, 4), (8, 8)), input_shape=(8, 8, 3), num_classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, section 4,
    tables 1, 3, 4 and 6.
    """
    options = igcnet_blocks.Options(block, width, norm_each)
    options.check_even()
    stem_filters = width if stem_filters is None else stem_filters
    _checks.positive("stem_filters", stem_filters)
    if stem_filters > width:
        raise ValueError(f"`stem_filters` (={stem_filters}) must be at most `width` (={width}).")
    if options.kind.grouped:
        _checks.divides("width / 2", width // 2, "`stem_filters`", stem_filters)
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, STAGES)
    for count in counts:
        _checks.divides("2", 2, "`blocks_per_stage`", count)
    widths = [width * 2**stage for stage in range(STAGES)]
    branches = _branches_of_stages(branch_channels, widths, options)
    frame = base.frame("igcnet", common)
    if stem_strides is None:
        shape = frame.input_shape if frame.input_tensor is None else frame.input_tensor.shape[1:]
        stem_strides = 2 if min(side or 0 for side in shape[:2]) >= LARGE_IMAGE else 1
    images = frame.images(total_stride=stem_strides * 2 ** (STAGES - 1))
    x = base.norm_relu(base.conv2d(images, stem_filters, 3, strides=stem_strides, name="stem"), "stem")
    for stage, (stage_width, sizes, count) in enumerate(zip(widths, branches, counts, strict=True), start=1):
        for index in range(1, count + 1, 2):
            strides = 2 if stage > 1 and index == 1 else 1
            names = [f"stage{stage}_block{place}" for place in (index, index + 1)]
            x = igcnet_blocks.pair(x, stage_width, strides, sizes, options, *names)
    return frame.network(images, frame.head(x))


@checked
def PlainIGCNet(
    *,
    block: str = "igcv2",
    width: int = 144,
    branch_channels: Sequence[int] | None = None,
    blocks_per_stage: int = 6,
    norm_each: bool = False,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A stem and blocks of one width, at the size of the images and without shortcuts.

    Args:
        block: as in `IGCNet`.
        width: int, channels of the stem and of all blocks (the paper's C); even with `"igcv1"` and
            `"igcv2_i"`.
        branch_channels: with `"igcv2"` and `"igcv2_i"`, a tuple as in `InterleavedGroupConv2D`, or `None` for as few
            eights as connect all channels; else `None`.
        blocks_per_stage: int, blocks of the only stage.
        norm_each: as in `IGCNet`.
        **common: `keras_sharenets.models.CommonArguments`; images are 32x32x3 and classes 10 by default.

    >>> model = PlainIGCNet(width=16, branch_channels=(4, 4), blocks_per_stage=1, input_shape=(8, 8, 3), num_classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, sections 4.2 to
    4.4, tables 2 and 5.
    """
    options = igcnet_blocks.Options(block, width, norm_each)
    _checks.positive("blocks_per_stage", blocks_per_stage)
    sizes = options.branch_channels(branch_channels, width)
    frame = base.frame("plain_igcnet", common)
    images = frame.images(total_stride=1)
    x = base.norm_relu(base.conv2d(images, width, 3, name="stem"), "stem")
    for index in range(1, blocks_per_stage + 1):
        place = f"block{index}"
        x = base.norm_relu(igcnet_blocks.block(x, width, 1, sizes, options, place), place)
    return frame.network(images, frame.head(x))
