"""The same network again over the same layers, with other layers put between or around them."""

import keras

from keras_sharenets.analysis.graph import Tensor


def rebuild(model, graph, call, start=lambda tensor, symbol: symbol):
    """A functional model made by going through the calls of another one.

    Nothing is copied: layers, and so weights, belong to both models.

    Args:
        model: functional `keras.Model` or built `keras.Sequential`, for the names of inputs and of the whole.
        graph: what [`keras_sharenets.analysis.graph.trace`] gives for it.
        call: function `(call, operation, *args, **kwargs)` that makes one call, given its `Call`, its operation and its
            arguments as symbolic tensors, and returns its output or outputs.
        start: function `(tensor, symbol)` of each input, its `Tensor` and what stands for it, that returns what is
            read in its place.

    Returns:
        A functional `keras.Model`, not compiled.
    """
    plain = keras.Model(model.inputs, model.outputs)
    names = [layer.name for layer in plain.layers if isinstance(layer, keras.layers.InputLayer)]
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for tensor, name in zip(graph.inputs, names, strict=True)
    ]
    values = {tensor.number: start(tensor, symbol) for tensor, symbol in zip(graph.inputs, inputs, strict=True)}

    def symbolic(argument):
        return values[argument.number] if isinstance(argument, Tensor) else argument

    for each in graph.calls:
        args, kwargs = keras.tree.map_structure(symbolic, (each.args, each.kwargs))
        results = keras.tree.flatten(call(each, each.operation, *args, **kwargs))
        values.update({tensor.number: result for tensor, result in zip(each.outputs, results, strict=True)})
    outputs = [values[tensor.number] for tensor in graph.outputs]
    single = len(outputs) == 1
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, outputs[0] if single else outputs, name=model.name)
