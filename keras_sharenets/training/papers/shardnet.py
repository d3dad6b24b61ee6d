"""Tables and figures of ShardNet: "One filter set to rule them all", submission to ICLR 2020.

Accuracies are in percent. Parameters count convolutions including biases: |W_conv| in the paper.
"""

from keras_sharenets.training.papers.entries import Entry, Paper, Row, rows

_OF_A_NETWORK = "A diagram of networks or blocks; involves no training."
_LAYERS = "The architectures, layer by layer; involves no training. `sharenets describe NAME` shows our networks."
_PARAMETERS = {
    "E-VGGNet": {32: "112K", 64: "445K", 128: "1.8M", 256: "7.1M", 320: "11.1M", 512: "28M"},
    "S-VGGNet": {32: "9.3K", 64: "37K", 128: "148K", 256: "590K", 320: "922K", 512: "2.4M"},
    "SL-VGGNet": {32: "13.3K", 64: "53.3K", 128: "213K", 256: "852K", 320: "1.3M", 512: "3.4M"},
}
_E, _S, _SL = _PARAMETERS
_OTHERS = "quoted from another paper; not in this library"


def _vggnets(data: str, printed: dict[str, dict[int, str]]) -> tuple[Row, ...]:
    """Rows ordered by width; `printed` has the accuracies of each kind by width."""
    made = []
    for width in printed[_E]:
        for kind, accuracies in printed.items():
            network = f"{kind.lower().replace('-', '_')}_{width}"
            parameters, more = _PARAMETERS[kind][width], {data: accuracies[width], "series": kind}
            made += rows(f"{kind} (n = {width})", network, parameters, **more)
    return tuple(made)


_ON_CIFAR10 = _vggnets(
    "cifar10",
    {
        _E: {32: "87.2", 64: "91.2", 128: "93.0", 256: "94.1", 512: "94.5"},
        _S: {32: "73.6", 64: "85.5", 128: "90.7", 256: "92.8", 512: "93.7"},
        _SL: {32: "74.7", 64: "87.7", 128: "91.3", 256: "93.5", 512: "94.5"},
    },
)
_ON_CIFAR100 = _vggnets(
    "cifar100",
    {
        _E: {64: "64.4", 128: "70.8", 256: "74.6", 320: "75.3", 512: "76.9"},
        _S: {64: "41.1", 128: "59.1", 256: "67.2", 320: "68.7", 512: "72.5"},
        _SL: {64: "47.7", 128: "64.1", 256: "69.1", 320: "71.1", 512: "73.4"},
    },
)
_ON_TINY_IMAGENET = _vggnets(
    "tiny_imagenet",
    {
        _E: {64: "50.9", 128: "56.9", 256: "62.3", 320: "61.9", 512: "63.0"},
        _S: {64: "37.6", 128: "48.7", 256: "55.5", 320: "56.6", 512: "56.8"},
        _SL: {64: "41.5", 128: "52.7", 256: "57.6", 320: "58.3", 512: "59.7"},
    },
)
_VGGNET = {
    "cifar10": rows("VGGNet*", "vggnet", "14.7M", cifar10="93.9", series="VGGNet"),
    "cifar100": rows("VGGNet*", "vggnet", "14.7M", cifar100="74.3", series="VGGNet"),
    "tiny_imagenet": rows("VGGNet*", "vggnet", "14.7M", tiny_imagenet=("58.7", "81.4"), series="VGGNet"),
}
_TABLE1B = (
    *_VGGNET["cifar10"],
    *rows("Lego-VGGNet-16-w (o = 2, m = 0.5)", None, "3.7M", cifar10="93.23", note=_OTHERS),
    *rows("Lego-VGGNet-16-w (o = 4, m = 0.25)", None, "900K", cifar10="91.35", note=_OTHERS),
    *rows("SL2-VGGNet (n = 512)", "sl2_vggnet_512", "3.4M", cifar10="94.5"),
    *rows("SL3-VGGNet (n = 512)", "sl3_vggnet_512", "3.4M", cifar10="94.7"),
    *rows("SL2-VGGNet (n = 256)", "sl2_vggnet_256", "852K", cifar10="93.7"),
    *rows("SL3-VGGNet (n = 256)", "sl3_vggnet_256", "852K", cifar10="93.8"),
)
_TABLE1C = (
    *_VGGNET["cifar100"],
    *rows("SL2-VGGNet (n = 512)", "sl2_vggnet_512", "3.4M", cifar100="74.0"),
    *rows("SL3-VGGNet (n = 512)", "sl3_vggnet_512", "3.4M", cifar100="74.4"),
    *rows("SL2-VGGNet (n = 256)", "sl2_vggnet_256", "852K", cifar100="69.7"),
    *rows("SL3-VGGNet (n = 256)", "sl3_vggnet_256", "852K", cifar100="71.0"),
)
_TABLE1D = (
    *_VGGNET["tiny_imagenet"],
    *rows("SL2-VGGNet (n = 512)", "sl2_vggnet_512", "3.4M", tiny_imagenet=("59.4", "82.8")),
    *rows("SL2-VGGNet (n = 256)", "sl2_vggnet_256", "852K", tiny_imagenet=("53.4", "79.1")),
)
_TABLE2A = (
    *rows("ResNet-50*", "e_resnet_50", "26.8M", tiny_imagenet=("62.8", "84.1")),
    *rows("ResNet-34*", "e_resnet_34", "25.2M", tiny_imagenet=("60.0", "82.1")),
    *rows("SL-ResNet-50 (n = 512)", "sl_resnet_50_512", "18.5M", tiny_imagenet=("62.7", "84.5")),
    *rows("SL-ResNet-50 (n = 256)", "sl_resnet_50_256", "4.5M", tiny_imagenet=("60.3", "83.2")),
    *rows("SL-ResNet-34 (n = 512)", "sl_resnet_34_512", "3.2M", tiny_imagenet=("62.5", "83.8")),
    *rows("SL-ResNet-34 (n = 256)", "sl_resnet_34_256", "794K", tiny_imagenet=("56.2", "80.0")),
)
_NO_TOP1 = f"{_OTHERS}; our copy has one top-1 value for this row and the next, and it fits the next one better"
_TABLE2B = (
    *rows("SWRN 50-2", None, "69M", imagenet=("78.26", "94.05"), note=_OTHERS),
    *rows("ResNet-50", "e_resnet_50", "26.8M", imagenet=("77.15", "93.3")),
    *rows("ResNet-34", "e_resnet_34", "25.2M", imagenet=("75.5", "92.5")),
    *rows("ShaResNet-50", "sharesnet_50", "20.5M", imagenet=("75.39", "92.59"), note="quoted from ShaResNet"),
    *rows("ShaResNet-34", "sharesnet_34", "13.6M", imagenet=("71.75", "90.58"), note="quoted from ShaResNet"),
    *rows("Lego-Res50 (o = 2, m = 0.5)", None, "8.1M", imagenet=(None, "89.7"), note=_NO_TOP1),
    *rows("FSNet-ResNet-50", None, "4.5M", imagenet=("64.11", "85.94"), note=_OTHERS),
    *rows("SL-ResNet-50 (n = 512)", "sl_resnet_50_512", "18.1M", imagenet=("72.4", "91.4")),
    *rows("SL-ResNet-34 (n = 512)", "sl_resnet_34_512", "3.2M", imagenet=("69.7", "89.3")),
)


def _resnets(blocks: int, data: str, width: int, parameters: str, accuracy: str, **shared: str) -> tuple[Row, ...]:
    """A row of table 7: the unshared network and the shared ones, such as `n64="89.7"`."""
    made = rows(f"E{blocks}-ResNet", f"e{blocks}_resnet_{width}", parameters, **{data: accuracy}, series="E-ResNet")
    for key, printed in shared.items():
        label, network = f"SL{blocks}-ResNet (n = {key[1:]})", f"sl{blocks}_resnet_{key[1:]}"
        # The paper reports compression instead of parameters.
        made += rows(label, network, **{data: printed}, series=f"SL-ResNet (n = {key[1:]})")
    return made


_TABLE7A = (
    *_resnets(3, "cifar10", 16, "294K", "91.8", n64="89.7", n96="92.2", n128="93.1"),
    *_resnets(5, "cifar10", 16, "488K", "92.9", n64="90.1", n96="92.0", n128="93.0"),
    *_resnets(7, "cifar10", 16, "682K", "93.4", n64="89.6", n96="91.9", n128="93.2"),
)
_TABLE7B = (
    *_resnets(3, "cifar100", 32, "1.2M", "72.5", n128="68.1", n256="74.0"),
    *_resnets(5, "cifar100", 32, "1.9M", "74.1", n128="68.1", n256="74.8"),
    *_resnets(7, "cifar100", 32, "2.7M", "74.6", n128="70.1", n256="73.9"),
)
_WITH_STATISTICS = "quoted from another paper; the count includes moving statistics"
_TABLE8 = (
    *rows("ResNet-34", "resnet_34_cifar", "21.30M", cifar10="94.72", note=_WITH_STATISTICS),
    *rows("ResNet-18", "resnet_18_cifar", "11.18M", cifar10="94.18", note=_WITH_STATISTICS),
    *rows("ResNet*", "e7_resnet_16", "682K", cifar10="93.4"),
    *rows("FSNet-ResNet-18", None, "810K", cifar10="93.93", note=_OTHERS),
    *rows("FSNet-ResNet-34", None, "1.68M", cifar10="94.29", note=_OTHERS),
    *rows("FSNet-ResNet-50", None, "2.51M", cifar10="94.91", note=_OTHERS),
    *rows("ShaResNet-164", "sharesnet_164", "0.93M", cifar10="93.8", note="quoted from ShaResNet"),
    *rows("SL3-ResNet (n = 128)", "sl3_resnet_128", "181K", cifar10="93.1"),
)
_SL7_128 = rows("SL7-ResNet (n = 128)", "sl7_resnet_128", cifar10="93.2")
_SL7_256 = rows("SL7-ResNet (n = 256)", "sl7_resnet_256", cifar100="73.9")
_SL2_TINY = rows("SL2-VGGNet (n = 512)", "sl2_vggnet_512", "3.4M", tiny_imagenet=("59.4", "82.8"))
_SL50_TINY = rows("SL-ResNet-50 (n = 512)", "sl_resnet_50_512", "18.5M", tiny_imagenet=("62.7", "84.5"))
_BY_TABLE = "Points from {}, where the text gives numbers."


def _traded(data: str, networks: tuple[Row, ...], *kinds: str) -> tuple[Row, ...]:
    return (*_VGGNET[data], *(row for row in networks if row.series in kinds))


def _trade(key: str, networks: tuple[Row, ...], *kinds: str, table: str) -> Entry:
    """A figure of accuracy against compression."""
    (data,) = {row.data for row in networks}
    drawn = _traded(data, networks, *kinds)
    title = f"Accuracy against compression: {' and '.join(kinds)}"
    return Entry(key, title, drawn, _BY_TABLE.format(table), across="compression", baseline="vggnet")


PAPER = Paper(
    "ShardNet",
    (
        Entry("table1a", "VGGNets without sharing, with sharing, and with blending, by width", _ON_CIFAR10),
        Entry("table1b", "VGGNets and other compressed networks on CIFAR-10", _TABLE1B),
        Entry("table1c", "VGGNets on CIFAR-100", _TABLE1C),
        Entry("table1d", "VGGNets on Tiny ImageNet", _TABLE1D),
        Entry("table2a", "Deep ResNets on Tiny ImageNet", _TABLE2A),
        Entry("table2b", "Deep ResNets and other compressed networks on ImageNet", _TABLE2B),
        Entry("table3", "The VGGNets", note=_LAYERS),
        Entry("table4", "The ResNets for the CIFARs", note=_LAYERS),
        Entry("table5", "The deep ResNets", note=_LAYERS),
        Entry("table6a", "VGGNets by width, on CIFAR-100", _ON_CIFAR100),
        Entry(
            "table6b",
            "VGGNets by width, on Tiny ImageNet",
            _ON_TINY_IMAGENET,
            note="In our copy the columns from n = 256 are scrambled; we order them as E above SL above S.",
        ),
        Entry("table7a", "ResNets by blocks and width, on CIFAR-10", _TABLE7A),
        Entry("table7b", "ResNets by blocks and width, on CIFAR-100", _TABLE7B),
        Entry("table8", "The best ResNets and other compressed networks", _TABLE8),
        Entry("figure1", "A convolution that is called repeatedly", note=_OF_A_NETWORK),
        _trade("figure2a", _ON_CIFAR10, _S, table="table 1a"),
        _trade("figure2b", _ON_CIFAR100, _S, table="table 6a"),
        _trade("figure3a", _ON_CIFAR10, _S, _SL, table="table 1a"),
        _trade("figure3b", _ON_CIFAR100, _S, _SL, table="table 6a"),
        _trade("figure3c", _ON_TINY_IMAGENET, _S, _SL, table="table 6b"),
        Entry("figure4a", "Blending layers of a VGGNet", _TABLE1B[4:5], analysis="--blending"),
        Entry("figure4b", "Blending layers of a ResNet", _SL7_256, analysis="--blending"),
        Entry("figure5", "Pruning of blending weights", _SL50_TINY, analysis="--blending"),
        Entry("figure6", "Basic and bottleneck blocks, without and with sharing", note=_OF_A_NETWORK),
        Entry(
            "figure7",
            "Blending layers of three VGGNets",
            (*_TABLE1B[4:5], *_SL2_TINY),
            note="Our copy names only the third network; the first is that of figure 4.",
            analysis="--blending",
        ),
        Entry(
            "figure8",
            "Blending layers of four ResNets",
            (*_SL7_128, *_SL7_256, *_SL50_TINY),
            note="Our copy names only the last network; of the others, the first is our interpretation of the text.",
            analysis="--blending",
        ),
    ),
    recipes={"cifar10": "shardnet-cifar10", "cifar100": "shardnet-cifar100", "imagenet": "shardnet-imagenet"},
    ahead=(
        *((f"sl_vggnet_{width}", f"s_vggnet_{width}") for width in (32, 64, 128, 256, 512)),
        *((f"e_vggnet_{width}", f"s_vggnet_{width}") for width in (32, 64, 128, 256, 512)),
        *((f"sl{blocks}_resnet_128", f"sl{blocks}_resnet_64") for blocks in (3, 5, 7)),
    ),
)
