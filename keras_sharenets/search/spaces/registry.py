"""Spaces of networks: what there is to choose, random draws, checks, counts, and the networks themselves.

A point is a dict of arguments of the family's factory, with the kind of network as `"network"` where there are several.
"""

import dataclasses
import random

from keras_sharenets import _checks
from keras_sharenets.models import create_model
from keras_sharenets.search.spaces import hgcnet, hscnet, igcv2, shardnet, sharesnet
from keras_sharenets.search.spaces.choices import check_value, options

SPACES = {module.SPACE.name: module.SPACE for module in (hscnet, hgcnet, igcv2, sharesnet, shardnet)}
PICTURE = (32, 32, 3)
_SMALLEST = 4


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a network stores and computes.

    Attributes:
        stored_parameters: int, trainable weights, each shared tensor once.
        multiply_adds: int, for one picture.
        density: float, the lowest share of inputs and outputs that a block of IGC-V2 connects; `None` elsewhere.
        one_path: whether each such pair is connected on one path; `None` elsewhere.
    """

    stored_parameters: int
    multiply_adds: int
    density: float | None = None
    one_path: bool | None = None


def find_space(name):
    """The `Space` of that name.

    Raises:
        ValueError: there is none.

    >>> [choice.name for choice in find_space("hscnet").choices][:4]
    ['width', 'alpha', 'groups', 'channel_repeats']
    """
    _checks.one_of("space", name, tuple(SPACES))
    return SPACES[name]


def check_picture(input_shape):
    """`input_shape` as a tuple; a `ValueError` unless it is `(height, width, channels)`, 4x4 pixels or more."""
    shape = _checks.sizes("input_shape", input_shape)
    if len(shape) != 3 or min(shape[:2]) < _SMALLEST:
        raise ValueError(f"`input_shape` (={shape}) must be `(height, width, channels)` of at least 4x4 pixels.")
    return shape


def as_point(space, chosen):
    """The point of choices by name: entries of a tuple are put together."""
    point = {}
    for choice in space.choices:
        if choice.name not in chosen or choice.when not in (None, chosen.get("network")):
            continue
        value = chosen[choice.name]
        point[choice.argument] = value if choice.place is None else (*point.get(choice.argument, ()), value)
    return point


def choose(space, pick, input_shape=PICTURE):
    """The point that comes of asking `pick` for every choice in turn.

    Args:
        space: `Space`.
        pick: function of `(choice, values, chosen)` that returns one of the values; `chosen` has the earlier choices
            by name.
        input_shape: `(height, width, channels)` of the pictures.

    Returns:
        A dict of arguments.

    >>> choose(find_space("hgcnet"), lambda choice, values, chosen: values[-1])["groups"]
    8
    """
    chosen = {"input_shape": check_picture(input_shape)}
    for choice in space.choices:
        values = options(choice, chosen)
        if values:
            chosen[choice.name] = pick(choice, values, chosen)
    return as_point(space, chosen)


def draw(space, seed, input_shape=PICTURE):
    """A random point: each choice in turn, all values that are left equally likely.

    Args:
        space: `Space`.
        seed: int.
        input_shape: `(height, width, channels)` of the pictures.

    >>> draw(find_space("igcv2"), seed=0) == draw(find_space("igcv2"), seed=0)
    True
    """
    generator = random.Random(seed)
    return choose(space, lambda choice, values, chosen: generator.choice(values), input_shape)


def walk(space, input_shape=PICTURE):
    """All ways through the choices: for each a dict of what was chosen, by name and in order, `"input_shape"` first."""

    def extend(place, chosen):
        if place == len(space.choices):
            yield chosen
            return
        choice = space.choices[place]
        values = options(choice, chosen)
        if not values:
            yield from extend(place + 1, chosen)
        for value in values:
            yield from extend(place + 1, {**chosen, choice.name: value})

    return extend(0, {"input_shape": check_picture(input_shape)})


def points(space, input_shape=PICTURE):
    """All points, one after the other.

    >>> sum(1 for _ in points(find_space("sharesnet"), (8, 8, 1)))
    477
    """
    return (as_point(space, chosen) for chosen in walk(space, input_shape))


def check(space, point, input_shape=PICTURE):
    """Raises a `ValueError` unless the point is one of the space's for these pictures.

    Args:
        space: `Space`.
        point: dict of arguments.
        input_shape: `(height, width, channels)` of the pictures.

    Raises:
        ValueError: an argument is missing or unknown, or breaks a rule; the message names it, its value and the rule.

    >>> check(find_space("igcv2"), {**draw(find_space("igcv2"), seed=0), "blocks_per_stage": 3})
    Traceback (most recent call last):
        ...
    ValueError: `blocks_per_stage` (=3) must be one of 2, 4, 6, 8.
    """
    chosen = {"input_shape": check_picture(input_shape)}
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
        check_value(choice, value, chosen)
        chosen[choice.name] = value
    known = as_point(space, chosen)
    for name, value in point.items():
        if name not in known:
            raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, known))}.")
        if name in lengths and len(value) != lengths[name]:
            raise ValueError(f"`{name}` (={value!r}) must have {lengths[name]} entries.")


def _split(space, point):
    """The kind of network and its arguments."""
    arguments = dict(point)
    return arguments.pop("network", next(iter(space.networks))), arguments


def count(space, point, input_shape=PICTURE, num_classes=10):
    """What the network of a point stores and computes, by arithmetic: nothing is built.

    Args:
        space, point: as in [`check`], which it does not repeat.
        input_shape: `(height, width, channels)` of the pictures.
        num_classes: int.

    Returns:
        `Counts`, those of `keras_sharenets.profile` for the network that [`build`] gives.

    >>> point = {"width": 64, "blocks_per_stage": 6, "branch_channels": ((8, 8), (16, 16), (32, 32))}
    >>> count(find_space("igcv2"), point, num_classes=100).multiply_adds
    26248192
    """
    network, arguments = _split(space, point)
    stored = products = 0
    for parameters, multiply_adds in space.costs(network, arguments, input_shape, num_classes):
        stored += parameters
        products += multiply_adds
    return Counts(stored, products, *(space.connections(arguments) if space.connections else ()))


def kernel_parameters(space, point, input_shape=PICTURE, num_classes=10):
    """How many of the stored parameters of a point are multiplied: those of normalisations are not.

    A file holds each of them in a byte or more; the others may become part of something else.
    """
    network, arguments = _split(space, point)
    return sum(stored for stored, products in space.costs(network, arguments, input_shape, num_classes) if products)


def named(space, point):
    """The named network with the factory of a point, and the arguments that replace that network's own."""
    network, arguments = _split(space, point)
    return space.networks[network], arguments


def build(space, point, input_shape=PICTURE, num_classes=10, **more):
    """The network of a point.

    Args:
        space, point, input_shape: as in [`check`].
        num_classes: int.
        **more: further arguments of the factory, `input_tensor` or `name` for example.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: as in [`check`], before anything is built.

    >>> point = {**draw(find_space("hgcnet"), seed=0), "modules_per_stage": (1, 1, 1)}
    >>> build(find_space("hgcnet"), point, input_shape=(8, 8, 1)).output_shape
    (None, 10)
    """
    check(space, point, input_shape)
    name, arguments = named(space, point)
    given = {"input_shape": tuple(input_shape), "num_classes": num_classes, "name": space.name}
    return create_model(name, **{**given, **arguments, **more})
