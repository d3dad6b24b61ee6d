"""Which weights quantization-aware training rounds, and with which scales."""

import keras
import numpy as np
import pytest
from harness import assert_close, pseudo_random

from keras_sharenets import mobile
from keras_sharenets.layers import QuantizedKernels


@pytest.mark.parametrize("engine", ["keras", "tfmot"])
@pytest.mark.parametrize("depth_multiplier", [1, 2])
def test_kernels_of_separable_convolution_are_quantized(engine, depth_multiplier):
    """Each filter has a separate scale, as in the file; a depthwise kernel has one per channel and multiplier."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 3), name="images")
    layer = keras.layers.SeparableConv2D(
        4, 3, depth_multiplier=depth_multiplier, depthwise_initializer="normal", pointwise_initializer="normal"
    )
    x = keras.layers.GlobalAveragePooling2D()(layer(inputs))
    q = mobile.quantize_aware(keras.Model(inputs, keras.layers.Dense(2)(x)), engine=engine)
    (wrapper,) = [each for each in q.layers if isinstance(each, QuantizedKernels) and each.layer is layer]
    images = pseudo_random((2, 6, 6, 3))
    rounded = []
    for kernel, axes in ((layer.depthwise_kernel, (0, 1)), (layer.pointwise_kernel, (0, 1, 2))):
        array = np.asarray(kernel)
        step = np.abs(array).max(axes, keepdims=True) / 127
        rounded.append((np.round(array / step) * step).astype("float32"))
    exact = [np.asarray(kernel) for kernel in (layer.depthwise_kernel, layer.pointwise_kernel)]
    found = np.asarray(wrapper(images))
    plain = np.asarray(layer(images))
    layer.set_weights([*rounded, *layer.get_weights()[2:]])
    right = np.asarray(layer(images))
    layer.set_weights([*exact, *layer.get_weights()[2:]])
    assert_close(found, right, 1e-5)
    assert np.abs(plain - right).max() > 1e-4  # Distinguishes rounded kernels from exact ones.


@pytest.mark.parametrize(
    ("layer", "filters"),
    [
        (keras.layers.SeparableConv1D(4, 3, depth_multiplier=2), [(0,), (0, 1)]),
        (keras.layers.DepthwiseConv1D(3, depth_multiplier=2), [(0,)]),
        (keras.layers.Conv1D(4, 3, activation=keras.layers.PReLU()), [(0, 1)]),
        (keras.layers.EinsumDense("abc,cde->abde", (6, 4, 2), bias_axes="de"), [(0,)]),
        (keras.layers.EinsumDense("abc,bcd->ad", 4), [(0, 1)]),
    ],
)
def test_kernels_of_sequence_layers_are_quantized(layer, filters):
    """One scale per filter; the slopes of an activation are not a kernel."""
    inputs = keras.Input((6, 3))
    q = mobile.quantize_aware(keras.Model(inputs, layer(inputs)))
    (wrapper,) = [each for each in q.layers if isinstance(each, QuantizedKernels)]
    with wrapper.rounded():
        rounded = [np.asarray(keras.ops.convert_to_tensor(kernel)) for kernel, _ in wrapper.kernels]
    for (kernel, _), axes, found in zip(wrapper.kernels, filters, rounded, strict=True):
        step = np.abs(np.asarray(kernel)).max(axes, keepdims=True) / 127
        assert_close(found, np.round(np.asarray(kernel) / step) * step, 1e-5)


def test_unknown_kernel_is_rejected():
    class Odd(keras.layers.Layer):
        strides, padding, dilation_rate, bias, activation = 1, "same", 1, None, None

        def build(self, shape):
            self.weight = self.add_weight(shape=(3, 3, shape[-1], 4), name="weight")

        def effective_kernel(self):
            return self.weight * 2.0

        def call(self, inputs):
            return keras.ops.conv(inputs, self.effective_kernel(), padding="same")

    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(Odd(name="odd")(inputs)))
    with pytest.raises(
        ValueError, match="Layer 'odd' of `model` has a weight 'weight' that is not recognized as a kernel"
    ):
        mobile.quantize_aware(model)
