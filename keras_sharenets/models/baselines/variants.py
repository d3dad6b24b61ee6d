"""The mobile networks that the papers compare with, by name."""

from keras_sharenets.models.baselines.igcv3 import IGCV3
from keras_sharenets.models.baselines.mobilenet_v2 import MobileNetV2
from keras_sharenets.models.baselines.shufflenet_v2 import ShuffleNetV2
from keras_sharenets.models.variant import Form, Variant


def _imagenet32(paper_figure):
    return Form(1000, paper_figure=paper_figure)


VARIANTS = {
    "mobilenet_v2_1_0": Variant(
        MobileNetV2,
        {"width_multiplier": 1.0},
        (_imagenet32("3.5M"), Form(10, paper_figure="2.3M"), Form(100, paper_figure="2.3M")),
        note="strides for small images, here and below, are those usual on CIFAR: the paper gives none",
    ),
    "igcv3_d_1_0": Variant(
        IGCV3,
        {"width_multiplier": 1.0},
        (_imagenet32("3.5M"), Form(10), Form(100, paper_figure="2.4M")),
        note="the paper's 2.4M for both CIFARs is the count at 100 classes with moving statistics (2,403,332)",
    ),
    "shufflenet_v2_2_0": Variant(
        ShuffleNetV2,
        {},
        (_imagenet32("7.5M"), Form(10, paper_figure="5.5M"), Form(100, paper_figure="5.5M")),
        note="7.5M is more than the 2.0x of its own paper has",
    ),
}
