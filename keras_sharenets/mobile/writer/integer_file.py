"""A quantised inference graph as a TFLite file that computes in integers throughout."""

import numpy as np

from keras_sharenets.mobile.graph.quantization import affine_encoding
from keras_sharenets.mobile.writer.flatbuffer import FileWriter
from keras_sharenets.mobile.writer.operators import write_operation


class _IntegerForm:
    """How values and constants look in an int8 file (see `operators`)."""

    version = "int8"

    def __init__(self, quantised):
        self.writer = FileWriter()
        self._quantised = quantised
        self._values = {}
        self._filter_scales = {}

    def value(self, value):
        if value.number not in self._values:
            self._values[value.number] = self.like(value, value.shape)
        return self._values[value.number]

    def like(self, value, shape):
        encoding = self._quantised.values[value.number]
        return self.writer.tensor(shape, "int8", quantisation=(encoding.scale, encoding.zero_point, 0))

    def take_over(self, value, tensor):
        self._values[value.number] = tensor

    def kernel(self, operation, array, axis):
        encoding = self._quantised.kernels[operation.kernel]
        scales = encoding.scale.reshape([-1 if place == axis else 1 for place in range(array.ndim)])
        integers = np.clip(np.round(array / scales), -127, 127)
        used = encoding.scale if operation.scale is None else encoding.scale * operation.scale
        return self._constant(operation, integers, used, axis)

    def scale(self, operation):
        integers, encoding = affine_encoding(operation, self._input_scale(operation))
        return self._constant(operation, integers[None, None, None], encoding.scale, 3)

    def bias(self, operation):
        if operation.bias is None:
            return self.no_bias(operation, operation.output.shape[-1])
        return self._bias(operation, operation.bias)

    def no_bias(self, operation, filters):
        return self._bias(operation, np.zeros(filters))

    def _bias(self, operation, numbers):
        scales = self._filter_scales[operation] * self._input_scale(operation)
        integers = np.clip(np.round(numbers / scales), -(2**31), 2**31 - 1)
        return self.writer.tensor(integers.shape, "int32", integers, (scales, 0, 0))

    def _input_scale(self, operation):
        return self._quantised.values[operation.inputs[0].number].scale

    def _constant(self, operation, integers, scales, axis):
        self._filter_scales[operation] = scales.astype("float32")
        return self.writer.tensor(integers.shape, "int8", integers, (scales, 0, axis))


def write_int8(quantised, signature, input_name, output_name):
    """The bytes of a file with int8 inputs, outputs, values and kernels, and biases of 32 bits.

    Args:
        quantised: `Quantised`.
        signature, input_name, output_name: str, names in the signature.
    """
    form = _IntegerForm(quantised)
    graph = quantised.graph
    inputs = {input_name: form.value(graph.input)}
    for operation in graph.operations:
        write_operation(form, operation)
    return form.writer.finish(signature, inputs, {output_name: form.value(graph.output)})
