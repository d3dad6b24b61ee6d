"""Search spaces of networks: choices, random points, checks, counts, and building networks.

A point is a dict of arguments of the family's factory; a space with several kinds of networks adds `"network"`.
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
    """A condition on a value, given the earlier choices.

    Attributes:
        text: text after "must" in a message; names in braces are filled in from the earlier choices.
        holds: function of `(value, chosen)`.
    """

    text: str
    holds: Callable[[Any, Mapping[str, Any]], bool]


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """A choice: an argument of a factory, or one entry of a tuple argument.

    Attributes:
        argument: name of the argument.
        values: possible values, or a function of `chosen` that returns them.
        rules: conditions on a value; `chosen` contains only the choices in `reads`.
        reads: names of earlier choices that values and rules depend on; `"input_shape"` is always available.
        when: the kind of network (a key of `Space.networks`) with this choice, or `None` for all.
        place: index of the entry in a tuple argument, or `None` for the whole argument.
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
    """The search space of one family.

    Attributes:
        name: name of its module.
        networks: for each kind of network, a named network with its factory. If there are several kinds, the first
            choice is `"network"`.
        choices: choices in order; after any earlier choices, each has at least one valid value.
        costs: generator function of `(network, arguments, input_shape, num_classes)` that yields pairs of stored
            parameters and multiply-adds.
        connections: function of the arguments that returns `(density, one_path)`, or `None` if the layers connect
            all inputs with all outputs.
    """

    name: str
    networks: Mapping[str, str]
    choices: tuple[Choice, ...]
    costs: Callable[[str, Point, Shape, int], Iterable[tuple[int, int]]]
    connections: Callable[[Mapping[str, Any]], tuple[float, bool]] | None = None


@dataclasses.dataclass(frozen=True)
class Counts:
    """Counts of a network.

    Attributes:
        stored_parameters: trainable weights, each shared tensor once.
        multiply_adds: multiply-adds for one image.
        density: lowest fraction of input-output pairs that a block of IGC-V2 connects; `None` for other families.
        one_path: whether each connected pair has exactly one path; `None` for other families.
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
    """The valid values of a choice, given the earlier choices; none if it belongs to another kind of network."""
    if choice.when is not None and chosen["network"] != choice.when:
        return ()
    return _options(choice, tuple((name, chosen[name]) for name in ("input_shape", *choice.reads)))


def _check_value(choice: Choice, value: object, chosen: Mapping[str, Any]) -> None:
    """Raises a `ValueError` that names the argument, its value and the rule if the value is invalid."""
    read = {name: chosen[name] for name in ("input_shape", *choice.reads)}
    values = _all_values(choice, read)
    # Distinguish True from 1 and 2.0 from 2: they would be different arguments of the factory.
    if not any(value == other and type(value) is type(other) for other in values):
        listed = ", ".join(map(repr, values[:20])) + (", ..." if len(values) > 20 else "")
        raise ValueError(f"`{choice.name}` (={value!r}) must be one of {listed}.")
    for rule in choice.rules:
        if not rule.holds(value, read):
            raise ValueError(f"`{choice.name}` (={value!r}) must {rule.text.format(**read)}.")


def as_point(space: Space, chosen: Mapping[str, Any]) -> Point:
    """The point for choices by name; the entries of a tuple argument are joined."""
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
    """Builds a point by calling `pick` for each choice in order.

    Args:
        space: space of the point.
        pick: function of `(choice, values, chosen)` that returns one of the values; `chosen` contains the earlier
            choices by name.
        input_shape: `(height, width, channels)` of the images.

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
    """A random point: each choice in order, uniformly among its valid values.

    >>> from keras_sharenets.search.spaces import find_space
    >>> draw(find_space("igcv2"), seed=0) == draw(find_space("igcv2"), seed=0)
    True
    """
    generator = random.Random(seed)
    return choose(space, lambda choice, values, chosen: generator.choice(values), input_shape=input_shape)


def walk(space: Space, input_shape: Sequence[int] = IMAGE) -> Iterator[dict[str, Any]]:
    """Yields every valid combination of choices: a dict by name, in order, starting with `"input_shape"`."""

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
    """Yields all points.

    >>> from keras_sharenets.search.spaces import find_space
    >>> sum(1 for _ in points(find_space("sharesnet"), (8, 8, 1)))
    477
    """
    return (as_point(space, chosen) for chosen in walk(space, input_shape))


def check(space: Space, point: Point, *, input_shape: Sequence[int] = IMAGE) -> None:
    """Checks that a point belongs to the space for these images.

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
    """Counts of the network of a point, by arithmetic: nothing is built.

    The point is not checked. The counts equal those of `keras_sharenets.profile` for the network from [`build`].

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
    """The number of stored parameters of a point that are in kernels.

    A file stores at least one byte for each; batch normalization may be folded into them.
    """
    network, arguments = _split(space, point)
    return sum(stored for stored, products in space.costs(network, arguments, input_shape, num_classes) if products)


def named(space: Space, point: Point) -> tuple[str, Point]:
    """The named network with the factory of a point, and the arguments that override its own."""
    network, arguments = _split(space, point)
    return space.networks[network], arguments


def build(
    space: Space, point: Point, *, input_shape: Sequence[int] = IMAGE, num_classes: int = 10, **more: Any
) -> keras.Model:
    """Builds the network of a point as a functional model.

    Args:
        space: space of the point.
        point: arguments, as in [`check`].
        input_shape: `(height, width, channels)` of the images.
        num_classes: number of classes.
        **more: further arguments of the factory, for example `input_tensor` or `name`.

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
