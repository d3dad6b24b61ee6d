"""Tables and figures of ShaResNet: "reducing residual network parameter number by sharing weights", PRL 2018.

For the CIFARs the paper reports accuracies, although its table 2 calls them errors; for ImageNet, error rates.
"""

from keras_sharenets.training.papers.entries import Entry, Paper, Row, rows

_OF_A_BLOCK = "A diagram of blocks that share a convolution; involves no training."
_QUOTED = "not trained in the paper: the number comes from the trainer that the paper names"


def _pair(name: str, data: str, unshared: tuple[str, ...], shared: tuple[str, ...], **more) -> tuple[Row, ...]:
    """A network without and with sharing: names, published parameters and accuracies."""
    (network, parameters, *accuracies), (network_shared, parameters_shared, *accuracies_shared) = unshared, shared
    printed, printed_shared = (tuple(each) if each else None for each in (accuracies, accuracies_shared))
    note = {"note": _QUOTED} if data == "imagenet" and printed else {}
    return (
        *rows(name, network, parameters, **{data: printed}, series="ResNet", **note, **more),
        *rows(f"{name} Share", network_shared, parameters_shared, **{data: printed_shared}, series="ShaResNet", **more),
    )


_COUNTED = (
    *_pair("ResNet-164", "cifar10", ("resnet_164", "1.70M"), ("sharesnet_164", "0.93M")),
    *_pair("WRN-40-4", "cifar10", ("wrn_40_4", "8.95M"), ("sha_wrn_40_4", "5.85M")),
    *_pair("WRN-28-10", "cifar100", ("wrn_28_10", "36.54M"), ("sha_wrn_28_10", "26.86M")),
    *_pair("ResNet-34", "imagenet", ("resnet_34", "21.8M"), ("sharesnet_34", "13.6M")),
    *_pair("ResNet-50", "imagenet", ("resnet_50", "25.6M"), ("sharesnet_50", "20.5M")),
    *_pair("ResNet-101", "imagenet", ("resnet_101", "44.5M"), ("sharesnet_101", "29.4M")),
    *_pair("ResNet-152", "imagenet", ("resnet_152", "60.2M"), ("sharesnet_152", "36.8M")),
)
_RESNETS = (
    ("ResNet-34", ("resnet_34", "21.8M", "26.73", "8.74"), ("sharesnet_34", "13.6M", "28.25", "9.42")),
    ("ResNet-50", ("resnet_50", "25.6M", "24.01", "7.02"), ("sharesnet_50", "20.5M", "24.61", "7.41")),
    ("ResNet-101", ("resnet_101", "44.5M", "22.44", "6.21"), ("sharesnet_101", "29.4M", "22.91", "6.55")),
    ("ResNet-152", ("resnet_152", "60.2M", "22.16", "6.16"), ("sharesnet_152", "36.8M", "22.23", "6.14")),
)
_ON_IMAGENET = tuple(
    row for name, unshared, shared in _RESNETS for row in _pair(name, "imagenet", unshared, shared, is_error=True)
)
_DROPOUT, _NO_DROPOUT = "sharesnet-cifar100-wide", "sharesnet-cifar100"
_TABLE2 = (
    *rows("ResNet-164", "resnet_164", "1.70M", cifar10="94.54", series="ResNet"),
    *rows("ResNet-164 Share", "sharesnet_164", "0.93M", cifar10="93.8", series="ShaResNet"),
    *rows("WRN-40-4", "wrn_40_4", "8.95M", cifar10="95.83", series="ResNet"),
    *rows("WRN-40-4 Share", "sha_wrn_40_4", "5.85M", cifar10="94.9", series="ShaResNet"),
    *rows("WRN-28-10 Drop.", "wrn_28_10", "36.54M", cifar100="80", recipe=_DROPOUT, series="ResNet"),
    *rows("WRN-28-10 Drop. Share", "sha_wrn_28_10", "26.86M", cifar100="79.8", recipe=_DROPOUT, series="ShaResNet"),
    *_ON_IMAGENET,
)
_TABLE3 = (
    *rows("ResNet-164 Share", "sharesnet_164", "0.93M", cifar10="93.8", series="ShaResNet"),
    *rows("ResNet-92", "resnet_92", "0.96M", cifar10="93.9", series="ResNet"),
    *rows("WRN-40-4 Share", "sha_wrn_40_4", "5.85M", cifar10="94.9", series="ShaResNet"),
    *rows("WRN-28-4", "wrn_28_4", "5.85M", cifar10="95.0", series="ResNet"),
    *rows("WRN-28-10 Share", "sha_wrn_28_10", "26.86M", cifar100="79.8", recipe=_DROPOUT, series="ShaResNet"),
    *rows("WRN-22-10", "wrn_22_10", "26.85M", cifar100="79.55", recipe=_DROPOUT, series="ResNet"),
)
_FIGURE4 = (
    *rows("ResNet-164", "resnet_164_post", cifar10=None),
    *rows("ResNet-164 Share", "sharesnet_164_post", cifar10=None),
    *rows("ResNet-164, pre-activation", "resnet_164", cifar10=None),
    *rows("ResNet-164 Share, pre-activation", "sharesnet_164", cifar10=None),
    *rows("WRN-28-10 Drop.", "wrn_28_10", cifar100=None, recipe=_DROPOUT),
    *rows("WRN-28-10 Drop. Share", "sha_wrn_28_10", cifar100=None, recipe=_DROPOUT),
    *rows("WRN-28-10", "wrn_28_10", cifar100=None, recipe=_NO_DROPOUT),
    *rows("WRN-28-10 Share", "sha_wrn_28_10", cifar100=None, recipe=_NO_DROPOUT),
)
_INCEPTION = rows("Inception v2", None, imagenet=None, note="this library has no Inception v2")

PAPER = Paper(
    "ShaResNet",
    (
        Entry(
            "table1",
            "Parameters without and with sharing",
            _COUNTED,
            note="`keras_sharenets.models.sharesnet.nominal_convolutions` gives its numbers of convolutions.",
        ),
        Entry(
            "table2",
            "Accuracy without and with sharing",
            _TABLE2,
            note="The table calls all numbers errors; those for the CIFARs are accuracies. The difference for "
            "ResNet-34 is 1.52 points, printed as 0.52.",
        ),
        Entry("table3", "Networks with sharing and unshared networks of similar size", _TABLE3),
        Entry("figure1", "A residual network that shares a convolution in each stage", note=_OF_A_BLOCK),
        Entry("figure2", "Four residual blocks", note=_OF_A_BLOCK),
        Entry("figure3", "The shared part of a block", note=_OF_A_BLOCK),
        Entry(
            "figure4",
            "Test accuracy, epoch by epoch",
            _FIGURE4,
            across="epochs",
            note="Means and deviations over 5 runs of ResNet-164 and 6 of WRN-28-10. Without dropout, the recipe of "
            "other networks on CIFAR-100 is used.",
        ),
        Entry(
            "figure5",
            "Error on ImageNet against parameters",
            (*_ON_IMAGENET, *_INCEPTION),
            note="Numbers from table 2.",
        ),
    ),
    recipes={"cifar10": "sharesnet-cifar10", "imagenet": "sharesnet-imagenet"},
    ahead=(
        *((name, f"sha_{name}") for name in ("wrn_40_4", "wrn_28_10")),
        *((f"resnet_{depth}", f"sharesnet_{depth}") for depth in (164, 34, 50, 101, 152)),
        ("sha_wrn_28_10", "wrn_22_10"),
        ("resnet_92", "sharesnet_164"),
        ("wrn_28_4", "sha_wrn_40_4"),
    ),
)
