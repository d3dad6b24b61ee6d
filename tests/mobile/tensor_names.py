"""What every file keeps of the names of its tensors."""

import re

from ai_edge_litert import schema_py_generated as schema

from keras_sharenets.analysis import calls

ENDS = {"images", "probabilities", "scores"}
# Of the bytes of a file of more than 200 kB; smaller ones have so many bytes.
SHARE, SMALL_FILE, BYTES = 0.025, 200_000, 4096


def tensor_names(data):
    """The names of all tensors of a file, in their order."""
    graph = schema.Model.GetRootAs(data).Subgraphs(0)
    return [(graph.Tensors(index).Name() or b"").decode() for index in range(graph.TensorsLength())]


def spelled(short, layer):
    """Whether the letters of a short name are in the layer's name, in this order."""
    rest = iter(layer)
    return all(letter in rest for letter in short)


def check_names(data, model):
    """Every tensor has a name of its own, short, which shows its layer; all of them take few bytes."""
    names = tensor_names(data)
    assert all(names)
    assert len(set(names)) == len(names)
    assert sum(map(len, names)) <= 12 * len(names)
    layers = {call.operation.name for call in calls(model)}
    for name in set(names) - ENDS:
        short = re.sub(r"(/[kbs])?(_\d+)?$", "", name)
        # What no layer gives has a letter and a number; the int8 input behind another one is named after it.
        assert re.fullmatch(r"[dtw]\d*", name) or short in ENDS or any(spelled(short, layer) for layer in layers), name
    # A place in the record of the tensor, a length, and the text with its final zero, in multiples of 4.
    cost = sum(8 + 4 * (len(name) // 4 + 1) for name in names)
    assert cost <= (SHARE * len(data) if len(data) > SMALL_FILE else BYTES)
