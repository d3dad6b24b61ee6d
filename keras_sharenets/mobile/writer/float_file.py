"""An inference graph as a TFLite file in float32, or with the stored tensors in float16."""

import numpy as np

from keras_sharenets.mobile.writer.flatbuffer import FileWriter
from keras_sharenets.mobile.writer.operators import write_operation


class _FloatForm:
    """How values and constants look in a float file (see `operators`)."""

    version = "float32"

    def __init__(self, stored_type):
        self.writer = FileWriter()
        self._stored_type = stored_type
        self._values = {}
        self._constants = {}

    def value(self, value):
        if value.number not in self._values:
            self._values[value.number] = self.like(value, value.shape)
        return self._values[value.number]

    def like(self, value, shape):
        return self.writer.tensor(shape, "float32")

    def take_over(self, value, tensor):
        self._values[value.number] = tensor

    def kernel(self, operation, array, axis):
        return self._constant((operation.kernel, axis), array)

    def scale(self, operation):
        return self._constant((operation, "scale"), operation.scale[None, None, None])

    def bias(self, operation):
        if operation.bias is None:
            return self.no_bias(operation, operation.output.shape[-1])
        return self._constant((operation, "bias"), operation.bias)

    def no_bias(self, operation, filters):
        return self._constant(("no bias", filters), np.zeros(filters, "float32"))

    def _constant(self, key, array):
        """A constant; one of half the size is widened by an operator of its own, which delegates take away."""
        if key not in self._constants:
            number = self.writer.tensor(array.shape, self._stored_type, array)
            if self._stored_type != "float32":
                wide = self.writer.tensor(array.shape, "float32")
                self.writer.operator("DEQUANTIZE", 3, [number], [wide])
                number = wide
            self._constants[key] = number
        return self._constants[key]


def write_float(graph, signature, input_name, output_name, stored_type="float32"):
    """The bytes of a file that computes in float32.

    Args:
        graph: `InferenceGraph` without scales beside kernels (`forms.float_form`).
        signature, input_name, output_name: str, names in the signature.
        stored_type: `"float32"`, or `"float16"` for constants of half the size.
    """
    form = _FloatForm(stored_type)
    inputs = {input_name: form.value(graph.input)}
    for operation in graph.operations:
        write_operation(form, operation)
    return form.writer.finish(signature, inputs, {output_name: form.value(graph.output)})
