"""The form of a network that runtimes run: the same weights and results, other ways to compute them."""

import keras

from keras_sharenets.analysis.graph import calls
from keras_sharenets.layers.quantized_kernels import inner

ENDS = (keras.activations.softmax, keras.activations.sigmoid)


def inference_form(model):
    """A copy of a network in which every layer that can choose runs the way that inference runtimes run fastest.

    Training folds repeated filters into the batch, because that is fast under XLA. Inference runtimes run native
    grouped convolutions faster, and their files show the groups. A layer's `inference_implementation` names its choice.

    Args:
        model: functional or sequential `keras.Model`, built. It is not changed.

    Returns:
        A new model with copies of the weights, layers shared as before, and the same outputs.

    Raises:
        ValueError: the model is neither functional nor sequential.

    >>> import keras_sharenets as ksn
    >>> model = ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(16, 16, 3))
    >>> inference_form(model).get_layer("stage1_module1_convolution").spatial.implementation
    'grouped'
    """

    copy = _copy(model)
    for call in calls(copy):
        layer = inner(call.operation)
        if hasattr(layer, "inference_implementation"):
            layer.implementation = layer.inference_implementation
    return copy


def score_form(model):
    """A copy of a classifier that ends before its softmax or sigmoid.

    Where a classifier is very sure, its probabilities are exactly 0 and 1 and no longer show what happens inside; the
    scores before them always do.

    Args:
        model: functional or sequential `keras.Model`, built. It is not changed.

    Returns:
        A new model with copies of the weights, or `None` if the model does not end in a softmax or sigmoid.
    """
    if not gives_probabilities(model):
        return None
    copy = _copy(model)
    end = _last_layer(copy)
    if isinstance(end, keras.layers.Softmax):
        return keras.Model(copy.input, end.input)
    inner(end).activation = keras.activations.linear
    return copy


def gives_probabilities(model):
    """Whether the network visibly ends in a softmax or sigmoid."""
    end = inner(_last_layer(model))
    return isinstance(end, keras.layers.Softmax) or getattr(end, "activation", None) in ENDS


def _last_layer(model):
    if isinstance(model, keras.Sequential):
        return model.layers[-1]
    return model.get_layer(model.output_names[0])


def _copy(model):
    try:
        copy = keras.models.clone_model(model)
    except ValueError as error:
        name = getattr(model, "name", model)
        raise ValueError(f"`model` (={name!r}) must be a functional or sequential Keras model: {error}") from error
    copy.set_weights(model.get_weights())
    return copy
