"""How much memory the values of a network need, and in which order of its steps they need least.

A value takes memory from the step that makes it to the last one that reads it. What is in memory at one step at a time
is a lower bound; a planner that gives every value a place can need more, since the places do not fit into one another.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

# Runtimes begin every value at a multiple of so many bytes.
ALIGNMENT = 16
# Sets of steps that are looked at between two places where a single value is in memory; else the order stays.
_MOST_STATES = 20_000
# How often values change places in the search; the networks of all families needed at most 131 of them.
_TURNS = 400

Lifetimes = dict[int, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: the numbers of the values that it reads and makes; constants are left out.

    `in_place` says that it may write what it makes over a value of the same size that it reads.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    in_place: bool = False


@dataclasses.dataclass(frozen=True)
class Program:
    """Steps in their order, the bytes of every value, and which values come from outside and are read there."""

    steps: tuple[Step, ...]
    sizes: dict[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def with_order(self, order: Iterable[int]) -> Program:
        """The same steps in another order."""
        return dataclasses.replace(self, steps=tuple(self.steps[index] for index in order))


def aligned(size: int) -> int:
    """Bytes that a value takes.

    >>> aligned(17)
    32
    """
    return -(-size // ALIGNMENT) * ALIGNMENT


def lifetimes(program: Program) -> Lifetimes:
    """`{value: (first step, last step)}`; what is read outside stays to the end."""
    first = dict.fromkeys(program.inputs, 0)
    last = dict.fromkeys(program.inputs, 0)
    for number, step in enumerate(program.steps):
        for value in step.outputs:
            first.setdefault(value, number)
        for value in (*step.inputs, *step.outputs):
            last[value] = number
    last |= dict.fromkeys(program.outputs, len(program.steps) - 1)
    return {value: (first[value], last[value]) for value in first}


def overwritten(program: Program) -> dict[int, int]:
    """`{value: the one whose memory it takes over}`, where a step may work in place and nothing reads that any more."""
    lives, over = lifetimes(program), {}
    for number, step in enumerate(program.steps):
        if not step.in_place:
            continue
        (made,) = step.outputs
        for value in step.inputs:
            if lives[value][1] == number and program.sizes[value] == program.sizes[made] and made not in over:
                over[made] = value
    return over


def merged(program: Program) -> tuple[Program, dict[int, int]]:
    """The program with one number for all values that lie in the same memory, and `{value: that number}`."""
    over, places = overwritten(program), {value: value for value in program.sizes}
    for step in program.steps:  # What is overwritten was made before.
        places.update({value: places[over[value]] for value in step.outputs if value in over})

    def together(values):
        return tuple(dict.fromkeys(places[value] for value in values))

    steps = tuple(Step(together(step.inputs), together(step.outputs)) for step in program.steps)
    sizes = {place: program.sizes[place] for place in places.values()}
    return Program(steps, sizes, together(program.inputs), together(program.outputs)), places


def peak_bytes(program: Program) -> int:
    """The most bytes that are in memory at one step, nothing in place."""
    lives, sizes = lifetimes(program), program.sizes
    changes = [0] * (len(program.steps) + 1)
    for value, (first, last) in lives.items():
        changes[first] += aligned(sizes[value])
        changes[last + 1] -= aligned(sizes[value])
    most = now = 0
    for change in changes:
        now += change
        most = max(most, now)
    return most


def _placed(sizes, crowds, order, fixed):
    """Gives every value of an order the first place that those which live at the same time leave free.

    Places in `fixed` are given, whatever they overlap.
    """
    offsets = dict(fixed)
    for value in order:
        start, size = 0, sizes[value]
        for begin, end in sorted(
            (offsets[other], offsets[other] + sizes[other]) for other in crowds[value] if other in offsets
        ):
            if begin - start >= size:
                break
            start = max(start, end)
        offsets[value] = start
    return offsets


def arena_size(sizes: Mapping[int, int], offsets: Mapping[int, int]) -> int:
    """Bytes up to the end of the last value."""
    return max((offset + aligned(sizes[value]) for value, offset in offsets.items()), default=0)


def micro_offsets(program: Program, fixed: Mapping[int, int] | None = None) -> dict[int, int]:
    """The places that the greedy planner of LiteRT for Microcontrollers finds: large values first, then later ones.

    Args:
        program: `Program`.
        fixed: `{value: byte that it begins at}`, of those that have a place; or `None`.
    """
    fixed, lives = fixed or {}, lifetimes(program)
    sizes = {value: aligned(program.sizes[value]) for value in lives}
    order = sorted((value for value in lives if value not in fixed), key=lambda value: (-sizes[value], -value))
    return _placed(sizes, _crowds(lives), order, fixed)


def _crowds(lives):
    """`{value: those that are in memory at some time that it is there}`."""
    return {
        value: [other for other in lives if other != value and first <= lives[other][1] and lives[other][0] <= last]
        for value, (first, last) in lives.items()
    }


def best_offsets(program: Program) -> dict[int, int]:
    """Places of all values in as little memory as a search finds, the same at every call.

    Steps work in place where they may. Values get their places one after the other, large ones first. Then, again and
    again, one of those that are stacked up to the end takes turns with one that lives at the same time, and stays there
    if that needs no more memory. What is in memory at one step at a time is the least that can be found.
    """
    one_each, places = merged(program)
    sizes = {value: aligned(size) for value, size in one_each.sizes.items()}
    lives, enough, random = lifetimes(one_each), peak_bytes(one_each), np.random.default_rng(0)
    crowds = _crowds(lives)
    order = sorted(lives, key=lambda value: (-sizes[value], lives[value]))
    offsets = _placed(sizes, crowds, order, {})
    for _ in range(_TURNS):
        most = arena_size(sizes, offsets)
        if most <= enough:
            break
        first = random.choice(_stacked(sizes, offsets, crowds, most))
        if not crowds[first]:
            continue
        changed, turns = list(order), (order.index(first), order.index(random.choice(crowds[first])))
        for place, other in (turns, turns[::-1]):
            changed[place] = order[other]
        found = _placed(sizes, crowds, changed, {})
        if arena_size(sizes, found) <= most:
            order, offsets = changed, found
    return {value: offsets[place] for value, place in places.items() if place in offsets}


def _stacked(sizes, offsets, crowds, most):
    """The values that end where the memory does, and those that they stand on without a gap."""
    stacked = [value for value, offset in offsets.items() if offset + sizes[value] == most]
    for value in stacked:
        under = (other for other in crowds[value] if offsets[other] + sizes[other] == offsets[value])
        stacked += [other for other in under if other not in stacked]
    return sorted(stacked)


def best_order(program: Program) -> tuple[int, ...]:
    """An order of the steps in which fewest bytes are in memory at a time, close to the one that they have.

    Between two places where a single value is in memory every order is looked at, as far as that ends in sight. The
    steps there stay where they are unless that lowers the most bytes of the whole program.
    """
    parts = _parts(program)
    peaks = [_peak(program, part) for part in parts]
    orders, bound = list(parts), 0
    for index in sorted(range(len(parts)), key=lambda index: -peaks[index]):
        if peaks[index] <= bound:
            break
        peak, order = _best_of_part(program, parts[index], peaks[index])
        orders[index], bound = order, max(bound, peak)
    return tuple(number for order in orders for number in order)


def _parts(program):
    """The numbers of the steps, split where one value alone is still to be read: whatever comes later needs it."""
    remaining, parts, part, open_values = _readers(program), [], [], set(program.inputs)
    for number, step in enumerate(program.steps):
        part.append(number)
        for value in step.inputs:
            remaining[value] -= 1
        open_values = {value for value in (*open_values, *step.outputs) if remaining.get(value)}
        if len(open_values) <= 1:
            parts.append(tuple(part))
            part = []
    return [*parts, tuple(part)] if part else parts


def _readers(program):
    counts: dict[int, int] = {}
    for step in program.steps:
        for value in step.inputs:
            counts[value] = counts.get(value, 0) + 1
    return counts


class _Part:
    """What the bytes in memory depend on between two such places: how often each value is still to be read."""

    def __init__(self, program: Program, part: Sequence[int]) -> None:
        self.steps = [program.steps[number] for number in part]
        self.sizes = {value: aligned(size) for value, size in program.sizes.items()}
        self.made = {value: bit for bit, step in enumerate(self.steps) for value in step.outputs}
        inside = _readers(Program(tuple(self.steps), {}, (), ()))
        everywhere = _readers(program)
        # What comes in, or stays for steps behind, lives as long as the part lasts.
        self.stays = {
            value
            for value in {*inside, *self.made}
            if value in program.outputs or everywhere.get(value, 0) > inside.get(value, 0)
        }
        self.readers: dict[int, int] = {}
        for bit, step in enumerate(self.steps):
            for value in step.inputs:
                self.readers[value] = self.readers.get(value, 0) | 1 << bit
        self.before = [
            sum({1 << self.made[value] for value in step.inputs if value in self.made}) for step in self.steps
        ]
        self.at_start = sum(self.sizes[value] for value in inside if value not in self.made)

    def after(self, done: int, live: int, bit: int) -> tuple[int, int]:
        """`(most bytes during a step, bytes after it)`, of the steps in `done` having been made."""
        step, now = self.steps[bit], done | 1 << bit
        dying = [
            value for value in dict.fromkeys(step.inputs) if value not in self.stays and not self.readers[value] & ~now
        ]
        made = sum(self.sizes[value] for value in step.outputs)
        in_place = step.in_place and any(self.sizes[value] == made for value in dying)
        unread = [value for value in step.outputs if value not in self.stays and not self.readers.get(value)]
        left = live + made - sum(self.sizes[value] for value in (*dying, *unread))
        return live + (0 if in_place else made), left


def _peak(program, part):
    known, done, most = _Part(program, part), 0, 0
    live = known.at_start
    for bit in range(len(part)):
        during, live = known.after(done, live, bit)
        done |= 1 << bit
        most = max(most, during)
    return most


def _best_of_part(program, part, peak):
    """`(most bytes, order)` of the best order; those of the one that is there if none of those looked at is better."""
    known = _Part(program, part)
    complete, seen = (1 << len(part)) - 1, set()
    queue: list[tuple[int, int, tuple[int, ...], int, int]] = [(0, 0, (), 0, known.at_start)]
    while queue and len(seen) < _MOST_STATES:
        most, _, order, done, live = heapq.heappop(queue)
        if done == complete:
            return most, tuple(part[bit] for bit in order)
        if done in seen:
            continue
        seen.add(done)
        for bit, before in enumerate(known.before):
            if done >> bit & 1 or before & ~done:
                continue
            during, left = known.after(done, live, bit)
            if during < peak:
                entry = max(most, during), -1 - len(order), (*order, bit), done | 1 << bit, left
                heapq.heappush(queue, entry)
    return peak, tuple(part)
