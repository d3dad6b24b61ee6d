"""List the networks of a search space within a budget, nearest to it first, without building or training any.

sharenets enumerate --space igcv2 --max-parameters 200000 --sort=-density,multiply_adds --limit 20
"""

from __future__ import annotations

import argparse
import dataclasses

from keras_sharenets import _checks
from keras_sharenets.cli.arguments import add_input_shape
from keras_sharenets.cli.command import Answer, say_over
from keras_sharenets.search.budgets import Budget
from keras_sharenets.search.spaces import NAMES

NEEDS_KERAS = False  # Counts are computed arithmetically.
LIMIT = 20


def add_space_arguments(parser: argparse.ArgumentParser, choice: argparse._ActionsContainer | None = None) -> None:
    """Adds `--space`, `--max-parameters`, and `--max-multiply-adds`; `choice` is an exclusive group for `--space`."""
    (choice or parser).add_argument("--space", required=choice is None, help=f"search space: {', '.join(NAMES)}")
    parser.add_argument(
        "--max-parameters",
        type=int,
        metavar="N",
        help="maximum number of stored weights; each shared tensor counts once",
    )
    parser.add_argument("--max-multiply-adds", type=int, metavar="N", help="maximum multiply-adds for one image")


def checked_budget(arguments: argparse.Namespace) -> Budget:
    """The budget given by the options of `add_space_arguments`; a `ValueError` if one is invalid."""
    if arguments.space is not None:
        _checks.one_of("space", arguments.space, NAMES)
    return Budget(arguments.max_parameters, arguments.max_multiply_adds)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_space_arguments(parser)
    add_input_shape(parser, "size of the images (default: 32 32 3)", default=(32, 32, 3))
    parser.add_argument("--classes", type=int, default=10, metavar="N", help="number of classes (default: 10)")
    parser.add_argument(
        "--sort",
        metavar="COLUMNS",
        help="comma-separated columns to sort by: stored_parameters, multiply_adds, density, one_path, or arguments; a "
        "leading '-' sorts largest first, as in --sort=-density,multiply_adds (default: nearest to the budget first; "
        "without a budget, smallest first)",
    )
    parser.add_argument(
        "--limit",
        type=_limit,
        default=LIMIT,
        metavar="N|all",
        help=f"rows of the table (default: {LIMIT}); --json contains all networks within the budget",
    )


def _limit(text: str) -> int | None:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"(={text}) must be a number or all")
    return None if text == "all" else int(text)


def check(arguments: argparse.Namespace) -> None:
    checked_budget(arguments)
    _checks.positive("classes", arguments.classes)
    if arguments.limit is not None:
        _checks.positive("limit", arguments.limit)


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets.search import enumeration
    from keras_sharenets.search.spaces import find_space
    from keras_sharenets.search.spaces.space import check_image_shape

    space, budget = find_space(arguments.space), checked_budget(arguments)
    columns = (arguments.sort or _nearest_first(budget)).split(",")
    input_shape, num_classes = check_image_shape(tuple(arguments.input_shape)), arguments.classes
    enumeration.ordered(space, [], columns)
    say_over(f"counting the networks of {space.name} ...")  # A hundred thousand networks take seconds.
    considered, networks = enumeration.networks_within(space, budget, input_shape=input_shape, num_classes=num_classes)
    networks = enumeration.ordered(space, networks, columns)
    say_over("")
    shown = networks[: arguments.limit]
    listed = "" if len(shown) == len(networks) else f", the first {len(shown):,} listed"
    # On the last line, visible without scrolling.
    summary = f"{considered:,} networks considered, {len(networks):,} within the budget{listed}"
    data = {
        "space": space.name,
        "input_shape": list(input_shape),
        "num_classes": num_classes,
        **dataclasses.asdict(budget),
        "considered": considered,
        "within_budget": len(networks),
        # A space may have a hundred thousand networks: they are listed as data on request only.
        "networks": enumeration.to_dicts(space, networks) if arguments.json else [],
    }
    blocks = [enumeration.table(space, shown), "\n".join(enumeration.column_notes(space))] if shown else []
    return Answer("\n\n".join([*blocks, summary]), data)


def _nearest_first(budget: Budget) -> str:
    if budget.max_parameters is not None:
        return "-stored_parameters"
    return "stored_parameters" if budget.max_multiply_adds is None else "-multiply_adds"
