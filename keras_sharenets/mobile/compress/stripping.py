"""Networks without what was put into them to train them for phones."""

from keras_sharenets.analysis.graph import trace
from keras_sharenets.analysis.rebuilding import rebuild
from keras_sharenets.layers import FakeQuantize, QuantizedKernels
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.mobile.compress.tfmot_training import plain


def strip(model):
    """A network that was pruned, clustered or trained quantisation-aware, as a plain one with the very same layers.

    What was pruned or clustered stays so. Rounding goes: kernels are again the numbers that training moved, and values
    are not rounded; their ranges are lost with it.

    Args:
        model: what [`prune`], [`cluster`] or [`quantize_aware`] made, or any functional or sequential `keras.Model`.

    Returns:
        A functional `keras.Model` that is not compiled.

    Raises:
        ValueError: the model is neither functional nor sequential.

    >>> import keras_sharenets as ksn
    >>> model = ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(16, 16, 3))
    >>> stripped = strip(ksn.mobile.quantize_aware(model))
    >>> {weight.path for weight in stripped.weights} == {weight.path for weight in model.weights}
    True
    """
    traced = trace(model)
    if any(isinstance(call.operation, (FakeQuantize, QuantizedKernels)) for call in traced.calls):
        return rebuild(model, traced, _without_rounding)
    return plain(model)


def _without_rounding(call, operation, *args, **kwargs):
    if isinstance(operation, QuantizedKernels):
        # Clusters are equal but for the last bit of a float: here they become so.
        for (variable, _), kernel in zip(operation.kernels, operation.preserved_kernels(), strict=True):
            variable.assign(kernel)
    return args[0] if isinstance(operation, FakeQuantize) else inner(operation)(*args, **kwargs)
