"""The operators of a TFLite file for each kind of operation of an inference graph.

What a value or a constant looks like in the file (float, or integers with a scale) is the business of a `form`, an
object with `writer`, `version` ("float32" or "int8") and the methods

* `value(value)`, the number of a value's tensor, made at the first call;
* `kernel(operation, array, axis)`, that of the operation's kernel in the layout of the file; `axis` counts its filters;
* `bias(operation)`, that of its bias: zeros if it has none, for runtimes want one;
* `no_bias(operation, filters)`, that of as many zeros;
* `like(value, shape)`, that of a new tensor between two operators, of the same type and scale as a value;
* `take_over(value, tensor)`, which makes a tensor that is there already that of a value.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_sharenets.mobile.writer.operator_steps import integers, joined, operator, reshaped, transposed
from keras_sharenets.ops import permutations

_FUSED = {
    None: schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}
_PADDING = {"same": schema.Padding.SAME, "valid": schema.Padding.VALID}


def write_operation(form, operation):
    """Adds the operators of one operation to the file."""
    _KINDS[operation.kind](form, operation)


def _inputs(form, operation):
    return [form.value(value) for value in operation.inputs]


def _options(kind, operation, **more):
    """Options with the stride, the padding and the activation of an operation, as far as it has them."""
    options = getattr(schema, f"{kind}OptionsT")()
    options.fusedActivationFunction = _FUSED[operation.activation]
    if "strides" in operation.attributes:
        options.strideH, options.strideW = operation.attributes["strides"]
        options.padding = _PADDING[operation.attributes["padding"]]
    for name, value in more.items():
        setattr(options, name, value)
    return options


def _conv(form, operation):
    # Keras: (height, width, inputs, filters); the file: filters first.
    kernel = form.kernel(operation, operation.kernel.array.transpose(3, 0, 1, 2), axis=0)
    tensors = [form.value(operation.inputs[0]), kernel, form.bias(operation)]
    version = 6 if operation.attributes["groups"] > 1 else None
    operator(form, "CONV_2D", tensors, form.value(operation.output), _options("Conv2D", operation), version)


def _shared_conv(form, operation):
    """The bank of filters once, over a batch of all repeats: parts of the picture's channels."""
    (source,), repeats = operation.inputs, operation.attributes["channel_repeats"]
    _, height, width, channels = source.shape
    table = (height * width, repeats, channels // repeats)
    pictures = (repeats, height, width, channels // repeats)
    x = transposed(form, form.value(source), source, table, (1, 0, 2), pictures)
    kernel = form.kernel(operation, operation.kernel.array.transpose(3, 0, 1, 2), axis=0)
    _, height, width, filters = operation.output.shape
    y = form.like(operation.output, (repeats, height, width, filters // repeats))
    tensors = [x, kernel, form.no_bias(operation, filters // repeats)]
    version = 6 if operation.attributes["groups"] > repeats else None
    operator(form, "CONV_2D", tensors, y, _options("Conv2D", operation), version)
    table = (repeats, height * width, filters // repeats)
    y = transposed(form, y, operation.output, table, (1, 0, 2), operation.output.shape)
    form.take_over(operation.output, y)


def _depthwise(form, operation):
    kernel = form.kernel(operation, operation.kernel.array.transpose(3, 0, 1, 2), axis=3)
    _depthwise_conv(form, operation, kernel, _options("DepthwiseConv2D", operation, depthMultiplier=1))


def _affine(form, operation):
    """A scale and a shift are a depthwise convolution of one pixel, which runtimes run with its activation."""
    options = _options("DepthwiseConv2D", operation, depthMultiplier=1, strideH=1, strideW=1)
    _depthwise_conv(form, operation, form.scale(operation), options)


def _depthwise_conv(form, operation, kernel, options):
    tensors = [form.value(operation.inputs[0]), kernel, form.bias(operation)]
    operator(form, "DEPTHWISE_CONV_2D", tensors, form.value(operation.output), options)


def _dense(form, operation):
    kernel = form.kernel(operation, operation.kernel.array.T, axis=0)
    tensors = [form.value(operation.inputs[0]), kernel, form.bias(operation)]
    operator(form, "FULLY_CONNECTED", tensors, form.value(operation.output), _options("FullyConnected", operation))


def _plain(name, kind=None):
    """An operator that takes all inputs as they are; `kind` names its options, if they hold an activation or window."""

    def write(form, operation):
        options = None if kind is None else _options(kind, operation)
        operator(form, name, _inputs(form, operation), form.value(operation.output), options)

    return write


def _pool(name):
    def write(form, operation):
        height, width = operation.attributes["pool_size"]
        options = _options("Pool2D", operation, filterHeight=height, filterWidth=width)
        operator(form, name, _inputs(form, operation), form.value(operation.output), options)

    return write


def _concat(form, operation):
    parts = [(form.value(value), value.shape[-1]) for value in operation.inputs]
    joined(form, parts, operation.output)


def _pad(form, operation):
    tensors = [*_inputs(form, operation), integers(form, operation.attributes["paddings"])]
    if operation.attributes.get("mode") == "symmetric":
        options = schema.MirrorPadOptionsT()
        options.mode = schema.MirrorPadMode.SYMMETRIC
        operator(form, "MIRROR_PAD", tensors, form.value(operation.output), options)
    else:
        operator(form, "PAD", tensors, form.value(operation.output), schema.PadOptionsT())


def _over_picture(name):
    def write(form, operation):
        options = schema.ReducerOptionsT()
        options.keepDims = operation.attributes["keepdims"]
        tensors = [*_inputs(form, operation), integers(form, (1, 2))]
        operator(form, name, tensors, form.value(operation.output), options)

    return write


def _reshape(form, operation):
    reshaped(form, form.value(operation.inputs[0]), form.value(operation.output), operation.output.shape)


def _slice(form, operation):
    shape = operation.output.shape
    begin = [operation.attributes.get("picture", 0), *[0] * (len(shape) - 2), operation.attributes["start"]]
    tensors = [*_inputs(form, operation), integers(form, begin), integers(form, shape)]
    operator(form, "SLICE", tensors, form.value(operation.output), schema.SliceOptionsT())


def _stack(form, operation):
    """The groups that channels are dealt to are the columns of a table, which delegates turn as a whole."""
    (source,), (groups, height, width, size) = operation.inputs, operation.output.shape
    table = (height * width, size, groups)
    stacked = transposed(form, form.value(source), source, table, (2, 0, 1), operation.output.shape)
    form.take_over(operation.output, stacked)


def _permute(form, operation):
    """A shuffle is a transposed table, which delegates run; any other order is a gather, which they do not."""
    indices, (source,) = operation.attributes["indices"], operation.inputs
    channels = len(indices)
    rows = next((rows for rows in range(2, channels) if _is_shuffle(indices, channels, rows)), None)
    if rows is None:
        options = schema.GatherOptionsT()
        options.axis = len(source.shape) - 1
        tensors = [form.value(source), integers(form, indices)]
        operator(form, "GATHER", tensors, form.value(operation.output), options)
        return
    pixels, columns = int(np.prod(source.shape[:-1])), channels // rows
    table = (pixels, rows, columns)
    shuffled = transposed(form, form.value(source), source, table, (0, 2, 1), operation.output.shape)
    form.take_over(operation.output, shuffled)


def _is_shuffle(indices, channels, rows):
    return channels % rows == 0 and np.array_equal(indices, permutations.channel_shuffle(channels, rows))


def _identity(form, operation):
    name = {"relu": "RELU", "relu6": "RELU6"}[operation.activation]
    operator(form, name, _inputs(form, operation), form.value(operation.output))


def _softmax(form, operation):
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    operator(form, "SOFTMAX", _inputs(form, operation), form.value(operation.output), options)


_KINDS = {
    "conv": _conv,
    "shared_conv": _shared_conv,
    "depthwise": _depthwise,
    "affine": _affine,
    "dense": _dense,
    "add": _plain("ADD", "Add"),
    "multiply": _plain("MUL", "Mul"),
    "concat": _concat,
    "pad": _pad,
    "max_pool": _pool("MAX_POOL_2D"),
    "average_pool": _pool("AVERAGE_POOL_2D"),
    "mean": _over_picture("MEAN"),
    "max": _over_picture("REDUCE_MAX"),
    "reshape": _reshape,
    "slice": _slice,
    "stack": _stack,
    "permute": _permute,
    "softmax": _softmax,
    "sigmoid": _plain("LOGISTIC"),
    "identity": _identity,
}
