"""Copies of networks and of single layers, with their weights."""

import inspect
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_sharenets.analysis.graph import calls, ends, is_functional
from keras_sharenets.dtype_policies import HALF, full_types, in_policy


def copy_layer(operation: keras.Operation, change: Callable[[Any], Any] = lambda config: config) -> keras.Operation:
    """An unbuilt copy of a layer or another operation, with the same functions and, of a lookup, the same vocabulary.

    Args:
        operation: the layer or operation.
        change: function that changes its config.

    Raises:
        ValueError: it cannot be recreated from its config.
    """
    try:
        config = change(operation.get_config())
        if isinstance(operation, keras.layers.Lambda):  # `from_config` accepts no functions.
            own = {"output_shape": operation._output_shape, "mask": operation.mask, "arguments": operation.arguments}
            return type(operation)(**{**config, **own, "function": operation.function})
        # In a config, a function is a name, which may be that of another one, or code, which Keras does not load.
        own = {name: getattr(operation, name, None) for name in config}
        functions = {name: value for name, value in own.items() if inspect.isfunction(value)}
        copy = type(operation).from_config(config | functions)
        if hasattr(operation, "save_assets"):  # An adapted vocabulary is neither in the config nor in the weights.
            with tempfile.TemporaryDirectory() as folder:
                operation.save_assets(folder)
                copy.load_assets(folder)
        return copy
    except Exception as error:
        raise ValueError(
            f"`model` must consist of layers that can be recreated from their config: '{operation.name}', a "
            f"{type(operation).__name__}, cannot. {error}"
        ) from error


def copy_network(
    model: keras.Model,
    copy: Callable[[Any], keras.Operation] = copy_layer,
    takes_over: Callable[[keras.layers.Layer], bool] = lambda layer: True,
) -> keras.Model:
    """Copies a network with its weights. Layers that are shared in `model` are shared in the copy.

    Args:
        model: built functional or sequential model; may have nested models.
        copy: function that returns the unbuilt replacement of a layer or operation, with weights of the same shapes.
        takes_over: whether to copy the weights of a layer; otherwise they are initialized.
    """
    copies = {}

    def copy_of(operation: keras.Operation) -> keras.Operation:
        """The single copy of a layer or another operation, regardless of how often it is used."""
        if id(operation) not in copies:
            copies[id(operation)] = operation, copy_of_model(operation) if is_functional(operation) else copy(operation)
        return copies[id(operation)][1]

    def copy_of_model(model: keras.Model) -> keras.Model:
        given, results = ends(model)
        # A plain model over the same graph: `clone_model` compiles the clone of a compiled model.
        plain = keras.Model(given, results, name=model.name)
        inputs = keras.tree.map_structure(lambda tensor: copy_of(tensor._keras_history.operation).output, given)
        return keras.models.clone_model(plain, inputs, clone_function=copy_of)

    new = copy_of_model(model)
    for operation, its_copy in copies.values():
        if isinstance(operation, keras.layers.Layer) and takes_over(operation):
            set_weights(its_copy, operation.get_weights())
    return new


def set_weights(layer: keras.layers.Layer, weights: Sequence[Any]) -> None:
    """Sets the weights of a layer, and recomputes the constants that each `Normalization` in it derives from them."""
    layer.set_weights(weights)
    for part in layer._flatten_layers():
        if isinstance(part, keras.layers.Normalization):
            part.finalize_state()


def in_full_precision(model: keras.Model) -> keras.Model:
    """The network itself if it computes in float32, or a float32 copy of a network that computes in half precision."""
    if not any(getattr(call.operation, "compute_dtype", None) in HALF for call in calls(model)):
        return model
    # Nested models cast their inputs to the dtype policy under which they were created.
    return in_policy("float32", lambda: copy_network(model, _copy_in_full_types))


def _copy_in_full_types(operation: keras.Operation) -> keras.Operation:
    return copy_layer(operation, full_types)
