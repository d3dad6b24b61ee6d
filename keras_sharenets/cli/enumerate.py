"""List all networks of a space within a budget, without building or training any.

python -m tuning enumerate --space igcv2 --max-parameters 200000 --sort=-density,multiply_adds --limit 20
"""

import dataclasses
import json
import pathlib

from keras_sharenets import _checks
from keras_sharenets.rendering.tables import text_table
from keras_sharenets.search import budgets
from keras_sharenets.search.spaces.registry import (
    PICTURE,
    SPACES,
    Counts,
    check_picture,
    count,
    find_space,
    named,
    points,
)

_FIELDS = tuple(field.name for field in dataclasses.fields(Counts))
_TITLES = {"stored_parameters": "parameters", "multiply_adds": "multiply-adds", "one_path": "one path"}


def add_arguments(parser):
    parser.add_argument("--space", required=True, help=", ".join(SPACES))
    budgets.add_arguments(parser)
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=3,
        default=PICTURE,
        metavar=("HEIGHT", "WIDTH", "CHANNELS"),
        help="size of the pictures (default: 32 32 3)",
    )
    parser.add_argument("--classes", type=int, default=10, metavar="N", help="default: 10")
    parser.add_argument(
        "--sort",
        default="stored_parameters",
        metavar="COLUMNS",
        help=f"{', '.join(_FIELDS)} or arguments, commas between; '-' before one for its largest first, as in "
        "--sort=-density,multiply_adds (default: stored_parameters)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="lines of the table (default: all)")
    parser.add_argument("--json", metavar="FILE", help="writes all networks within the budget, sorted")


@dataclasses.dataclass(frozen=True)
class Found:
    """What a space has for a budget.

    Attributes:
        considered: int, networks of the space.
        networks: list of `(point, Counts)` within the budget.
    """

    considered: int
    networks: list


def find(space, budget, input_shape=PICTURE, num_classes=10):
    """All networks of a space within a budget, in the order of the space.

    Args:
        space: `Space`.
        budget: `Budget`.
        input_shape: `(height, width, channels)` of the pictures.
        num_classes: int.

    Returns:
        `Found`.

    >>> found = find(find_space("sharesnet"), budgets.Budget(max_parameters=10_000), (8, 8, 1))
    >>> found.considered, len(found.networks), max(counts.stored_parameters for _, counts in found.networks)
    (477, 2, 8902)
    """
    considered, networks = 0, []
    for point in points(space, input_shape):
        considered += 1
        counts = count(space, point, input_shape, num_classes)
        if budget.allows(counts):
            networks.append((point, counts))
    return Found(considered, networks)


def _columns(space):
    """The counts that a space has, and the arguments."""
    counted = _FIELDS if space.connections else _FIELDS[:2]
    return counted, tuple(dict.fromkeys(choice.argument for choice in space.choices))


def ordered(space, networks, columns):
    """The networks sorted.

    Args:
        space: `Space`.
        networks: list of `(point, Counts)`.
        columns: names of counts and arguments, the one that matters most first; one with `-` before it falls.

    Returns:
        A list.

    Raises:
        ValueError: a column is neither a count that this space has nor an argument.
    """
    counted, arguments = _columns(space)
    for column in reversed(columns):
        name = column.removeprefix("-")
        _checks.one_of("sort", name, (*counted, *arguments))

        def key(entry, name=name):
            point, counts = entry
            value = getattr(counts, name) if name in _FIELDS else point.get(name)
            # What another kind of network has not, or no module of, comes first.
            return value is not None, value

        networks = sorted(networks, key=key, reverse=column.startswith("-"))
    return networks


def _text(value):
    """One cell: the three stages `((8, 8), (16, 16), (32, 32))` as `8x8 16x16 32x32`."""
    if isinstance(value, tuple):
        return " ".join("x".join(map(str, entry)) if isinstance(entry, tuple) else str(entry) for entry in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def table(space, networks):
    """The networks as text, one line each, the counts first."""
    counted, arguments = _columns(space)
    rows = [[_TITLES.get(name, name) for name in (*counted, *arguments)]]
    for point, counts in networks:
        numbers = [f"{counts.stored_parameters:,}", f"{counts.multiply_adds:,}"]
        numbers += [_text(getattr(counts, name)) for name in counted[2:]]
        rows.append([*numbers, *(_text(point.get(name)) for name in arguments)])
    return text_table(rows) + "\n"


def to_dict(space, found, args):
    """What `--json` writes: each network with its counts, and what builds it: `create_model(name, **arguments)`."""
    budget = dataclasses.asdict(budgets.from_arguments(args))
    networks = []
    for point, counts in found.networks:
        name, arguments = named(space, point)
        measured = {key: value for key, value in dataclasses.asdict(counts).items() if value is not None}
        networks.append({**measured, "name": name, "arguments": arguments})
    asked = {"space": space.name, "input_shape": list(args.input_shape), "num_classes": args.classes, **budget}
    return {**asked, "considered": found.considered, "within_budget": len(networks), "networks": networks}


def run(args):
    space = find_space(args.space)
    input_shape = check_picture(tuple(args.input_shape))
    _checks.positive("classes", args.classes)
    if args.limit is not None:
        _checks.positive("limit", args.limit)
    columns = args.sort.split(",")
    ordered(space, [], columns)
    found = find(space, budgets.from_arguments(args), input_shape, args.classes)
    found = Found(found.considered, ordered(space, found.networks, columns))
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(to_dict(space, found, args)) + "\n")
    shown = found.networks[: args.limit]
    if shown:
        print(table(space, shown))
    listed = "" if len(shown) == len(found.networks) else f", the first {len(shown):,} listed"
    print(f"{found.considered:,} networks considered, {len(found.networks):,} within the budget{listed}")
