"""The tensor arena: the activation memory of a file, and how its values and its order of steps need the least.

A value takes memory from the step that computes it to the last step that reads it. The memory in use at one step is a
lower bound; a planner that assigns offsets can need more because of fragmentation.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Mapping, Sequence

import numpy as np

from keras_sharenets.mobile.inspect import file

# Metadata buffer with the memory plan: format, number of graphs, number of tensors, and an offset or -1 for each.
PLAN_BUFFER, PLAN_HEAD = "OfflineMemoryAllocation", 3
# Elementwise operators: each output number depends only on the input numbers at the same position.
_IN_PLACE = ("ADD", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MUL", "RELU", "RELU6", "RESHAPE", "SUB", "TANH")
_WIDTHS = {"bool": 1, "float16": 2, "float32": 4, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "int32": 4}
_WIDTHS |= {"int4": 0.5, "int64": 8, "uint16": 2, "uint32": 4}
# Alignment of values in bytes.
ALIGNMENT = 16
# Limit of the search between two points where only one value is in memory, in sets of steps; beyond it the order stays.
_MOST_STATES = 20_000
# Number of swaps in the search for offsets; the networks of all families needed at most 131.
_TURNS = 400

Lifetimes = dict[int, tuple[int, int]]


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: the numbers of its input and output values, without constants.

    `in_place` means that it may overwrite an input of the same size with its output.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    in_place: bool = False


@dataclasses.dataclass(frozen=True)
class Program:
    """Steps in order, the bytes of every value, and the inputs and outputs."""

    steps: tuple[Step, ...]
    sizes: dict[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def program_of(model: file.Model) -> tuple[Program, tuple[tuple[int, ...], ...]]:
    """The main graph of a file as steps, and for each step the indices of its operators.

    Values computed from constants only, such as widened kernels, count as constant. Their operators belong to every
    step that reads these values, and must run before the first of those steps.
    """
    main, operators = model.Subgraphs(0), file.operators(model)
    inputs, outputs = (tuple(ends.tolist()) for ends in (main.InputsAsNumpy(), main.OutputsAsNumpy()))
    computed, waiting, steps, numbers = set(inputs), {}, [], []
    for number, (name, read, made) in enumerate(operators):
        values = tuple(value for value in read if value in computed)
        if not values and not set(made) & set(outputs):
            waiting.update(dict.fromkeys(made, number))
            continue
        before = _needed(waiting, read, operators)
        computed.update(made)
        in_place = name in _IN_PLACE and len(made) == 1
        steps.append(Step(values, tuple(made), in_place))
        numbers.append((*before, number))
    sizes = {value: _bytes(model, value) for value in computed}
    return Program(tuple(steps), sizes, inputs, outputs), tuple(numbers)


def _needed(waiting, read, operators):
    """The operators on constants that produce these tensors, in order."""
    numbers = {waiting[value] for value in read if value in waiting}
    return sorted(numbers.union(*(_needed(waiting, operators[number][1], operators) for number in numbers)))


def _bytes(model, value):
    dtype = file.TYPES[model.Subgraphs(0).Tensors(value).Type()]
    return math.ceil(math.prod(file.tensor_shape(model, value)) * _WIDTHS.get(dtype, 1))


def read_plan(model: file.Model) -> Mapping[int, int]:
    """The memory plan `{tensor: offset}` of the main graph; empty if the file leaves planning to the runtime."""
    data = file.read_buffer(model, PLAN_BUFFER)
    offsets = np.frombuffer(data or b"", "int32")[PLAN_HEAD:].tolist()
    return {value: offset for value, offset in enumerate(offsets) if offset >= 0}


def arena_bytes(model: file.Model) -> int:
    """Bytes for all values of a file, as the memory planner of LiteRT for Microcontrollers allocates them.

    The estimate excludes the scratch buffers of kernels and the runtime's records of tensors, operators and filters.
    """
    program, _ = program_of(model)
    fixed = {value: offset for value, offset in read_plan(model).items() if value in program.sizes}
    return arena_size(program.sizes, micro_offsets(program, fixed))


def aligned(size: int) -> int:
    """A size rounded up to the alignment.

    >>> aligned(17)
    32
    """
    return -(-size // ALIGNMENT) * ALIGNMENT


def lifetimes(program: Program) -> Lifetimes:
    """`{value: (first step, last step)}`; outputs live until the end."""
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
    """`{value: the input that it overwrites}`, for in-place steps whose input is not read again."""
    lives, over, kept = lifetimes(program), {}, set(program.outputs)
    for number, step in enumerate(program.steps):
        if not step.in_place:
            continue
        (made,) = step.outputs
        for value in step.inputs:
            unused = value not in kept and lives[value][1] == number
            if unused and program.sizes[value] == program.sizes[made] and made not in over:
                over[made] = value
    return over


def merged(program: Program) -> tuple[Program, dict[int, int]]:
    """The program with one number for all values in the same memory, and `{value: that number}`."""
    over, places = overwritten(program), {value: value for value in program.sizes}
    for step in program.steps:  # An overwritten value was computed before.
        places.update({value: places[over[value]] for value in step.outputs if value in over})

    def together(values):
        return tuple(dict.fromkeys(places[value] for value in values))

    steps = tuple(Step(together(step.inputs), together(step.outputs)) for step in program.steps)
    sizes = {place: program.sizes[place] for place in places.values()}
    return Program(steps, sizes, together(program.inputs), together(program.outputs)), places


def peak_bytes(program: Program) -> int:
    """The peak memory in bytes, without in-place steps."""
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
    """First-fit offsets for values in the given order, among the values that live at the same time.

    Offsets in `fixed` are kept, even if they overlap.
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
    """The offsets of the greedy planner of LiteRT for Microcontrollers: largest values first, ties by later number.

    Args:
        program: `Program`.
        fixed: `{value: offset}` for values with a given offset, or `None`.
    """
    fixed, lives = fixed or {}, lifetimes(program)
    sizes = {value: aligned(program.sizes[value]) for value in lives}
    order = sorted((value for value in lives if value not in fixed), key=lambda value: (-sizes[value], -value))
    return _placed(sizes, _crowds(lives), order, fixed)


def _crowds(lives):
    """`{value: values with overlapping lifetimes}`."""
    return {
        value: [other for other in lives if other != value and first <= lives[other][1] and lives[other][0] <= last]
        for value, (first, last) in lives.items()
    }


def best_offsets(program: Program) -> dict[int, int]:
    """Offsets of all values in as little memory as a deterministic search finds.

    Steps work in place where possible. First, offsets are assigned in order of size, largest first. Then one of the
    values stacked up to the end is repeatedly swapped in this order with one that lives at the same time; the swap is
    kept if it needs no more memory. The search ends at the lower bound, the peak memory of the steps.
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
    """The values that end at the end of the memory, and those directly below them without a gap."""
    stacked = [value for value, offset in offsets.items() if offset + sizes[value] == most]
    for value in stacked:
        under = (other for other in crowds[value] if offsets[other] + sizes[other] == offsets[value])
        stacked += [other for other in under if other not in stacked]
    return sorted(stacked)


def best_order(program: Program) -> tuple[int, ...]:
    """An order of the steps with the lowest peak memory, close to the given one.

    All orders between two points where only one value is in memory are searched, up to a limit. Steps are reordered
    only if that lowers the peak of the whole program.
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
    """The indices of the steps, split at points where only one value is still to be read."""
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
    """Memory accounting of the steps between two such points."""

    def __init__(self, program: Program, part: Sequence[int]) -> None:
        self.steps = [program.steps[number] for number in part]
        self.sizes = {value: aligned(size) for value, size in program.sizes.items()}
        self.made = {value: bit for bit, step in enumerate(self.steps) for value in step.outputs}
        inside = _readers(Program(tuple(self.steps), {}, (), ()))
        everywhere = _readers(program)
        # Values that later steps read live until the end of the part.
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
        """`(peak bytes during a step, bytes after it)`, after the steps in `done`."""
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
    """`(peak bytes, order)` of the best order found; the given one if none is better."""
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
