"""How much memory the values of a TFLite file need on a device that gives every one of them a place beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from keras_sharenets.mobile.graph import arena
from keras_sharenets.mobile.inspect import file

# A metadata buffer that says where values lie: format, number of graphs, number of tensors, and a place or -1 for each.
PLAN_BUFFER, PLAN_HEAD = "OfflineMemoryAllocation", 3
# Each number that they make depends on the numbers at the same place alone.
_IN_PLACE = ("ADD", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MUL", "RELU", "RELU6", "RESHAPE", "SUB", "TANH")
_WIDTHS = {"bool": 1, "float16": 2, "float32": 4, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "int32": 4}
_WIDTHS |= {"int4": 0.5, "int64": 8, "uint16": 2, "uint32": 4}


def program_of(model: file.Model) -> tuple[arena.Program, tuple[tuple[int, ...], ...]]:
    """The main graph of a file as steps, and for each step the numbers of its operators.

    What operators make of constants alone, such as kernels that are widened, counts as constant; they belong to every
    step that reads it, and have to run before the first of them.
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
        steps.append(arena.Step(values, tuple(made), in_place))
        numbers.append((*before, number))
    sizes = {value: _bytes(model, value) for value in computed}
    return arena.Program(tuple(steps), sizes, inputs, outputs), tuple(numbers)


def _needed(waiting, read, operators):
    """The operators on constants that these tensors come from, in their order."""
    numbers = {waiting[value] for value in read if value in waiting}
    return sorted(numbers.union(*(_needed(waiting, operators[number][1], operators) for number in numbers)))


def _bytes(model, value):
    dtype = file.TYPES[model.Subgraphs(0).Tensors(value).Type()]
    return math.ceil(math.prod(file.tensor_shape(model, value)) * _WIDTHS.get(dtype, 1))


def read_plan(model: file.Model) -> Mapping[int, int]:
    """`{tensor: byte}` of the main graph that a file asks for; empty if it leaves that to the runtime."""
    data = file.read_buffer(model, PLAN_BUFFER)
    offsets = np.frombuffer(data or b"", "int32")[PLAN_HEAD:].tolist()
    return {value: offset for value, offset in enumerate(offsets) if offset >= 0}


def arena_bytes(model: file.Model) -> int:
    """Bytes for all values of a file, as the planner of LiteRT for Microcontrollers places them.

    An estimate: what kernels ask for beside that, and what the runtime keeps of tensors, operators and filters, comes
    on top.
    """
    program, _ = program_of(model)
    fixed = {value: offset for value, offset in read_plan(model).items() if value in program.sizes}
    return arena.arena_size(program.sizes, arena.micro_offsets(program, fixed))
