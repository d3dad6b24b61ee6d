"""Tables and figures of HSC-Net: "Highly shared Convolutional Neural Networks", Expert Systems with Applications 2021.

Accuracies are in percent and, according to the paper, means of 5 runs.
"""

from keras_sharenets.training.papers.entries import Entry, Paper, rows

_M96, _M128, _M160 = "hscnet_m96_g8_r4_a2", "hscnet_m128_g16_r8_a2", "hscnet_m160_g8_r4_a2"
_M128_R4, _M128_STAR = "hscnet_m128_g16_r4_a2", "hscnet_m128_g16_r8_a2_star"
_M192_STAR = "hscnet_m192_g16_r8_a2_star"
_MOBILE = {"cifar10": "mobile-cifar10", "cifar100": "mobile-cifar100"}
_QUOTED = "quoted from another paper"
_OF_A_MODULE = "A diagram of filters or a module; involves no training."


def _peer(label: str, network: str | None, parameters: str, **more):
    """The rows of a mobile network on the CIFARs, which the paper trains for more epochs than its own networks."""
    printed = {data: more.pop(data) for data in _MOBILE}
    return tuple(
        row
        for data, value in printed.items()
        for row in rows(label, network, parameters, recipe=_MOBILE[data], **{data: value}, **more)
    )


_TABLE1 = (
    *rows("WRN (k = 3)", "wrn_28_3", "3.5M", imagenet32=("48.94", "73.92")),
    *rows("HSC-Net-M96-G8-R4-a2", _M96, "1.4M", imagenet32=("49.32", "74.50")),
    *rows("WRN (k = 5)", "wrn_28_5", "9.5M", imagenet32=("54.54", "78.74"), note=_QUOTED),
    *rows("HSC-Net-M160-G8-R4-a2", _M160, "3.5M", imagenet32=("55.76", "79.25")),
    *rows("WRN (k = 10)", "wrn_28_10", "37.1M", imagenet32=("59.04", "81.13"), note=_QUOTED),
    *rows("HSC-Net-M224-G16-R8-a1.75", "hscnet_m224_g16_r8_a1_75", "7.0M", imagenet32=("58.98", "81.69")),
)
_TABLE2 = (
    *rows("MobileNetV2 1.0x", "mobilenet_v2_1_0", "3.5M", imagenet32="48.98"),
    *rows("IGCV3-D 1.0x", "igcv3_d_1_0", "3.5M", imagenet32="49.40"),
    *rows("ShuffleNetV2 2.0x", "shufflenet_v2_2_0", "7.5M", imagenet32="48.46"),
    *rows("HSC-Net-M96-G8-R4-a2", _M96, "1.4M", imagenet32="49.32"),
    *rows("HSC-Net-M128-G16-R8-a2", _M128, "2.3M", imagenet32="53.41"),
)
_TABLE3 = (
    *rows("ResNet-18 (pre-act)", "preact_resnet_18", "11.2M", cinic10="87.16", note=_QUOTED),
    *rows("MobileNetV1", "mobilenet_v1_1_0", "3.2M", cinic10="80.45", note=_QUOTED),
    *rows("MobileNetV2 (1.25x)", "mobilenet_v2_1_25", "3.8M", tiny_imagenet="59.55", cinic10="85.43"),
    *rows("IGCV3-D (1.25x)", "igcv3_d_1_25", "3.7M", tiny_imagenet="59.94", cinic10="85.35"),
    *rows("ShuffleNetV2 (2.0x)", "shufflenet_v2_2_0", "5.5M", tiny_imagenet="59.17", cinic10="83.94"),
    *rows("HSC-Net-M128-G16-R4-a2", _M128_R4, "1.8M", tiny_imagenet="65.81", cinic10="87.99"),
)
_NO_IGCV2 = f"{_QUOTED}; the IGC-V2 paper has no network with 2.3M parameters"
_TABLE4 = (
    *_peer("MobileNetV2", "mobilenet_v2_1_0", "2.3M", cifar10="94.56", cifar100="77.09", note=_QUOTED),
    *_peer("IGCV2", None, "2.3M", cifar10="94.76", cifar100="77.45", note=_NO_IGCV2),
    *_peer("IGCV3-D 1.0x", "igcv3_d_1_0", "2.4M", cifar10="94.96", cifar100="77.95", note=_QUOTED),
    *_peer("ShuffleNetV2 2.0x", "shufflenet_v2_2_0", "5.5M", cifar10="93.77", cifar100="75.17"),
    *rows("HSC-Net-M128-G16-R8-a2", _M128, "1.8M", cifar10="95.92", cifar100="78.28"),
    *rows("HSC-Net-M192-G16-R8-a2 star", _M192_STAR, "3.2M", cifar10="96.05", cifar100="80.01"),
)
_QUOTED_480 = f"{_QUOTED}, trained for 480 epochs; the usual definition has fewer parameters"
_QUOTED_250 = f"{_QUOTED}, trained for 250 epochs; the squeeze-excite reduction is our choice"
_TABLE5 = (
    *rows("ResNet-101 (1 x 64d)", "resnet_101", "44.5M", imagenet="78.0", note=_QUOTED),
    *rows("MobileNetV2 1.4x", "mobilenet_v2_1_4", "6.9M", imagenet="74.7", note=_QUOTED_480),
    *rows("IGCV3 1.4x", "igcv3_d_1_4", "7.2M", imagenet="74.5", note=_QUOTED_480),
    *rows("SE-ShuffleNetV2 2.0x", "se_shufflenet_v2_2_0", "8.8M", imagenet="75.4", note=_QUOTED_250),
    *rows("HSC-Net-M160", "hscnet_m160_imagenet", "7.2M", imagenet="74.2", note="G, R and alpha are our choice"),
)
_WRN_K4 = rows("WRN (k = 4)", "wrn_28_4", cifar10=None)
_WRN_K8 = rows("WRN (k = 8)", "wrn_28_8", cifar10=None)
_FIGURE6 = (
    *rows("HSC-Net-M128-G16-R8-a2", _M128, cifar10=None, cifar100=None),
    *rows("WRN (k = 8)", "wrn_28_8", cifar10=None, cifar100=None),
)
_FIGURE7 = (
    *rows("HSC-Net-M128-G16-R8-a2", _M128, "1.8M", cifar10="95.92"),
    *rows("WRN (k = 8)", "wrn_28_8", "23.4M", cifar10="95.80"),
)
_STAR = rows("HFS-Net-M128-G16-R8-star", _M128_STAR, cifar10=None)

PAPER = Paper(
    "HSC-Net",
    (
        Entry("table1", "HSC-Nets and wide ResNets of similar accuracy", _TABLE1),
        Entry(
            "table2",
            "HSC-Nets and other mobile networks",
            _TABLE2,
            note="Training hours and milliseconds depend on the machine: use `sharenets benchmark` to measure yours.",
        ),
        Entry(
            "table3",
            "HSC-Nets and other networks on Tiny ImageNet and CINIC-10",
            _TABLE3,
            note="The paper gives one count for both data sets: with 200 classes for some networks, else with 10.",
        ),
        Entry("table4", "HSC-Nets and other mobile networks on the CIFARs", _TABLE4),
        Entry(
            "table5",
            "HSC-Net and other networks on ImageNet",
            _TABLE5,
            note="Except for epochs and batch size, the ImageNet recipe is our choice. Milliseconds as in table 2.",
        ),
        Entry("figure1", "Regular, group, channel-repeated and arranged convolutions", note=_OF_A_MODULE),
        Entry("figure2", "Distribution of the weights of two wide ResNets", (*_WRN_K4, *_WRN_K8), analysis="--weights"),
        Entry("figure3", "The most activated filters of stage 1, by class", _WRN_K4, analysis="--activations"),
        Entry("figure4", "An arranged filter", note=_OF_A_MODULE),
        Entry("figure5", "The module of an HSC-Net", note=_OF_A_MODULE),
        Entry(
            "figure6",
            "Distribution of the l1 norms of filters",
            _FIGURE6,
            note="The paper does not name the networks. We use those of figure 7.",
            analysis="--weights",
        ),
        Entry("figure7", "Feature maps that are active for nearly all images", _FIGURE7, analysis="--activations"),
        Entry(
            "figure8",
            "The most activated filters of stage 1, original and arranged",
            _STAR,
            note="The paper shows the strongest 48 of 128: `--part 0.375`.",
            analysis="--activations --part 0.375",
        ),
        Entry("figure9", "The filters of stage 1 that contribute most", _STAR, analysis="--filters"),
    ),
    recipes={
        "cifar10": "hscnet-cifar10",
        "cifar100": "hscnet-cifar100",
        "imagenet32": "hscnet-imagenet32",
        "tiny_imagenet": "hscnet-tiny-imagenet",
        "cinic10": "hscnet-cinic10",
        "imagenet": "hscnet-imagenet",
    },
    ahead=((_M192_STAR, _M128), *((_M128, f) for f in ("mobilenet_v2_1_0", "igcv3_d_1_0", "shufflenet_v2_2_0"))),
)
