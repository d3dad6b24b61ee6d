"""The same network in another make: with nothing shared, or as its paper draws it, from Keras' own layers."""

import collections

import keras

from keras_sharenets.analysis.graph import trace
from keras_sharenets.analysis.rebuilding import rebuild
from keras_sharenets.layers import BatchNormalization, HighlySharedConv2D


class NativeConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` that hands groups to TensorFlow.

    On a CPU Keras hands them to XLA, where a step of a network of group convolutions takes 20 times as long.
    """

    def convolution_op(self, inputs, kernel):
        import tensorflow as tf

        return tf.nn.conv2d(inputs, keras.ops.convert_to_tensor(kernel), self.strides, self.padding.upper())


def unshared(model):
    """The network that computes as much and shares nothing: every call has a layer of its own, with a full kernel.

    Kernels keep their groups, and repeat and arrange nothing. The weights are new.

    Args:
        model: functional `keras.Model`.

    Returns:
        A functional `keras.Model`.

    >>> import keras_sharenets as ksn
    >>> model = ksn.create_model("hscnet_m32_g4_r2_b1_a2")
    >>> unshared(model).count_params() > model.count_params()
    True
    """
    name = _Names()

    def call(layer, *args, **kwargs):
        return _copied(layer, name(layer))(*args, **kwargs)

    # A plain model over the same graph: `clone_model` would compile the copy of a compiled one.
    plain = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(plain, clone_function=lambda layer: layer, call_function=call)


def drawn(model):
    """What `unshared` gives, from Keras' layers: its convolutions are `NativeConv2D`, its batch normalisation Keras'.

    Args:
        model: functional `keras.Model`, an HSC-Net: other layers of the library stay as they are.

    Returns:
        A functional `keras.Model`, for TensorFlow.
    """
    name = _Names()

    def call(each, layer, *args, **kwargs):
        if isinstance(layer, HighlySharedConv2D):
            # It has its strides from the beginning, and not from each call.
            return _native(layer, each.kwargs.get("strides") or layer.strides, name(layer))(*args)
        if isinstance(layer, BatchNormalization):
            return keras.layers.BatchNormalization.from_config(layer.get_config())(*args, **kwargs)
        return _copied(layer, name(layer))(*args, **kwargs)

    return rebuild(model, trace(model), call)


class _Names:
    """Gives every call of a layer, and every layer, a name that no other has."""

    def __init__(self):
        self.uses = collections.Counter()

    def __call__(self, layer):
        self.uses[layer.name] += 1
        return layer.name if self.uses[layer.name] == 1 else f"{layer.name}_call{self.uses[layer.name]}"


def _copied(layer, name):
    """A layer like another, but for what that shares; a function such as `keras.ops.add` as it is."""
    if not isinstance(layer, keras.Layer):
        return layer
    copy = type(layer).from_config(_whole(layer.get_config()))
    copy.name = name
    return copy


def _whole(config):
    """The configuration of a layer, and of layers in it, without repeated and arranged filters."""
    if not isinstance(config, dict):
        return config
    once = {"channel_repeats": 1, "arrangements": 1}
    # With it a layer within a layer would be built at once, and then again.
    return {key: once.get(key, _whole(value)) for key, value in config.items() if key != "build_config"}


def _native(layer, strides, name):
    return NativeConv2D(
        layer.filters,
        layer.kernel_size,
        strides,
        padding=layer.padding,
        groups=layer.groups,
        use_bias=layer.use_bias,
        activation=layer.activation,
        dtype=layer.dtype_policy,
        name=name,
    )
