"""The rule of `keras_sharenets.ops.choices` from measured times."""

import itertools
import math

# What a limit between two implementations must save, as a share of the time, to be worth its place.
WORTH = 0.015


def fit(rows):
    """For every runtime, kind and direction the implementation, or two, that lose least to the fastest.

    Args:
        rows: dicts with `runtime`, `kind`, `direction`, `depth`, `implementations`, and `all`, name to milliseconds.

    Returns:
        A dict like `choices.MEASURED`.
    """
    table = {}
    for row in rows:
        table.setdefault(row["runtime"], {}).setdefault((row["kind"], row["direction"]), []).append(row)
    return {runtime: {case: best(table[runtime][case]) for case in sorted(table[runtime])} for runtime in sorted(table)}


def best(rows):
    """An entry of the table, for rows of one kind.

    >>> row = {"implementations": ("a", "b")}
    >>> best([row | {"depth": 1, "all": {"a": 1, "b": 2}}, row | {"depth": 4, "all": {"a": 3, "b": 1}}])
    ('a', 2.0, 'b')
    """
    names = [name for name in rows[0]["implementations"] if all(row["all"].get(name) for row in rows)]
    if rows[0].get("runtime") != "tensorflow" and len(names) > 1:
        # XLA's gradient of native groups is hopeless, and who wants gradients need not say `training=True`.
        names = [name for name in names if name != "grouped"]
    chosen = min(names, key=lambda name: loss(rows, name))
    limits = sorted({row["depth"] for row in rows})
    stumps = [
        (shallow, float(f"{math.sqrt(low * high):.2g}"), deep)
        for low, high in itertools.pairwise(limits)
        for shallow, deep in itertools.permutations(names, 2)
    ]
    stump = min(stumps, key=lambda stump: loss(rows, *stump), default=None)
    return stump if stump and loss(rows, *stump) < loss(rows, chosen) - WORTH else chosen


def loss(rows, shallow, limit=math.inf, deep=None):
    """The mean logarithm of what a choice takes to what the fastest takes."""
    total = 0
    for row in rows:
        times = [row["all"][name] for name in row["implementations"] if row["all"].get(name)]
        chosen = deep if row["depth"] > limit else shallow
        total += math.log(row["all"][chosen] / min(times))
    return total / len(rows)


def to_text(table):
    """The table as the source of `choices.MEASURED`."""
    lines = ["MEASURED = {"]
    for runtime, cases in table.items():
        lines += [
            f'    "{runtime}": {{',
            *(f"        {_quoted(case)}: {_quoted(cases[case])}," for case in cases),
            "    },",
        ]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(value):
    """`repr` with double quotes."""
    return repr(value).replace("'", '"')
