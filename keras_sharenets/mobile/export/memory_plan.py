"""Memory optimization of a written file: an operator order that needs less memory, and a memory plan.

Neither changes an operator or a constant, so the file computes the same.
"""

from __future__ import annotations

import struct

import numpy as np

from keras_sharenets.mobile.export import metadata
from keras_sharenets.mobile.graph import arena
from keras_sharenets.mobile.inspect import file
from keras_sharenets.mobile.inspect.arena import PLAN_BUFFER, program_of

_OPERATORS, _FORMAT = 3, 1  # Field of a graph in the TFLite schema; version of the plan.


def order_operators(data: bytes, *, in_place: bool = False) -> bytes:
    """Puts the operators of a file in the order that needs the least memory.

    Args:
        data: bytes of a TFLite file.
        in_place: whether operators overwrite their inputs where they can, as in [`plan_memory`].
    """
    program, numbers = program_of(file.parse(data))
    if not in_place:
        steps = tuple(arena.Step(step.inputs, step.outputs) for step in program.steps)
        program = arena.Program(steps, program.sizes, program.inputs, program.outputs)
    # A kernel that several steps share is widened before the first of them in the new order.
    order = list(dict.fromkeys(number for step in arena.best_order(program) for number in numbers[step]))
    return data if order == sorted(order) else _reordered(data, order)


def _reordered(data, order):
    """Rewrites the vector of operators, which holds relative offsets; nothing else moves."""
    table = file.parse(data).Subgraphs(0)._tab
    vector, written = table.Vector(table.Offset(4 + 2 * _OPERATORS)), bytearray(data)
    places = [table.Indirect(vector + 4 * number) for number in range(len(order))]
    for slot, number in enumerate(order):
        position = vector + 4 * slot
        struct.pack_into("<I", written, position, places[number] - position)
    return bytes(written)


def plan_memory(data: bytes) -> bytes:
    """Adds a memory plan to a file and puts its operators in the order of [`order_operators`].

    LiteRT for Microcontrollers follows the plan; other runtimes ignore it. Additions, products, activations and
    reshapes are planned in place, so an addition needs the memory of two values instead of three.
    """
    data = order_operators(data, in_place=True)
    model = file.parse(data)
    offsets = arena.best_offsets(program_of(model)[0])
    graphs = range(model.SubgraphsLength())
    places = [-1] * sum(model.Subgraphs(graph).TensorsLength() for graph in graphs)
    for value, offset in offsets.items():
        places[value] = offset
    plan = np.asarray([_FORMAT, len(graphs), len(places), *places], "int32")
    return metadata.add_buffers(data, {PLAN_BUFFER: plan.tobytes()})
