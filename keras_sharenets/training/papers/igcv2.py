"""Tables and figures of IGC-V2: "Interleaved Structured Sparse Convolutional Neural Networks", CVPR 2018.

Accuracies are in percent, probably with the standard deviation over several runs; table 7 has error rates. Parameters
count convolutions only, and multiply-adds are for images of 32x32 pixels.
"""

from keras_sharenets.ops import balance
from keras_sharenets.training.papers.entries import Entry, Paper, Row, rows


def _row(
    label: str, network: str, parameters: str, multiply_adds: str, cifar100: str, tiny_imagenet: str, **more
) -> tuple[Row, ...]:
    printed = {"cifar100": cifar100, "tiny_imagenet": tiny_imagenet}
    return rows(label, network, parameters, multiply_adds=multiply_adds, **printed, **more)


def _plain(label: str, network: str, parameters: str, multiply_adds: str, cifar10: str, cifar100: str):
    more = {"multiply_adds": multiply_adds, "series": label.split(",")[0]}
    return rows(label, network, parameters, cifar10=cifar10, cifar100=cifar100, **more)


_TABLE2 = (
    *_plain("Xception, C = 64", "plain_xception_c64", "≈4700", "≈4.8M", "88.82 ± 0.38", "62.81 ± 0.53"),
    *_plain("IGC-V2, C = 144", "plain_igcv2_c144_k12", "≈4700", "≈4.8M", "89.12 ± 0.15", "65.05 ± 0.18"),
    *_plain("Xception, C = 96", "plain_xception_c96", "≈10000", "≈10M", "90.21 ± 0.62", "65.21 ± 0.31"),
    *_plain("IGC-V2, C = 256", "plain_igcv2_c256_k16", "≈10000", "≈10M", "90.63 ± 0.11", "67.68 ± 0.28"),
    *_plain("Xception, C = 128", "plain_xception_c128", "≈17000", "≈17M", "91.03 ± 0.30", "66.51 ± 0.68"),
    *_plain("IGC-V2, C = 361", "plain_igcv2_c361_k19", "≈17000", "≈17M", "91.35 ± 0.12", "68.86 ± 0.57"),
)
_TABLE3 = (
    *_row("Xception (C58)", "xception_c58_d20", "0.44M", "67M", "74.46 ± 0.24", "57.34 ± 0.34"),
    *_row("IGC-V1 (C96)", "igcv1_c96_d20", "0.40M", "82M", "75.10 ± 0.36", "58.37 ± 0.60"),
    *_row("IGC-V2* (C216)", "igcv2_star_c216_d20", "0.32M", "76M", "75.35 ± 0.56", "59.40 ± 0.22"),
    *_row("Xception (C71)", "xception_c71_d20", "0.66M", "98M", "75.66 ± 0.11", "58.28 ± 0.16"),
    *_row("IGC-V1 (C126)", "igcv1_c126_d20", "0.60M", "128M", "76.18 ± 0.20", "59.67 ± 0.47"),
    *_row("IGC-V2* (C304)", "igcv2_star_c304_d20", "0.48M", "112M", "76.30 ± 0.19", "60.50 ± 0.29"),
    *_row("Xception (C83)", "xception_c83_d20", "0.89M", "131M", "76.22 ± 0.05", "59.01 ± 0.52"),
    *_row("IGC-V1 (C150)", "igcv1_c150_d20", "0.79M", "172M", "76.69 ± 0.51", "60.73 ± 0.50"),
    *_row("IGC-V2* (C416)", "igcv2_star_c416_d20", "0.65M", "152M", "77.02 ± 0.20", "60.98 ± 0.23"),
)
_TABLE4 = (
    *_row("Xception (C35), D = 8", "xception_c35_d8", "0.056M", "9.5M", "67.00 ± 0.29", "49.91 ± 0.18"),
    *_row("IGC-V2 (C64), D = 8", "igcv2_c64_d8", "0.047M", "9.5M", "67.83 ± 0.35", "51.40 ± 0.32"),
    *_row("Xception (C35), D = 20", "xception_c35_d20", "0.168M", "26.8M", "70.97 ± 0.10", "55.29 ± 0.19"),
    *_row("IGC-V2 (C64), D = 20", "igcv2_c64_d20", "0.149M", "26.2M", "71.69 ± 0.09", "55.72 ± 0.43"),
    *_row("Xception (C35), D = 26", "xception_c35_d26", "0.223M", "35.5M", "72.48 ± 0.18", "55.39 ± 0.35"),
    *_row("IGC-V2 (C64), D = 26", "igcv2_c64_d26", "0.200M", "34.6M", "72.94 ± 0.26", "56.32 ± 0.38"),
)
_TABLE5 = (
    *_plain("IGC-V1, C = 64", "plain_igcv1_c64", "≈3000", "≈3.2M", "87.93 ± 0.10", "60.89 ± 0.46"),
    *_plain("IGC-V2 I, C = 98", "plain_igcv2_i_c98_k7", "≈3000", "≈3.2M", "87.41 ± 0.35", "61.35 ± 0.41"),
    *_plain("IGC-V2 II, C = 100", "plain_igcv2_ii_c100_k10", "≈3000", "≈3.2M", "88.01 ± 0.32", "62.32 ± 0.57"),
    *_plain("IGC-V1, C = 96", "plain_igcv1_c96", "≈6000", "≈6.1M", "89.29 ± 0.26", "64.58 ± 0.19"),
    *_plain("IGC-V2 I, C = 162", "plain_igcv2_i_c162_k9", "≈6000", "≈6.1M", "89.06 ± 0.08", "65.39 ± 0.61"),
    *_plain("IGC-V2 II, C = 169", "plain_igcv2_ii_c169_k13", "≈6000", "≈6.1M", "89.66 ± 0.17", "66.00 ± 0.78"),
    *_plain("IGC-V1, C = 128", "plain_igcv1_c128", "≈10000", "≈11M", "90.16 ± 0.20", "66.59 ± 0.48"),
    *_plain("IGC-V2 I, C = 242", "plain_igcv2_i_c242_k11", "≈10000", "≈11M", "89.85 ± 0.22", "67.21 ± 0.34"),
    *_plain("IGC-V2 II, C = 256", "plain_igcv2_c256_k16", "≈10000", "≈11M", "90.63 ± 0.11", "67.68 ± 0.28"),
)
_TABLE6 = (
    *_row("IGC-V1 (C48), D = 8", "igcv1_c48_d8", "0.046M", "10.0M", "66.52 ± 0.12", "48.57 ± 0.53"),
    *_row("IGC-V2 (C80), D = 8", "igcv2_c80_d8", "0.046M", "11.8M", "67.65 ± 0.29", "51.49 ± 0.33"),
    *_row("IGC-V1 (C48), D = 20", "igcv1_c48_d20", "0.151M", "28.9M", "70.87 ± 0.39", "54.83 ± 0.27"),
    *_row("IGC-V2 (C80), D = 20", "igcv2_c80_d20", "0.144M", "32.0M", "72.63 ± 0.07", "56.40 ± 0.17"),
    *_row("IGC-V1 (C48), D = 26", "igcv1_c48_d26", "0.203M", "38.3M", "71.82 ± 0.40", "56.64 ± 0.15"),
    *_row("IGC-V2 (C80), D = 26", "igcv2_c80_d26", "0.193M", "42.1M", "73.49 ± 0.34", "57.12 ± 0.09"),
)


_NOT_HERE = "quoted from another paper; not in this library"
_NO_WIDTHS = "quoted from another paper, which gives no widths; ResNet-18 with twice the channels has 44.9M"


def _other(label: str, parameters: str, note: str = _NOT_HERE, **printed: str) -> tuple[Row, ...]:
    """A network of another paper that is not in this library."""
    return rows(label, None, parameters, is_error=True, note=note, **printed)


_WRN_32 = {"options": {"depth": 34}, "note": "depth 34 in the usual way of counting wide ResNets"}
_NO_STRIDE = "quoted from another paper; our wide ResNets lack the strided stem that 64x64 pixels would need"
_QUOTED = "quoted from another paper"
_RESNET_110 = {"cifar10": "6.41", "cifar100": "27.76", "note": _QUOTED}
_RESNET_110_AGAIN = {"cifar10": "5.52", "cifar100": "28.02", "note": _QUOTED}
_STRIDED = f"{_QUOTED}; the strided stem is our choice, like that of the paper's own networks on these images"
_RESNET_110_STRIDED = {"tiny_imagenet": "46.5", "options": {"stem_strides": 2}, "note": _STRIDED}
_STEM_OPEN = f"{_QUOTED}; the stem is our interpretation: with the 7x7 ImageNet stem it has 21.4M parameters, too"
_PREACT = {"cifar10": "5.46", "cifar100": "24.33", "note": _QUOTED}
_WRN_40 = {"cifar10": "4.53", "cifar100": "21.18", "note": _QUOTED}
_STAR_416 = {"cifar10": "5.49", "cifar100": "22.95", "tiny_imagenet": "38.81", "multiply_adds": "152M"}
_TABLE7 = (
    *_other("Swapout, D = 20", "1.1M", cifar10="6.58", cifar100="25.86"),
    *_other("Swapout, D = 32", "7.4M", cifar10="4.76", cifar100="22.72"),
    *_other("DFN, D = 50", "3.7M", cifar10="6.40", cifar100="27.61"),
    *_other("DFN, D = 50", "3.9M", cifar10="6.24", cifar100="27.52"),
    *_other("FractalNet, D = 21", "38.6M", cifar10="5.22", cifar100="23.30"),
    *rows("ResNet, D = 110", "resnet_110", "1.7M", is_error=True, **_RESNET_110),
    *rows("ResNet (pre-act), D = 164", "resnet_164", "1.7M", is_error=True, **_PREACT),
    *rows("ResNet, D = 110 (snapshot ensembles')", "resnet_110", "1.7M", is_error=True, **_RESNET_110_AGAIN),
    *rows("ResNet, D = 110 (snapshot ensembles')", "resnet_110", "1.7M", is_error=True, **_RESNET_110_STRIDED),
    *_other("DFN-MR1, D = 56", "1.7M", cifar10="4.94", cifar100="24.46"),
    *_other("RiR, D = 18", "10.3M", cifar10="5.01", cifar100="22.90"),
    *rows("ResNet34", "resnet_34_cifar", "21.4M", tiny_imagenet="46.9", is_error=True, note=_STEM_OPEN),
    *_other("ResNet18-2x", "25.7M", _NO_WIDTHS, tiny_imagenet="44.6"),
    *rows("WRN-32-4", "wrn_40_4", "7.4M", cifar10="5.43", cifar100="23.55", is_error=True, **_WRN_32),
    *rows("WRN-32-4", None, "7.4M", tiny_imagenet="39.63", is_error=True, note=_NO_STRIDE),
    *rows("WRN-40-4", "wrn_40_4", "8.9M", is_error=True, **_WRN_40),
    *_other("DenseNet (k = 12), D = 40", "1.0M", tiny_imagenet="39.09"),
    *_other("DenseNet (k = 12), D = 40", "1.0M", cifar10="5.24", cifar100="24.42"),
    *_other("DenseNet-BC (k = 12), D = 100", "0.8M", cifar10="4.51", cifar100="22.27"),
    *rows("IGC-V2*-C416, D = 20", "igcv2_star_c416_d20", "0.65M", is_error=True, **_STAR_416),
)
_WIDER = tuple(
    row
    for width in (112, 136, 160, 192, 256)
    for row in rows(f"C = {width}", "igcv2_star_c216_d20", cifar100=None, options={"width": width}, at=width)
)
_DEEPER = tuple(
    row
    for depth in (38, 50, 62, 74, 98)
    for row in rows(
        f"D = {depth}",
        "igcv2_star_c216_d20",
        cifar100=None,
        options={"width": 64, "blocks_per_stage": (depth - 2) // 3},
        at=depth,
    )
)
# Weights of a block in figures 2 and 3: as in the first IGC-V2 of table 2, C = 144, consistent with the text.
_BUDGET = 4752


def _block_row(block: balance.Block, letter: str, at: int, sizes: dict[str, float], series: str = "") -> Row:
    options = {"width": block.channels, "branch_channels": (block.branch_channels,) * (block.convolutions - 1)}
    sizes = {"channels": block.channels, **sizes}
    more = {"options": options, "series": series, "at": at, "sizes": sizes}
    (row,) = rows(f"{letter} = {at}", "plain_igcv2_c144_k12", cifar100=None, **more)
    return row


def _by_branch(convolutions: int, branches: tuple[int, ...]) -> tuple[Row, ...]:
    """A part of figure 2: the widest block for each K, with the meaning of the color of its bar."""
    blocks = [balance.widest(_BUDGET, convolutions, size) for size in branches]
    best = min(blocks, key=lambda block: max(block.paths, 1 / block.paths))
    return tuple(
        _block_row(
            block,
            "K",
            block.branch_channels,
            {"density": round(block.density, 3)},
            "closest to complementary" if block is best else "sparse" if block.paths < 1 else "dense, redundant",
        )
        for block in blocks
    )


_BY_BRANCH = {3: (4, 6, 8, 10, 12, 14, 16, 18), 4: (3, 4, 5, 6, 7, 8), 5: (2, 3, 4, 5, 6)}
_BY_CONVOLUTIONS = tuple(
    _block_row(
        block, "L", block.convolutions, {"K": block.branch_channels, "non-sparsity": round(block.non_sparsity, 4)}
    )
    for block in (balance.widest_dense(_BUDGET, convolutions) for convolutions in range(2, 9))
)
_OUR_BLOCKS = (
    "The text does not give the values of C and K, nor of L in figure 2. We use the widest blocks of at most "
    f"{_BUDGET} weights, the number of the first IGC-V2 in table 2"
)
_OUR_DATA = "The text gives no numbers and does not name the data. We use CIFAR-100, as in figures 2 and 3."
_PER_BLOCK = "The paper counts one of six blocks, we count networks; `sharenets list 'plain_*'` shows the blocks."

PAPER = Paper(
    "IGC-V2",
    (
        Entry(
            "table1",
            "The architectures, layer by layer",
            note="Involves no training. `sharenets describe igcv2_c64_d8` shows our network.",
        ),
        Entry("table2", "Xception and IGC-V2 of eight layers, by width", _TABLE2, note=_PER_BLOCK),
        Entry("table3", "Xception, IGC-V1 and IGC-V2* of depth 20, by width", _TABLE3),
        Entry("table4", "Xception and IGC-V2, by depth", _TABLE4),
        Entry("table5", "IGC-V1 and two kinds of IGC-V2 of eight layers, by width", _TABLE5, note=_PER_BLOCK),
        Entry("table6", "IGC-V1 and IGC-V2, by depth", _TABLE6),
        Entry("table7", "IGC-V2* and networks of other papers", _TABLE7),
        Entry("figure1", "The interleaved structured sparse convolution", note="A diagram; involves no training."),
        *(
            Entry(
                f"figure2{part}",
                f"Plain networks of L = {convolutions}, by K",
                _by_branch(convolutions, branches),
                note=f"{_OUR_BLOCKS} (`keras_sharenets.ops.balance.widest`).",
                across=f"channels of a branch, K (L = {convolutions})",
                also=("channels", "density"),
            )
            for part, (convolutions, branches) in zip("abc", _BY_BRANCH.items(), strict=True)
        ),
        Entry(
            "figure3",
            "Accuracy, width and non-sparsity by L",
            _BY_CONVOLUTIONS,
            note=f"{_OUR_BLOCKS}; every output reads every input (`keras_sharenets.ops.balance.widest_dense`).",
            across="convolutions of a block, L",
            also=("channels", "non-sparsity"),
        ),
        Entry(
            "figure4a",
            "IGC-V2* of depth 20, by width",
            _WIDER,
            note=_OUR_DATA,
            across="channels of the first stage",
            also=("parameters",),
        ),
        Entry(
            "figure4b", "IGC-V2* of width 64, by depth", _DEEPER, note=_OUR_DATA, across="depth", also=("parameters",)
        ),
    ),
    recipes={"cifar10": "igcnet-cifar10", "cifar100": "igcnet-cifar100", "tiny_imagenet": "igcnet-tiny-imagenet"},
    ahead=(
        *((f"igcv2_c64_d{depth}", f"xception_c35_d{depth}") for depth in (8, 20, 26)),
        *((f"igcv2_c80_d{depth}", f"igcv1_c48_d{depth}") for depth in (8, 20, 26)),
        *(
            (f"igcv2_star_{width}_d20", f"{other}_d20")
            for width, others in (
                ("c216", ("igcv1_c96", "xception_c58")),
                ("c304", ("igcv1_c126", "xception_c71")),
                ("c416", ("igcv1_c150", "xception_c83")),
            )
            for other in others
        ),
    ),
)
