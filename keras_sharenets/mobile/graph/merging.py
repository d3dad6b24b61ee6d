"""Convolutions of one picture that are added become one, their kernels added in weight space."""

import dataclasses

from keras_sharenets.mobile.graph.inference_graph import Stored


def merge_added(graph):
    """A convolution and a 1x1 convolution of the same picture, added: the 1x1 kernel joins the place that it acts on.

    Done where all uses of both kernels are in such pairs, so that no kernel is stored twice.
    """
    pairs = _pairs(graph)
    replaced, gone, merged = {}, set(), {}
    for operation, (large, small, place) in pairs.items():
        key = large.kernel, small.kernel, place
        if key not in merged:
            array = large.kernel.array.copy()
            array[place] += small.kernel.array[0, 0]
            merged[key] = Stored(f"{large.kernel.name} and {small.kernel.name}", array)
        replaced[operation] = dataclasses.replace(large, output=operation.output, kernel=merged[key])
        gone |= {large, small}
    operations = [replaced.get(operation, operation) for operation in graph.operations if operation not in gone]
    return dataclasses.replace(graph, operations=tuple(operations))


def _pairs(graph):
    """`{addition: (convolution, 1x1 convolution, place in the kernel of the first)}` where they can be one."""
    readers = graph.consumers()
    producers = {operation.output.number: operation for operation in graph.operations}
    pairs = {}
    for operation in graph.operations:
        parts = [producers.get(value.number) for value in operation.inputs]
        if operation.kind == "add" and len(parts) == 2 and all(_is_plain(part, readers, graph) for part in parts):
            large, small = sorted(parts, key=lambda part: -part.kernel.array.size)
            place = _common_place(large, small, producers)
            if place is not None:
                pairs[operation] = large, small, place
    return _complete(graph, pairs)


def _is_plain(part, readers, graph):
    """Whether nothing but the addition reads this convolution, and nothing is done to it before."""
    if part is None or part.kind != "conv" or part.output == graph.output:
        return False
    bare = part.scale is None and part.bias is None and part.activation is None
    return bare and len(readers[part.output.number]) == 1


def _common_place(large, small, producers):
    """Where in the large kernel the 1x1 kernel acts; `None` if they do not go over the same picture alike."""
    alike = all(large.attributes[name] == small.attributes[name] for name in ("strides", "groups"))
    sides = large.kernel.array.shape[:2]
    if (
        not alike
        or small.kernel.array.shape[:2] != (1, 1)
        or small.kernel.array.shape[3] != large.kernel.array.shape[3]
    ):
        return None
    if large.attributes["padding"] == "same":
        central = large.attributes["strides"] == (1, 1) and all(side % 2 for side in sides)
        return tuple(side // 2 for side in sides) if central and large.inputs == small.inputs else None
    if large.inputs == small.inputs:
        return None if sides != (1, 1) else (0, 0)
    pad = producers.get(large.inputs[0].number)
    if pad is None or pad.kind != "pad" or "mode" in pad.attributes or pad.inputs != small.inputs:
        return None
    _, rows, columns, channels = pad.attributes["paddings"]
    place = rows[0], columns[0]
    inside = all(start < side for start, side in zip(place, sides, strict=True))
    return place if inside and channels == (0, 0) else None


def _complete(graph, pairs):
    """The pairs whose kernels are used in no other way."""
    partners = {}
    for large, small, place in pairs.values():
        for kernel, partner in ((large.kernel, (small.kernel, place)), (small.kernel, (large.kernel, place))):
            partners.setdefault(kernel, []).append(partner)
    uses = graph.uses()
    sound = {kernel for kernel, found in partners.items() if len(found) == len(uses[kernel]) and len(set(found)) == 1}
    return {
        addition: (large, small, place)
        for addition, (large, small, place) in pairs.items()
        if large.kernel in sound and small.kernel in sound
    }
