"""What the papers print for networks that are published here, and which of them they compare."""

import dataclasses
from decimal import Decimal


@dataclasses.dataclass(frozen=True)
class PaperResult:
    """A test accuracy as a paper has it.

    Attributes:
        accuracy: Decimal, in per cent, with the digits that are printed there.
        deviation: Decimal, what is printed after "±", or `None`.
        data: str, the data set.
        epochs: int, those of the training.
        paper, table: str, where it stands.
    """

    accuracy: Decimal
    deviation: Decimal | None
    data: str
    epochs: int
    paper: str
    table: str


def _igcnet(accuracy, deviation, table):
    return PaperResult(Decimal(accuracy), Decimal(deviation), "CIFAR-100", 400, "IGC-V2", table)


def _hgcnet(error):
    return PaperResult(100 - Decimal(error), None, "CIFAR-10", 300, "HGC", "table 1")


def _shardnet(accuracy):
    return PaperResult(Decimal(accuracy), None, "CIFAR-10", 200, "ShardNet", "table 1a")


RESULTS = {
    "igcv2_c64_d8": _igcnet("67.83", "0.35", "table 4"),
    "xception_c35_d8": _igcnet("67.00", "0.29", "table 4"),
    "igcv2_c80_d8": _igcnet("67.65", "0.29", "table 6"),
    "igcv1_c48_d8": _igcnet("66.52", "0.12", "table 6"),
    "hgcnet_42_g4": _hgcnet("6.36"),
    "sgcnet_42_g4": _hgcnet("6.64"),
    "sl_vggnet_32": _shardnet("74.7"),
    "s_vggnet_32": _shardnet("73.6"),
}

# In each pair the paper puts the first above the second.
COMPARISONS = (
    ("igcv2_c64_d8", "xception_c35_d8"),
    ("igcv2_c80_d8", "igcv1_c48_d8"),
    ("hgcnet_42_g4", "sgcnet_42_g4"),
    ("sl_vggnet_32", "s_vggnet_32"),
)
