"""Hard swish: fusion into one operation, and for integers a split into two operations that delegates support."""

from __future__ import annotations

import dataclasses

import numpy as np

from keras_sharenets.mobile.graph.inference_graph import InferenceGraph, Operation, Value


def merge_hard_swish(graph: InferenceGraph) -> InferenceGraph:
    """Fuses `x * relu6(x + 3) / 6`, the form in most networks, and `x * hard_sigmoid(x)` into one operation.

    Not applied if a range was learned for an intermediate value.
    """
    readers, producers = graph.consumers(), {step.output.number: step for step in graph.operations}
    merged: dict[Operation, Operation] = {}
    gone: set[Operation] = set()

    def read_once(number: int) -> bool:
        return len(readers.get(number, ())) == 1 and number not in graph.ranges

    def chain(value: Value) -> list[Operation]:
        """The steps that lead to a value, the last first, as far back as their outputs have no other readers."""
        steps: list[Operation] = []
        while value.number in producers and read_once(value.number):
            steps.append(producers[value.number])
            if len(steps) == 3 or len(steps[-1].inputs) != 1:
                break
            value = steps[-1].inputs[0]
        return steps

    for product in graph.operations:
        if product.kind != "multiply" or product.activation is not None:
            continue
        for x, gate in (product.inputs, product.inputs[::-1]):
            steps, factor, last = chain(gate), 1.0, product
            if steps and steps[0].kind == "affine":
                factor = _factor(steps[0], 0)
            elif read_once(product.output.number):
                steps, last = [product, *steps[:2]], readers[product.output.number][0]
                factor = _factor(last, 0)
            if len(steps) == 3 and np.isclose(factor, 1 / 6, rtol=1e-6) and _is_gate(steps[1], steps[2], x):
                fields = {"inputs": (x,), "output": last.output, "name": last.name, "use": last.use}
                merged[last] = dataclasses.replace(product, kind="hard_swish", **fields)
                gone.update(steps)
                break
    return graph.with_operations(merged.get(step, step) for step in graph.operations if step not in gone)


def _is_gate(clipped, shifted, x):
    """Whether two steps are `relu6(x + 3)`."""
    is_clipped = clipped.kind == "identity" and clipped.activation == "relu6"
    return is_clipped and shifted.inputs == (x,) and _factor(shifted, 3) == 1


def _factor(step, shift):
    """The common factor of a step that scales all channels and adds `shift` to each; 0 for other steps."""
    bare = step.kind == "affine" and step.activation is None and np.all(step.bias == np.float32(shift))
    return float(step.scale[0]) if bare and not np.ptp(step.scale) else 0.0


def split_hard_swish(graph: InferenceGraph) -> InferenceGraph:
    """Splits each hard swish into `x * hard_sigmoid(x)`: XNNPACK supports both in integers, but not hard swish."""
    number, operations = graph.next_number(), []
    for operation in graph.operations:
        if operation.kind == "hard_swish":
            gate = Value(number, operation.output.shape)
            number += 1
            operations.append(dataclasses.replace(operation, kind="hard_sigmoid", output=gate))
            operation = dataclasses.replace(operation, kind="multiply", inputs=(*operation.inputs, gate))
        operations.append(operation)
    return graph.with_operations(operations)
