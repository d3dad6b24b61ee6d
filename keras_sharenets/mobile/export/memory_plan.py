"""A written file in an order of its operators that needs less memory, and with a place for each value.

Both leave every operator and every constant as it is, so that the file computes the same.
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
    """A file with its operators in the order in which its values need least memory.

    Args:
        data: a TFLite file.
        in_place: whether operators that may will write over what they read, as in [`plan_memory`].
    """
    program, numbers = program_of(file.parse(data))
    if not in_place:
        steps = tuple(arena.Step(step.inputs, step.outputs) for step in program.steps)
        program = arena.Program(steps, program.sizes, program.inputs, program.outputs)
    # A kernel that several steps share is widened before the one that now comes first.
    order = list(dict.fromkeys(number for step in arena.best_order(program) for number in numbers[step]))
    return data if order == sorted(order) else _reordered(data, order)


def _reordered(data, order):
    """The vector of the operators holds distances to them: those are set anew, and nothing else moves."""
    table = file.parse(data).Subgraphs(0)._tab
    vector, written = table.Vector(table.Offset(4 + 2 * _OPERATORS)), bytearray(data)
    places = [table.Indirect(vector + 4 * number) for number in range(len(order))]
    for slot, number in enumerate(order):
        position = vector + 4 * slot
        struct.pack_into("<I", written, position, places[number] - position)
    return bytes(written)


def plan_memory(data: bytes) -> bytes:
    """A file with its operators in that order, and a plan of where its values lie.

    LiteRT for Microcontrollers follows the plan, other runtimes leave it alone. Additions, products, activations and
    reshapes are planned in place, so that an addition needs the memory of two values and not of three.
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
