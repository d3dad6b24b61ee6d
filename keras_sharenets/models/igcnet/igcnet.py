"""The networks that the IGC-V2 paper compares: a residual network with three stages, and a plain one of one width."""

from __future__ import annotations

import dataclasses
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
) -> list[tuple]:
    """The branch sizes of the 1x1 parts of each stage, for the block that widens and for the others."""
    if branch_channels is None:
        sizes = [options.branch_channels(None, width) for width in widths]
        return list(zip(sizes, sizes, strict=True))
    if not isinstance(branch_channels, (tuple, list)) or len(branch_channels) not in (STAGES, 2 * STAGES - 1):
        raise ValueError(
            f"`branch_channels` (={branch_channels!r}) must have one tuple for each of the {STAGES} stages, or "
            f"{2 * STAGES - 1} with those of the widening blocks between the stages."
        )
    places = len(branch_channels)
    of_places = widths if places == STAGES else [widths[(place + 1) // 2] for place in range(places)]
    sizes = [options.branch_channels(each, width) for each, width in zip(branch_channels, of_places, strict=True)]
    stages = sizes if places == STAGES else sizes[::2]
    between = stages[1:] if places == STAGES else sizes[1::2]
    return list(zip([stages[0], *between], stages, strict=True))


def _options_of_stages(
    options: igcnet_blocks.Options, spatial_branches: int | Sequence[int] | None, channels: Sequence[int]
) -> list[igcnet_blocks.Options]:
    """The options of the blocks of each stage; `channels` are the input channels and those of each stage."""
    if spatial_branches is None:
        if options.kind.grouped:
            _checks.divides("width / 2", options.width // 2, "`stem_filters`", channels[0])
        return [options] * STAGES
    counts = base.per_stage("spatial_branches", spatial_branches, STAGES)
    stages = [dataclasses.replace(options, spatial_branches=count) for count in counts]
    for count, *read_and_made in zip(counts, channels, channels[1:], strict=False):
        for number in read_and_made:
            _checks.divides("spatial_branches", count, "the channels of a 3x3 convolution", number)
    return stages


@checked
def IGCNet(
    *,
    block: str = "igcv2",
    width: int = 64,
    branch_channels: Sequence[Sequence[int]] | None = None,
    spatial_branches: int | Sequence[int] | None = None,
    blocks_per_stage: int | Sequence[int] = 2,
    stem_filters: int | None = None,
    stem_strides: int | None = None,
    shortcut: str = "branches",
    widens: str = "last",
    norm_each: bool = False,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A residual network with three stages whose convolutions are products of sparse convolutions.

    A block consists of a 3x3 convolution and a 1x1 part, followed by batch normalization and ReLU; a shortcut spans two
    blocks. With B blocks in each stage, the paper defines the depth as `3B + 2`.

    Args:
        block: kind of block: `"xception"` (depthwise 3x3, dense 1x1), `"igcv1"` (3x3 with `width / 2` branches, then
            1x1 with branches of `width / 2` channels, each followed by a shuffle), `"igcv2"` (depthwise 3x3, then an
            `InterleavedGroupConv2D`), `"igcv2_i"` (like `"igcv2"`, with the 3x3 convolution of IGC-V1; in the paper,
            only for plain networks) or `"deep_roots"` (the 3x3 convolution of IGC-V1, dense 1x1; described in the
            paper's section 3.1, in none of its tables).
        width: int, number of output channels of the first of three stages, doubled in each later one (the paper's x);
            must be even unless `block="xception"`.
        branch_channels: with `"igcv2"` and `"igcv2_i"`, one tuple per stage as in `InterleavedGroupConv2D`, or `None`
            for `(8, 8, ...)` with the fewest entries that connect all channels of the stage (the paper's IGC-V2*);
            otherwise `None`. Alternatively five tuples: for stage 1, for the block that widens to stage 2, for the
            other blocks of stage 2, and so on; a widening block can have exactly one path only in this way. IGC-V2 C64
            and C80 have the same K twice in a block, as the paper's counts require, although it states that they
            satisfy the complementary condition, as `K` and `channels / K` would.
        spatial_branches: int, or a sequence with one entry per stage, number of branches of the 3x3 convolution with
            `"igcv1"`, `"igcv2_i"` and `"deep_roots"`; otherwise `None`. `None` selects `width / 2` in all stages. The
            paper's table 1 prints branches of two channels, `(width / 2, width, 2 * width)`; its counts, and the code
            of IGC-V1, match the default.
        blocks_per_stage: int, or a sequence with one entry per stage, number of blocks in each stage; multiples of 2.
        stem_filters: int, number of channels of the stem, at most `width`, or `None` for `width`; with `"igcv1"` and
            `"igcv2_i"`, `width` or half of it.
        stem_strides: int, strides of the stem, or `None` for 2 from 64x64 pixels on (as in the paper for Tiny ImageNet)
            and 1 for smaller images and unknown sizes.
        shortcut: shortcut of a stage that halves the image: a 1x1 convolution with `"branches"` (`width / 2` of them;
            dense with `"xception"`), with `"pairs"` (branches that read two channels) or `"dense"`; or `"pad"` (zero
            channels). The paper does not specify it; the first matches most of its counts. With `"xception"`, `"pairs"`
            and a larger width are more accurate at equal size (docs/results.md).
        widens: which convolution of an interleaved 1x1 part widens, `"last"` or `"first"`; `"first"` only with
            `"igcv2"`. The paper does not specify it.
        norm_each: bool, whether batch normalization follows each convolution of a block and not just the last. The
            paper does not specify it.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes.

    >>> model = IGCNet(width=16, branch_channels=((4, 4), (8, 4), (8, 8)), input_shape=(8, 8, 3), num_classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, section 4,
    tables 1, 3, 4 and 6.
    """
    options = igcnet_blocks.Options(block, width, norm_each, shortcut, widens)
    options.check_even()
    stem_filters = width if stem_filters is None else stem_filters
    _checks.positive("stem_filters", stem_filters)
    if stem_filters > width:
        raise ValueError(f"`stem_filters` (={stem_filters}) must be at most `width` (={width}).")
    counts = base.per_stage("blocks_per_stage", blocks_per_stage, STAGES)
    for count in counts:
        _checks.multiple("blocks_per_stage", count, 2)
    widths = [width * 2**stage for stage in range(STAGES)]
    branches = _branches_of_stages(branch_channels, widths, options)
    of_stages = _options_of_stages(options, spatial_branches, [stem_filters, *widths])
    frame = base.frame("igcnet", common)
    if stem_strides is None:
        shape = frame.input_shape if frame.input_tensor is None else frame.input_tensor.shape[1:]
        stem_strides = 2 if min(side or 0 for side in shape[:2]) >= LARGE_IMAGE else 1
    images = frame.images(total_stride=stem_strides * 2 ** (STAGES - 1))
    x = base.norm_relu(base.conv2d(images, stem_filters, 3, strides=stem_strides, name="stem"), "stem")
    stages = zip(of_stages, widths, branches, counts, strict=True)
    for stage, (stage_options, stage_width, (widening, sizes), count) in enumerate(stages, start=1):
        for index in range(1, count + 1, 2):
            strides = 2 if stage > 1 and index == 1 else 1
            pair_sizes = (widening if index == 1 else sizes, sizes)
            names = [f"stage{stage}_block{place}" for place in (index, index + 1)]
            x = igcnet_blocks.pair(x, stage_width, strides, pair_sizes, stage_options, names)
    return frame.network(images, frame.head(x))


@checked
def PlainIGCNet(
    *,
    block: str = "igcv2",
    width: int = 144,
    branch_channels: Sequence[int] | None = None,
    spatial_branches: int | None = None,
    blocks_per_stage: int = 6,
    norm_each: bool = False,
    **common: Unpack[base.CommonArguments],
) -> keras.Model:
    """A stem and a sequence of blocks of one width at full image resolution, without shortcuts.

    Args:
        block: as in `IGCNet`.
        width: int, number of channels of the stem and all blocks (the paper's C); must be even with `"igcv1"` and
            `"igcv2_i"`.
        branch_channels: with `"igcv2"` and `"igcv2_i"`, a tuple as in `InterleavedGroupConv2D`, or `None` for
            `(8, 8, ...)` with the fewest entries that connect all channels; otherwise `None`.
        spatial_branches: int, as in `IGCNet`.
        blocks_per_stage: int, number of blocks; there is one stage.
        norm_each: as in `IGCNet`.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes.

    >>> model = PlainIGCNet(width=16, branch_channels=(4, 4), blocks_per_stage=1, input_shape=(8, 8, 3), num_classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: Xie et al., "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018, sections 4.2 to
    4.4, tables 2 and 5.
    """
    options = igcnet_blocks.Options(block, width, norm_each, spatial_branches=spatial_branches)
    if spatial_branches is not None:
        _checks.divides("spatial_branches", spatial_branches, "`width`", width)
    _checks.positive("blocks_per_stage", blocks_per_stage)
    sizes = options.branch_channels(branch_channels, width)
    frame = base.frame("plain_igcnet", common)
    images = frame.images(total_stride=1)
    x = base.norm_relu(base.conv2d(images, width, 3, name="stem"), "stem")
    for index in range(1, blocks_per_stage + 1):
        place = f"block{index}"
        x = base.norm_relu(igcnet_blocks.block(x, width, 1, sizes, options, place), place)
    return frame.network(images, frame.head(x))
