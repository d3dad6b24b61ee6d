"""Checks of the tensor names in a file."""

import re

from ai_edge_litert import schema_py_generated as schema

from keras_sharenets.analysis import calls

ENDS = {"images", "probabilities", "scores"}
# The maximum size of all names: a share of files above 200 kB, and a number of bytes in smaller ones.
SHARE, SMALL_FILE, BYTES = 0.025, 200_000, 4096


def tensor_names(data):
    """The names of all tensors of a file, in order."""
    graph = schema.Model.GetRootAs(data).Subgraphs(0)
    return [(graph.Tensors(index).Name() or b"").decode() for index in range(graph.TensorsLength())]


def is_abbreviation(short, layer):
    """Whether the letters of a short name occur in the layer's name in the same order."""
    rest = iter(layer)
    return all(letter in rest for letter in short)


def check_names(data, model):
    """Tensor names must be unique, short, and derived from their layers, and take few bytes in total."""
    names = tensor_names(data)
    assert all(names)
    assert len(set(names)) == len(names)
    assert sum(map(len, names)) <= 12 * len(names)
    layers = {call.operation.name for call in calls(model)}
    for name in set(names) - ENDS:
        short = re.sub(r"(/[kbcs])?(_\d+)?$", "", name)
        # Tensors without a layer have a letter and a number; the int8 version of an input is named after the input.
        assert (
            re.fullmatch(r"[dtw]\d*", name) or short in ENDS or any(is_abbreviation(short, layer) for layer in layers)
        ), name
    # An offset in the tensor's table, a length, and the zero-terminated text padded to a multiple of 4.
    cost = sum(8 + 4 * (len(name) // 4 + 1) for name in names)
    assert cost <= (SHARE * len(data) if len(data) > SMALL_FILE else BYTES)
