"""Profiles of networks whose cost depends on the size of the image, or that change the size of the batch."""

import keras
import pytest
from keras import layers

import keras_sharenets as ksn
from keras_sharenets.analysis.profile import profile


def test_the_size_of_the_image():
    model = ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(None, None, 3))
    fixed = ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(16, 20, 3))
    with pytest.raises(
        ValueError, match=r"`input_shape` must specify the unknown dimensions .* multiply-adds of 'stem' depend on them"
    ):
        profile(model)
    assert profile(model, input_shape=(16, 20, 3)) == profile(fixed)
    with pytest.raises(ValueError, match=r"`input_shape` \(=\(32, 32, 3\)\) must agree with .* \(=\(16, 20, 3\)\)"):
        profile(fixed, input_shape=(32, 32, 3))


def test_unknown_dimensions_without_cost_need_not_be_given():
    inputs = keras.Input((None, None, 3))
    p = profile(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.ReLU()(inputs)))))
    assert p.multiply_adds == 3 * 2


def test_a_nested_model_costs_at_each_call_what_its_input_costs():
    inner = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(3, 3, padding="same")], name="inner")
    inputs = keras.Input((8, 8, 3))
    p = profile(keras.Model(inputs, inner(layers.MaxPooling2D(2)(inner(inputs)))))
    assert p.multiply_adds == (8 * 8 + 4 * 4) * 3 * 27
    assert (p.stored_parameters, p.effective_parameters) == (3 * 27 + 3, 2 * (3 * 27 + 3))


def frames_as_images(frames, convolution, fold):
    """A video network that convolves all frames as one batch."""
    inputs = keras.Input((frames, 8, 8, 3))
    y = keras.ops.reshape(convolution(fold(inputs)), (-1, 2, 6 * 6 * 4))
    return keras.Model(inputs, layers.Dense(5)(y))


class Fold(layers.Layer):
    """Turns the frames of a video into images."""

    def call(self, inputs):
        return keras.ops.reshape(inputs, (-1, 8, 8, 3))


@pytest.mark.parametrize(
    "fold",
    [lambda x: keras.ops.reshape(x, (-1, 8, 8, 3)), Fold(), layers.Lambda(Fold().call)],
    ids=["op", "layer", "lambda"],
)
def test_multiply_adds_of_several_images_per_input(fold):
    kernel = 3 * 3 * 3 * 4
    model = frames_as_images(2, layers.Conv2D(4, 3, name="conv"), fold)
    # Each frame has 6 x 6 output pixels; the dense layer reads each frame as a vector.
    assert profile(model).multiply_adds == 2 * 6 * 6 * kernel + 2 * (6 * 6 * 4 * 5)
    assert profile(model).layers[-1].input_shape == (None, 2, 6 * 6 * 4)
    fixed = keras.Input(batch_shape=(3, 2, 8, 8, 3))
    assert profile(keras.Model(fixed, model(fixed))).multiply_adds == profile(model).multiply_adds
    unknown = frames_as_images(None, layers.Conv2D(4, 3, name="conv"), fold)
    with pytest.raises(ValueError, match=r"`input_shape` must specify .* multiply-adds of 'conv'"):
        profile(unknown)
    assert profile(unknown, (2, 8, 8, 3)).multiply_adds == profile(model).multiply_adds


def test_multiply_adds_of_joined_batches():
    inputs = keras.Input((6,))
    both = layers.Concatenate(axis=0)([inputs, layers.Dense(6, name="own")(inputs)])
    p = profile(keras.Model(inputs, layers.Dense(4)(both)))
    assert p.multiply_adds == 6 * 6 + 2 * (6 * 4)


class OwnShape(layers.Layer):
    """A layer that declares its shape without the size of the batch."""

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return (None, *input_shape[1:])


class Batches(layers.Layer):
    """A layer that needs an even batch."""

    def call(self, inputs):
        return keras.ops.reshape(keras.ops.reshape(inputs, (-1, 2, 6)), (-1, 6))


def test_layers_that_do_not_tell_the_batch():
    # On JAX, Keras cannot call a layer that needs an even batch on a symbol.
    own = (OwnShape, Batches) if keras.backend.backend() == "tensorflow" else (OwnShape,)
    for layer in own:
        inputs = keras.Input((6,))
        assert profile(keras.Model(inputs, layers.Dense(4)(layer()(inputs)))).multiply_adds == 6 * 4
