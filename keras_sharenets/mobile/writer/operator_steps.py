"""Single operators of a TFLite file, and the few that belong together to move numbers about.

A `form` is described in `operators`.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

# The first version of each operator that has what is written here.
_VERSIONS = {
    "ADD": {"float32": 1, "int8": 2},
    "AVERAGE_POOL_2D": {"float32": 1, "int8": 2},
    "CONCATENATION": {"float32": 1, "int8": 2},
    "CONV_2D": {"float32": 1, "int8": 3},
    "DEPTHWISE_CONV_2D": {"float32": 1, "int8": 3},
    "FULLY_CONNECTED": {"float32": 1, "int8": 4},
    "GATHER": {"float32": 1, "int8": 2},
    "LOGISTIC": {"float32": 1, "int8": 2},
    "MAX_POOL_2D": {"float32": 1, "int8": 2},
    "MEAN": {"float32": 1, "int8": 2},
    "MIRROR_PAD": {"float32": 1, "int8": 2},
    "MUL": {"float32": 1, "int8": 2},
    "PAD": {"float32": 1, "int8": 2},
    "REDUCE_MAX": {"float32": 1, "int8": 2},
    "RELU": {"float32": 1, "int8": 2},
    "RELU6": {"float32": 1, "int8": 2},
    "RESHAPE": {"float32": 1, "int8": 1},
    "SLICE": {"float32": 1, "int8": 2},
    "SOFTMAX": {"float32": 1, "int8": 2},
    "TRANSPOSE": {"float32": 1, "int8": 2},
}
# Delegates join so many tensors at a time.
_MOST_JOINED = 5


def operator(form, name, inputs, output, options=None, version=None):
    form.writer.operator(name, version or _VERSIONS[name][form.version], inputs, [output], options)


def integers(form, values):
    array = np.asarray(values, "int32")
    return form.writer.tensor(array.shape, "int32", array)


def joined(form, parts, value):
    """Joins the channels of `parts`, pairs of a tensor of the type of `value` and its channels, to `value`."""
    *places, _ = value.shape
    while len(parts) > _MOST_JOINED:
        count = min(_MOST_JOINED, len(parts) - _MOST_JOINED + 1)
        width = sum(channels for _, channels in parts[:count])
        between = form.like(value, (*places, width))
        _join(form, parts[:count], between, len(places))
        parts = [(between, width), *parts[count:]]
    _join(form, parts, form.value(value), len(places))


def _join(form, parts, target, axis):
    options = schema.ConcatenationOptionsT()
    options.axis, options.fusedActivationFunction = axis, schema.ActivationFunctionType.NONE
    operator(form, "CONCATENATION", [tensor for tensor, _ in parts], target, options)


def reshaped(form, source, target, shape):
    # The shape is a constant input too: some runtimes read only that.
    options = schema.ReshapeOptionsT()
    options.newShape = list(shape)
    operator(form, "RESHAPE", [source, integers(form, shape)], target, options)


def transposed(form, source, value, before, order, after):
    """The tensor `source`, of the type of `value`, as a table, its axes in another order, and reshaped again."""
    table = form.like(value, before)
    reshaped(form, source, table, before)
    turned_shape = tuple(before[axis] for axis in order)
    turned = form.like(value, turned_shape)
    operator(form, "TRANSPOSE", [table, integers(form, order)], turned, schema.TransposeOptionsT())
    if after == turned_shape:
        return turned
    result = form.like(value, after)
    reshaped(form, turned, result, after)
    return result
