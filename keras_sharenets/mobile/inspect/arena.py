"""Activation memory of a TFLite file on devices that allocate it statically."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from keras_sharenets.mobile.graph import arena
from keras_sharenets.mobile.inspect import file

# Metadata buffer with the memory plan: format, number of graphs, number of tensors, and an offset or -1 for each.
PLAN_BUFFER, PLAN_HEAD = "OfflineMemoryAllocation", 3
# Elementwise operators: each output number depends only on the input numbers at the same position.
_IN_PLACE = ("ADD", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MUL", "RELU", "RELU6", "RESHAPE", "SUB", "TANH")
_WIDTHS = {"bool": 1, "float16": 2, "float32": 4, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "int32": 4}
_WIDTHS |= {"int4": 0.5, "int64": 8, "uint16": 2, "uint32": 4}


def program_of(model: file.Model) -> tuple[arena.Program, tuple[tuple[int, ...], ...]]:
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
        steps.append(arena.Step(values, tuple(made), in_place))
        numbers.append((*before, number))
    sizes = {value: _bytes(model, value) for value in computed}
    return arena.Program(tuple(steps), sizes, inputs, outputs), tuple(numbers)


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
    return arena.arena_size(program.sizes, arena.micro_offsets(program, fixed))
