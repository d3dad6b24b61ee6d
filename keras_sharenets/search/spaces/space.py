"""A space of networks: what there is to choose, random points, checks, counts, and the networks themselves.

A point is a dict of arguments of the family's factory, with the kind of network as `"network"` where there are several.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks
from keras_sharenets.models import create_model

if TYPE_CHECKING:
    import keras

Point = dict[str, Any]
Values = tuple[Any, ...]
Shape = tuple[int, int, int]

IMAGE = (32, 32, 3)
_MIN_SIDE = 4


@dataclasses.dataclass(frozen=True)
class Rule:
    """A condition on a value, given what was chosen before.

    Attributes:
        text: what follows "must" in a message; names in braces are filled in from the earlier choices.
        holds: function of `(value, chosen)`.
    """

    text: str
    holds: Callable[[Any, Mapping[str, Any]], bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """One choice: an argument of a factory, or an entry of an argument that is a tuple.

    Attributes:
        argument: its name.
        values: what there is to choose from, or a function of `chosen` that gives it.
        rules: conditions on a value; `chosen` has the choices of `reads` alone.
        reads: names of earlier choices that values and rules depend on; `"input_shape"` is always there.
        when: the network (a key of `Space.networks`) that has this choice, or `None` for all of them.
        place: the entry of a tuple that this is, or `None` for the whole argument.
    """

    argument: str
    values: Values | Callable[[Mapping[str, Any]], Values]
    rules: tuple[Rule, ...] = ()
    reads: tuple[str, ...] = ()
    when: str | None = None
    place: int | None = None

    @property
    def name(self) -> str:
        return self.argument if self.place is None else f"{self.argument}[{self.place}]"


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """The networks of one family that a search looks at.

    Attributes:
        name: that of its module.
        networks: the name of each kind of network, and a named network that has its factory. Where there are several,
            the choice `"network"` comes first.
        choices: in order; whatever is chosen first, the later ones have at least one value.
        costs: generator function of `(network, arguments, input_shape, num_classes)` that gives pairs of stored
            parameters and multiply-adds.
        connections: function of the arguments that gives `(density, one_path)`, or `None` where the layers connect
            all inputs with all outputs.
    """

    name: str
    networks: Mapping[str, str]
    choices: tuple[Choice, ...]
    costs: Callable[[str, Point, Shape, int], Iterable[tuple[int, int]]]
    connections: Callable[[Mapping[str, Any]], tuple[float, bool]] | None = None


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a network stores and computes.

    Attributes:
        stored_parameters: trainable weights, each shared tensor once.
        multiply_adds: for one image.
        density: the lowest share of inputs and outputs that a block of IGC-V2 connects; `None` elsewhere.
        one_path: whether each such pair is connected on one path; `None` elsewhere.
    """

    stored_parameters: int
    multiply_adds: int
    density: float | None = None
    one_path: bool | None = None


def check_image_shape(input_shape: Sequence[int]) -> Shape:
    """`input_shape` as a tuple; a `ValueError` unless it is `(height, width, channels)`, 4x4 pixels or more."""
    shape = _checks.sizes("input_shape", input_shape)
    if len(shape) != 3 or min(shape[:2]) < _MIN_SIDE:
        raise ValueError(f"`input_shape` (={shape}) must be `(height, width, channels)` of at least 4x4 pixels.")
    return shape


def _all_values(choice: Choice, read: Mapping[str, Any]) -> Values:
    return choice.values(read) if callable(choice.values) else choice.values


@functools.lru_cache(maxsize=100_000)
def _options(choice: Choice, entries: tuple[tuple[str, Any], ...]) -> Values:
    read = dict(entries)
    return tuple(value for value in _all_values(choice, read) if all(rule.holds(value, read) for rule in choice.rules))


def _options_after(choice: Choice, chosen: Mapping[str, Any]) -> Values:
    """The values of a choice that keep its rules, given what was chosen; none if it is another network's."""
    if choice.when is not None and chosen["network"] != choice.when:
        return ()
    return _options(choice, tuple((name, chosen[name]) for name in ("input_shape", *choice.reads)))


def _check_value(choice: Choice, value: object, chosen: Mapping[str, Any]) -> None:
    """Raises a `ValueError` that names the argument, its value and the rule, unless the value is an option."""
    read = {name: chosen[name] for name in ("input_shape", *choice.reads)}
    values = _all_values(choice, read)
    # True is not 1 and 2.0 is not 2: they would be another network's arguments.
    if not any(value == other and type(value) is type(other) for other in values):
        listed = ", ".join(map(repr, values[:20])) + (", ..." if len(values) > 20 else "")
        raise ValueError(f"`{choice.name}` (={value!r}) must be one of {listed}.")
    for rule in choice.rules:
        if not rule.holds(value, read):
            raise ValueError(f"`{choice.name}` (={value!r}) must {rule.text.format(**read)}.")


def as_point(space: Space, chosen: Mapping[str, Any]) -> Point:
    """The point of choices by name: entries of a tuple are put together."""
    point = {}
    for choice in space.choices:
        if choice.name not in chosen or choice.when not in (None, chosen.get("network")):
            continue
        value = chosen[choice.name]
        point[choice.argument] = value if choice.place is None else (*point.get(choice.argument, ()), value)
    return point


def choose(
    space: Space, pick: Callable[[Choice, Values, Mapping[str, Any]], Any], *, input_shape: Sequence[int] = IMAGE
) -> Point:
    """The point that comes of asking `pick` for every choice in turn.

    Args:
        pick: function of `(choice, values, chosen)` that returns one of the values; `chosen` has the earlier choices
            by name.

    >>> from keras_sharenets.search.spaces import find_space
    >>> choose(find_space("hgcnet"), lambda choice, values, chosen: values[-1])["groups"]
    8
    """
    chosen = {"input_shape": check_image_shape(input_shape)}
    for choice in space.choices:
        values = _options_after(choice, chosen)
        if values:
            chosen[choice.name] = pick(choice, values, chosen)
    return as_point(space, chosen)


def draw(space: Space, seed: int, *, input_shape: Sequence[int] = IMAGE) -> Point:
    """A random point: each choice in turn, all values that are left equally likely.

    >>> from keras_sharenets.search.spaces import find_space
    >>> draw(find_space("igcv2"), seed=0) == draw(find_space("igcv2"), seed=0)
    True
    """
    generator = random.Random(seed)
    return choose(space, lambda choice, values, chosen: generator.choice(values), input_shape=input_shape)


def walk(space: Space, input_shape: Sequence[int] = IMAGE) -> Iterator[dict[str, Any]]:
    """All ways through the choices: for each a dict of what was chosen, by name and in order, `"input_shape"` first."""

    def extend(place, chosen):
        if place == len(space.choices):
            yield chosen
            return
        choice = space.choices[place]
        values = _options_after(choice, chosen)
        if not values:
            yield from extend(place + 1, chosen)
        for value in values:
            yield from extend(place + 1, {**chosen, choice.name: value})

    return extend(0, {"input_shape": check_image_shape(input_shape)})


def points(space: Space, input_shape: Sequence[int] = IMAGE) -> Iterator[Point]:
    """All points, one after the other.

    >>> from keras_sharenets.search.spaces import find_space
    >>> sum(1 for _ in points(find_space("sharesnet"), (8, 8, 1)))
    477
    """
    return (as_point(space, chosen) for chosen in walk(space, input_shape))


def check(space: Space, point: Point, *, input_shape: Sequence[int] = IMAGE) -> None:
    """Checks that the point is one of the space's for these images.

    Raises:
        ValueError: an argument is missing or unknown, or breaks a rule; the message names it, its value and the rule.

    >>> from keras_sharenets.search.spaces import find_space
    >>> check(find_space("igcv2"), {**draw(find_space("igcv2"), seed=0), "blocks_per_stage": 3})
    Traceback (most recent call last):
        ...
    ValueError: `blocks_per_stage` (=3) must be one of 2, 4, 6, 8.
    """
    chosen: dict[str, Any] = {"input_shape": check_image_shape(input_shape)}
    lengths = {}
    for choice in space.choices:
        if choice.when is not None and choice.when != chosen["network"]:
            continue
        if choice.argument not in point:
            raise ValueError(f"`{choice.argument}` must be given in a point of the space '{space.name}'.")
        value = point[choice.argument]
        if choice.place is not None:
            lengths[choice.argument] = choice.place + 1
            value = value[choice.place] if isinstance(value, tuple) and len(value) > choice.place else None
        _check_value(choice, value, chosen)
        chosen[choice.name] = value
    known = as_point(space, chosen)
    for name, value in point.items():
        if name not in known:
            raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, known))}.")
        if name in lengths and len(value) != lengths[name]:
            raise ValueError(f"`{name}` (={value!r}) must have {lengths[name]} entries.")


def _split(space: Space, point: Point) -> tuple[str, Point]:
    """The kind of network and its arguments."""
    arguments = dict(point)
    return arguments.pop("network", next(iter(space.networks))), arguments


def count(space: Space, point: Point, *, input_shape: Shape = IMAGE, num_classes: int = 10) -> Counts:
    """What the network of a point stores and computes, by arithmetic: nothing is built.

    The point is not checked. The counts are those of `keras_sharenets.profile` for the network that [`build`] gives.

    >>> from keras_sharenets.search.spaces import find_space
    >>> point = {"width": 64, "blocks_per_stage": 6, "branch_channels": ((8, 8), (16, 16), (32, 32))}
    >>> count(find_space("igcv2"), point, num_classes=100).multiply_adds
    26248192
    """
    network, arguments = _split(space, point)
    stored = products = 0
    for parameters, multiply_adds in space.costs(network, arguments, input_shape, num_classes):
        stored += parameters
        products += multiply_adds
    density, one_path = space.connections(arguments) if space.connections else (None, None)
    return Counts(stored, products, density, one_path)


def kernel_parameters(space: Space, point: Point, *, input_shape: Shape = IMAGE, num_classes: int = 10) -> int:
    """How many of the stored parameters of a point are in kernels.

    A file holds each of them in a byte or more; scales and offsets of normalizations may be folded into others.
    """
    network, arguments = _split(space, point)
    return sum(stored for stored, products in space.costs(network, arguments, input_shape, num_classes) if products)


def named(space: Space, point: Point) -> tuple[str, Point]:
    """The named network with the factory of a point, and the arguments that replace that network's own."""
    network, arguments = _split(space, point)
    return space.networks[network], arguments


def build(
    space: Space, point: Point, *, input_shape: Sequence[int] = IMAGE, num_classes: int = 10, **more: Any
) -> keras.Model:
    """The network of a point, a functional model.

    Args:
        **more: further arguments of the factory, `input_tensor` or `name` for example.

    Raises:
        ValueError: as in [`check`], before anything is built.

    >>> from keras_sharenets.search.spaces import find_space
    >>> point = {**draw(find_space("hgcnet"), seed=0), "blocks_per_stage": (1, 1, 1)}
    >>> build(find_space("hgcnet"), point, input_shape=(8, 8, 1)).output_shape
    (None, 10)
    """
    check(space, point, input_shape=input_shape)
    name, arguments = named(space, point)
    given = {"input_shape": tuple(input_shape), "num_classes": num_classes, "name": space.name}
    return create_model(name, **{**given, **arguments, **more})
