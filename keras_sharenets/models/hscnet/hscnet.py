"""HSC-Net: "Highly shared Convolutional Neural Networks", Lu et al., Expert Systems with Applications 2021.

The paper leaves its transition modules, shortcuts, stem and batch normalization open. Each such choice is a keyword of
`HSCNet`; the defaults are those under which the parameter counts agree with the paper's.
"""

import dataclasses
from collections.abc import Sequence

from keras_sharenets import _checks
from keras_sharenets.layers import PaddedMaxPooling2D
from keras_sharenets.models import parts
from keras_sharenets.models.hscnet.module import Options, module
from keras_sharenets.models.variant import Form, Variant


def _stem(x, kind, filters, options):
    kernel_size, strides = (7, 2) if kind == "imagenet" else (3, 1)
    x = parts.conv2d(x, filters, kernel_size, strides, kernel_initializer=options.kernel_initializer, name="stem")
    return PaddedMaxPooling2D(3, strides=2, name="stem_pool")(x) if kind == "imagenet" else x


def _stage_widths(width):
    """The width of every stage: three doubling ones from a single number."""
    widths = tuple(width) if isinstance(width, Sequence) else (width,)
    for stage_width in widths:
        _checks.positive("width", stage_width)
    return widths if isinstance(width, Sequence) else (width, 2 * width, 4 * width)


def HSCNet(
    *,
    width=128,
    groups=16,
    channel_repeats=8,
    arrangements=2,
    modules_per_stage=4,
    alpha=2,
    star=False,
    input_shape=(32, 32, 3),
    num_classes=10,
    include_top=True,
    pooling=None,
    classifier_activation="softmax",
    input_tensor=None,
    stem="cifar",
    stem_filters=16,
    shuffle_groups=2,
    arrange_first_expand=True,
    arrange_group_pointwise=False,
    arrange_in_transition="expand",
    share_in_transition=True,
    spatial_order="group_major",
    stride_on="spatial",
    shortcut="projection",
    projection_input="activated",
    dropout=0.0,
    kernel_initializer="he_normal",
    name="hscnet",
):
    """A highly shared convolutional network.

    A module has two general layers: a 1x1 convolution to the bottleneck (theta1, shared by both and arranged), a 3x3
    group convolution (theta4: repeated, shared and arranged) plus a 1x1 group convolution (theta5, shared), and a 1x1
    convolution back (theta2 in the first, arranged; theta3 in the second). Batch normalization is never shared.

    Args:
        width: int, output channels of the first of three stages, doubled in each later one (the paper's M); or a
            sequence with the width of every stage, never falling with `shortcut="pad"`.
        groups: int, groups of the 3x3 convolution (G); must divide the bottleneck of every stage.
        channel_repeats: int, uses of each group filter along the channels (R); must divide `groups`.
        arrangements: int, uses of each arranged filter (T); must divide the bottleneck channels per group.
        modules_per_stage: int, or a sequence with one entry a stage (B).
        alpha: number, stage width divided by bottleneck width.
        star: bool, whether the last 1x1 convolution of each module (theta3) is arranged too.
        input_shape: `(height, width, channels)`; height and width may be `None`.
        num_classes: int.
        include_top: bool, whether the classifier is there.
        pooling: without the top, `None` for feature maps, `"avg"` or `"max"` for one vector per image.
        classifier_activation: activation of the classifier; `None` for logits.
        input_tensor: optional Keras tensor to build on, for example the output of `keras.layers.Normalization`;
            replaces `input_shape`.
        stem: `"cifar"` (3x3) or `"imagenet"` (7x7 at stride 2, max pooling).
        stem_filters: int, channels of the stem. Open in the paper; 16 as in WideResNet.
        shuffle_groups: int, rows of the shuffle that arranges filters. Open in the paper.
        arrange_first_expand: bool, whether theta2 is arranged. The unstarred counts need it.
        arrange_group_pointwise: bool, whether theta5 is arranged. Open in the paper.
        arrange_in_transition: which 1x1 convolution of a transition is arranged: `"expand"` (theta2) or `"reduce"` (the
            second theta1). Open in the paper; the count is the same.
        share_in_transition: bool, whether both general layers of a transition share theta4 and theta5. Open in the
            paper.
        spatial_order: order of theta4's output channels: `"group_major"`, or `"arrangement_major"` (all base filters
            before all arranged ones). Open in the paper.
        stride_on: the strided convolution of a transition: `"spatial"` (theta4 and theta5) or `"reduce"` (theta1). Open
            in the paper.
        shortcut: `"projection"` (a 1x1 convolution where the width changes) or `"pad"` (channels of zeros; theta1 is
            then shared in transitions too). Open in the paper.
        projection_input: `"activated"` or `"raw"`. Open in the paper.
        dropout: float, rate of the dropout between the general layers of a module. The paper mentions none.
        kernel_initializer: initializer of all kernels; its fan-in is that of the full kernel.
        name: name of the model.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: an argument breaks a rule above; the message names it, its value and the rule.

    >>> model = HSCNet(width=32, groups=4, channel_repeats=2, modules_per_stage=1, num_classes=10)
    >>> model.output_shape
    (None, 10)

    Reference: Lu et al., "Highly shared Convolutional Neural Networks", Expert Systems with Applications 2021,
    algorithm 1, figure 5 and tables 1 to 5.
    """
    given = locals()
    options = Options(**{field.name: given[field.name] for field in dataclasses.fields(Options)})
    _checks.one_of("stem", stem, ("cifar", "imagenet"))
    _checks.positive("stem_filters", stem_filters)
    widths = _stage_widths(width)
    if shortcut == "pad" and stem_filters > widths[0]:
        raise ValueError(f"`stem_filters` (={stem_filters}) must be at most the first stage's width (={widths[0]}).")
    counts = parts.per_stage("modules_per_stage", modules_per_stage, len(widths))
    total_stride = 2 ** (len(widths) - 1) * (4 if stem == "imagenet" else 1)
    inputs = parts.input_for(input_tensor, input_shape, total_stride)
    x = _stem(inputs, stem, stem_filters, options)
    for stage, (stage_width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        for index in range(1, count + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            x = module(x, stage_width, strides, options, f"stage{stage}_module{index}")
    x = parts.norm_relu(x, "head")
    outputs = parts.classifier(x, include_top, pooling, num_classes, classifier_activation)
    return parts.network(inputs, outputs, name)


_OURS = (Form(),)


def _variant(width, groups, channel_repeats, alpha=2, star=False, *, forms=_OURS, note="", **more):
    sharing = {"width": width, "groups": groups, "channel_repeats": channel_repeats, "alpha": alpha, "star": star}
    return Variant(HSCNet, {**sharing, **more}, forms, note=note)


def _imagenet32(paper_figure):
    return Form(1000, paper_figure=paper_figure)


_CIFAR = (Form(10, paper_figure="1.8M"), Form(100, paper_figure="1.8M"))
_STAR = (Form(10, paper_figure="3.2M"), Form(100, paper_figure="3.2M"))
_IMAGENET = {"stem": "imagenet", "stem_filters": 64, "modules_per_stage": (3, 3, 2, 2)}

VARIANTS = {
    "hscnet_m96_g8_r4_a2": _variant(96, 8, 4, forms=(_imagenet32("1.4M"),)),
    "hscnet_m128_g16_r8_a2": _variant(128, 16, 8, forms=(*_CIFAR, _imagenet32("2.3M"))),
    "hscnet_m160_g8_r4_a2": _variant(160, 8, 4, forms=(_imagenet32("3.5M"),)),
    "hscnet_m224_g16_r8_a1_75": _variant(224, 16, 8, 1.75, forms=(_imagenet32("7.0M"),)),
    "hscnet_m128_g16_r4_a2": _variant(128, 16, 4, forms=(Form(paper_figure="1.8M"),)),
    "hscnet_m128_g16_r8_a2_star": _variant(128, 16, 8, star=True, note="figure 8; in no table of the paper"),
    "hscnet_m192_g16_r8_a2_star": _variant(192, 16, 8, star=True, forms=_STAR),
    "hscnet_m160_imagenet": _variant(
        (160, 320, 480, 1120),
        8,
        4,
        5 / 3,
        forms=(Form(1000, (224, 224, 3), "7.2M"),),
        note="G, R and alpha are ours",
        **_IMAGENET,
    ),
    "hscnet_m64_g8_r4_b2_a2": _variant(64, 8, 4, modules_per_stage=2, note="ours: small enough to train on a CPU"),
    "hscnet_m32_g4_r2_b1_a2": _variant(32, 4, 2, modules_per_stage=1, note="ours: for the demo"),
}
