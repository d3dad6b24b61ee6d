"""What a space of networks is made of: choices in order, each with its values and the rules they keep."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a value must keep beside others that were chosen before.

    Attributes:
        text: str, what follows "must" in a message; names in braces are filled in from the earlier choices.
        holds: function of `(value, chosen)`.
    """

    text: str
    holds: Callable[[Any, Mapping[str, Any]], bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """One choice: an argument of a factory, or an entry of an argument that is a tuple.

    Attributes:
        argument: str.
        values: tuple of what there is to choose from, or a function of `chosen` that gives it.
        rules: tuple of `Rule`; `chosen` has the choices of `reads` alone.
        reads: names of earlier choices that values and rules depend on; `"input_shape"` is always there.
        when: the network (a key of `Space.networks`) that has this choice, or `None` for all of them.
        place: int, the entry of a tuple that this is, or `None` for the whole argument.
    """

    argument: str
    values: tuple | Callable[[Mapping[str, Any]], tuple]
    rules: tuple[Rule, ...] = ()
    reads: tuple[str, ...] = ()
    when: str | None = None
    place: int | None = None

    @property
    def name(self):
        return self.argument if self.place is None else f"{self.argument}[{self.place}]"


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """The networks of one family that a search looks at.

    Attributes:
        name: str.
        networks: the name of each kind of network, and a named network that has its factory. Where there are several,
            the choice `"network"` comes first.
        choices: tuple of `Choice`; whatever is chosen first, the later ones have at least one value.
        costs: generator function of `(network, arguments, input_shape, num_classes)` that gives pairs of stored
            parameters and multiply-adds.
        connections: function of the arguments that gives `(density, one_path)`, or `None` where that is no question.
    """

    name: str
    networks: Mapping[str, str]
    choices: tuple[Choice, ...]
    costs: Callable
    connections: Callable[[Mapping[str, Any]], tuple[float, bool]] | None = None


def _all_values(choice, read):
    return choice.values(read) if callable(choice.values) else choice.values


@functools.lru_cache(maxsize=100_000)
def _options(choice, entries):
    read = dict(entries)
    return tuple(value for value in _all_values(choice, read) if all(rule.holds(value, read) for rule in choice.rules))


def options(choice, chosen):
    """The values of a choice that keep its rules beside what was chosen before it; none if it is another network's."""
    if choice.when is not None and chosen["network"] != choice.when:
        return ()
    return _options(choice, tuple((name, chosen[name]) for name in ("input_shape", *choice.reads)))


def check_value(choice, value, chosen):
    """Raises a `ValueError` that names the argument, its value and the rule, unless the value is an option."""
    read = {name: chosen[name] for name in ("input_shape", *choice.reads)}
    values = _all_values(choice, read)
    # True is no 1 and 2.0 is no 2: they would be another network's arguments.
    if not any(value == other and type(value) is type(other) for other in values):
        listed = ", ".join(map(repr, values[:20])) + (", ..." if len(values) > 20 else "")
        raise ValueError(f"`{choice.name}` (={value!r}) must be one of {listed}.")
    for rule in choice.rules:
        if not rule.holds(value, read):
            raise ValueError(f"`{choice.name}` (={value!r}) must {rule.text.format(**read)}.")
