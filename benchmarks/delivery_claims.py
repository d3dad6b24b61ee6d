"""What the library says of its TFLite files, held against measured ones."""

import itertools

from benchmarks.results import Claim
from keras_sharenets.models.registry import find_family

# Families whose layers share parts of their kernels; the others share whole layers, or nothing.
KERNEL_SHARED = ("hscnet", "hgcnet", "igcnet")
SMALL_TO_FAST = {"float32": 1.4, "int8": 2.0}
LAYERS_SMALL_TO_FAST = 1.15
# Two runs of one file differ by as much.
NOISE = 1.03


def claims(rows):
    """The `Claim`s that rows of `delivery.measure` can refute.

    For each network and precision: how much slower the small file is; that the fast file is no slower than that of
    TensorFlow's converter, if that one runs; that no file is slower than a smaller one on the way from small to fast;
    that every file is one delegate (a softmax of integers aside, which no delegate has).
    """
    made = []
    for (network, precision), group in itertools.groupby(rows, lambda row: (row["network"], row["precision"])):
        *ours, plain = group
        ratios = [row["ratio"] for row in ours]
        kernels = find_family(network) in KERNEL_SHARED
        values = [("small file to fast file", ratios[0], SMALL_TO_FAST[precision] if kernels else LAYERS_SMALL_TO_FAST)]
        if plain["ratio"] is not None:
            values.append(("fast file to the plain converter's", 1 / plain["ratio"], NOISE))
        values.append(("a larger file to a smaller one", slowest_step(ratios), NOISE))
        values.append(("parts that the runtime cuts a file into", max(map(parts, ours)), 1))
        made += [Claim(text, f"{network}, {precision}", value, limit) for text, value, limit in values]
    return tuple(made)


def slowest_step(ratios):
    """The largest ratio of a time to an earlier one.

    >>> slowest_step([4.0, 2.0, 3.0, 1.0])
    1.5
    """
    return max(later / earlier for earlier, later in itertools.combinations(ratios, 2))


def parts(row):
    """Delegates, and operators outside of them other than a softmax of integers."""
    return row["delegates"] + sum(
        count for operator, count in row["outside"].items() if (row["precision"], operator) != ("int8", "SOFTMAX")
    )
