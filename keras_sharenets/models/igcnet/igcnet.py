"""IGC-V2: "Interleaved Structured Sparse Convolutional Neural Networks", Xie et al., CVPR 2018.

With it come Xception and IGC-V1 as that paper builds them, for the same widths, depths and shortcuts.

The paper leaves shortcuts, the block that widens and normalization inside a block open; ours are those that agree with
its counts. It counts the kernels of convolutions alone, the stem's and the shortcuts' among them.
"""

from keras_sharenets import _checks
from keras_sharenets.models import parts
from keras_sharenets.models.igcnet import blocks as igcnet_blocks
from keras_sharenets.models.igcnet.plain_igcnet import PlainIGCNet
from keras_sharenets.models.variant import Form, Variant

STAGES = 3


def _branches_of_stages(branch_channels, widths, options):
    """The branches of the 1x1 parts of every stage."""
    if branch_channels is None:
        return [options.branch_channels(None, width) for width in widths]
    if not isinstance(branch_channels, (tuple, list)) or len(branch_channels) != len(widths):
        raise ValueError(
            f"`branch_channels` (={branch_channels!r}) must be one tuple for each of the {len(widths)} stages."
        )
    return [options.branch_channels(sizes, width) for sizes, width in zip(branch_channels, widths, strict=True)]


def IGCNet(
    *,
    block="igcv2",
    width=64,
    branch_channels=None,
    blocks_per_stage=2,
    stem_filters=None,
    stem_strides=1,
    norm_each=False,
    input_shape=(32, 32, 3),
    num_classes=10,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    name="igcnet",
):
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
        stem_strides: int, stride of the stem; 2 for the 64x64 images of Tiny ImageNet.
        norm_each: bool, whether batch normalization follows each convolution of a block, and not just the last. Open in
            the paper.
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
    _checks.positive("stem_strides", stem_strides)
    if stem_filters > width:
        raise ValueError(f"`stem_filters` (={stem_filters}) must be at most `width` (={width}).")
    if options.kind.grouped:
        _checks.divides("width / 2", width // 2, "`stem_filters`", stem_filters)
    counts = parts.per_stage("blocks_per_stage", blocks_per_stage, STAGES)
    for count in counts:
        _checks.divides("2", 2, "`blocks_per_stage`", count)
    widths = [width * 2**stage for stage in range(STAGES)]
    branches = _branches_of_stages(branch_channels, widths, options)
    inputs = parts.input_for(input_tensor, input_shape, total_stride=stem_strides * 2 ** (STAGES - 1))
    x = parts.norm_relu(parts.conv2d(inputs, stem_filters, 3, stem_strides, name="stem"), "stem")
    for stage, (stage_width, sizes, count) in enumerate(zip(widths, branches, counts, strict=True), start=1):
        for index in range(1, count + 1, 2):
            strides = 2 if stage > 1 and index == 1 else 1
            names = [f"stage{stage}_block{place}" for place in (index, index + 1)]
            x = igcnet_blocks.pair(x, stage_width, strides, sizes, options, *names)
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)


def _variants(name, block, width, figures, **more):
    """The networks of one width, their names ending with the depth: `figures` has what the paper prints for each."""
    variants = {}
    for depth, paper_figure in figures.items():
        arguments = {"block": block, "width": width, "blocks_per_stage": (depth - 2) // STAGES, **more}
        forms = (Form(100, paper_figure=paper_figure),)
        variants[f"{name}_d{depth}"] = Variant(IGCNet, arguments, forms, "conv_kernels")
    return variants


def _plain(block, width, branch_channels, weights, printed):
    arguments = {"block": block, "width": width, "branch_channels": branch_channels}
    note = f"a block has {weights:,} weights; the paper prints about {printed:,}"
    return Variant(PlainIGCNet, arguments, (Form(100),), "conv_kernels", note)


def _squares(*sizes):
    return tuple((size, size) for size in sizes)


VARIANTS = {
    **_variants("xception_c35", "xception", 35, {8: "0.056M", 20: "0.168M", 26: "0.223M"}),
    **_variants(
        "igcv2_c64", "igcv2", 64, {8: "0.047M", 20: "0.149M", 26: "0.200M"}, branch_channels=_squares(8, 16, 32)
    ),
    **_variants("igcv1_c48", "igcv1", 48, {8: "0.046M", 20: "0.151M", 26: "0.203M"}),
    **_variants(
        "igcv2_c80", "igcv2", 80, {8: "0.046M", 20: "0.144M", 26: "0.193M"}, branch_channels=_squares(10, 16, 20)
    ),
    **_variants("xception_c58", "xception", 58, {20: "0.44M"}, stem_filters=35),
    **_variants("xception_c71", "xception", 71, {20: "0.66M"}, stem_filters=35),
    **_variants("xception_c83", "xception", 83, {20: "0.89M"}, stem_filters=35),
    **_variants("igcv1_c96", "igcv1", 96, {20: "0.40M"}),
    **_variants("igcv1_c126", "igcv1", 126, {20: "0.60M"}),
    **_variants("igcv1_c150", "igcv1", 150, {20: "0.79M"}),
    **_variants("igcv2_star_c216", "igcv2", 216, {20: "0.32M"}, stem_filters=64),
    **_variants("igcv2_star_c304", "igcv2", 304, {20: "0.48M"}, stem_filters=64),
    **_variants("igcv2_star_c416", "igcv2", 416, {20: "0.65M"}, stem_filters=64),
    "plain_xception_c64": _plain("xception", 64, None, 4_672, 4_700),
    "plain_igcv2_c144_k12": _plain("igcv2", 144, (12, 12), 4_752, 4_700),
    "plain_xception_c96": _plain("xception", 96, None, 10_080, 10_000),
    "plain_igcv2_c256_k16": _plain("igcv2", 256, (16, 16), 10_496, 10_000),
    "plain_xception_c128": _plain("xception", 128, None, 17_536, 17_000),
    "plain_igcv2_c361_k19": _plain("igcv2", 361, (19, 19), 16_967, 17_000),
    "plain_igcv1_c64": _plain("igcv1", 64, None, 3_200, 3_000),
    "plain_igcv2_i_c98_k7": _plain("igcv2_i", 98, (7, 7), 3_136, 3_000),
    "plain_igcv2_ii_c100_k10": _plain("igcv2", 100, (10, 10), 2_900, 3_000),
    "plain_igcv1_c96": _plain("igcv1", 96, None, 6_336, 6_000),
    "plain_igcv2_i_c162_k9": _plain("igcv2_i", 162, (9, 9), 5_832, 6_000),
    "plain_igcv2_ii_c169_k13": _plain("igcv2", 169, (13, 13), 5_915, 6_000),
    "plain_igcv1_c128": _plain("igcv1", 128, None, 10_496, 10_000),
    "plain_igcv2_i_c242_k11": _plain("igcv2_i", 242, (11, 11), 9_680, 10_000),
}
