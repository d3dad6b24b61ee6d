import keras
import numpy as np
import pytest
from harness import counts_only, pseudo_random, slow_after
from keras import layers

import keras_sharenets as ksn
from keras_sharenets.analysis.profile import profile
from keras_sharenets.layers import HighlySharedConv2D

# The tensors of an HSC-Net by the suffixes of layer names; the numbers are the counts of the paper's algorithm 1.
TENSORS = {
    "stem": ("stem",),
    "theta1": ("_reduce", "_reduce1", "_reduce2"),
    "theta2": ("_expand1",),
    "theta3": ("_expand2",),
    "theta4": ("_spatial",),
    "theta5": ("_group_pointwise",),
    "shortcuts": ("_projection",),
    "classifier": ("predictions",),
    "norms": ("_norm",),
}
M128 = (432, 513_024, 344_064, 688_128, 12_096, 21_504, 165_888, 5_130, 28_704)
M224 = (432, 1_794_048, 1_204_224, 2_408_448, 48_384, 86_016, 505_344, 897_000, 53_792)


def test_kernels_in_a_wrapper_are_those_of_a_convolution():
    inputs = keras.Input((8, 8, 3))
    convolution = layers.Conv2D(4, 3, name="conv")
    wrapper = ksn.layers.QuantizedKernels(convolution, preserve="clusters")
    model = keras.Model(inputs, layers.BatchNormalization()(wrapper(inputs)))
    for trainable in (True, False):  # The cluster indices are weights, too, which are never trained.
        model.trainable = trainable
        counts = [ksn.analysis.count_parameters(model, rule) for rule in ("conv_kernels", "conv_kernels_and_biases")]
        assert counts == [3 * 3 * 3 * 4, 3 * 3 * 3 * 4 + 4]


class WithOwnWeights(keras.Model):
    """A network with weights outside its layers, such as the positions of a vision transformer."""

    def build(self, input_shape):
        self.positions = self.add_weight(shape=input_shape[1:], name="positions")
        self.steps = self.add_weight(shape=(), name="steps", trainable=False)
        self.dense = layers.Dense(2)
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs + self.positions)


def test_weights_of_a_network_outside_its_layers():
    model = WithOwnWeights(name="own")
    with pytest.raises(ValueError, match=r"`model` \(='own'\) must be built"):
        ksn.analysis.count_parameters(model)
    model.build((None, 6, 3))
    assert ksn.analysis.count_parameters(model) == 6 * 3 + 3 * 2 + 2
    model.trainable = False
    assert ksn.analysis.count_parameters(model) == 6 * 3 + 3 * 2 + 2


def split(p):
    return tuple(sum(row.stored_parameters for row in p.layers if row.name.endswith(ends)) for ends in TENSORS.values())


def effective_hscnet(widths, modules, groups, alpha, classes, stem_side=3, stem_filters=16):
    """Parameters of a default HSC-Net that stores a separate 1x1, 3x3 or group kernel for every use."""
    total, channels = stem_side * stem_side * 3 * stem_filters, stem_filters
    for m, count in zip(widths, modules, strict=True):
        k = round(m / alpha)
        common = 2 * (9 * k * k // groups + k * k // groups) + 2 * k * m
        transition = channels * k + m * k + common + channels * m + 2 * (channels + m + 4 * k)
        ordinary = 2 * m * k + common + 2 * (2 * m + 4 * k)
        total += transition + (count - 1) * ordinary
        channels = m
    return total + 2 * channels + (channels + 1) * classes


CIFAR = {"modules": (4, 4, 4)}
M128_EFFECTIVE = effective_hscnet((128, 256, 512), groups=16, alpha=2, classes=10, **CIFAR)
M96_EFFECTIVE = effective_hscnet((96, 192, 384), groups=8, alpha=2, classes=1000, **CIFAR)
M224_EFFECTIVE = effective_hscnet((224, 448, 896), groups=16, alpha=1.75, classes=1000, **CIFAR)
M160_EFFECTIVE = effective_hscnet((160, 320, 480, 1120), (3, 3, 2, 2), 8, 5 / 3, 1000, stem_side=7, stem_filters=64)


@counts_only
@pytest.mark.parametrize(
    ("name", "stored", "non_trainable", "multiply_adds", "tensors", "effective"),
    slow_after(
        1,
        [
            ("hscnet_m128_g16_r8_a2", 1_778_970, 28_704, 494_326_784, M128, M128_EFFECTIVE),
            ("hscnet_m96_g8_r4_a2", 1_421_448, 21_536, 314_612_736, None, M96_EFFECTIVE),
            ("hscnet_m224_g16_r8_a1_75", 6_997_688, 53_792, 1_748_790_272, M224, M224_EFFECTIVE),
            ("hscnet_m160_imagenet", 7_204_440, 40_960, 2_631_897_856, None, M160_EFFECTIVE),
        ],
    ),
)
def test_the_networks_of_the_paper(name, stored, non_trainable, multiply_adds, tensors, effective):
    p = profile(ksn.create_model(name))
    assert p.name == name
    assert p.stored_parameters == stored
    assert p.non_trainable_parameters == non_trainable
    assert p.multiply_adds == multiply_adds
    assert p.uncounted == ()
    if tensors is not None:
        assert split(p) == tensors
    assert p.effective_parameters == effective
    assert p.ratio == effective / stored


@counts_only
def test_a_network_of_keras_applications():
    p = profile(keras.applications.MobileNetV2(weights=None))
    # Well-known counts, with and without normalization; Sandler et al., "MobileNetV2", table 4 prints 3.4M and 300M.
    norms = sum(row.stored_parameters for row in p.layers if row.type == "BatchNormalization")
    assert p.stored_parameters == 3_504_872
    assert p.stored_parameters - norms == 3_470_760
    assert round(p.multiply_adds / 1e6) == 301
    assert p.ratio == 1.0


@counts_only
def test_sharing_changes_what_is_stored_and_nothing_else():
    choices = {"width": 32, "groups": 4, "blocks_per_stage": 2, "input_shape": (16, 16, 3)}
    shared = profile(ksn.models.HSCNet(**choices, channel_repeats=4, arrangements=2, star=True))
    plain = profile(ksn.models.HSCNet(**choices, channel_repeats=1, arrangements=1, share_in_transition=False))
    assert shared.stored_parameters < plain.stored_parameters < plain.effective_parameters
    assert shared.effective_parameters == plain.effective_parameters
    assert shared.multiply_adds == plain.multiply_adds


def sharing_and_unshared():
    """A network with every kind of sharing, and an equivalent one of separate plain Keras layers."""
    inputs = keras.Input((8, 8, 16))
    shared = HighlySharedConv2D(16, 3, groups=4, channel_repeats=2, arrangements=2, use_bias=True, name="shared")
    norm = layers.BatchNormalization(name="norm")
    x = norm(shared(norm(shared(inputs)), strides=2))
    dense = layers.Dense(16, name="dense")
    sharing = keras.Model(inputs, dense(dense(layers.Flatten()(shared(x, strides=4)))))
    x = inputs
    for strides in (1, 2, 4):
        x = layers.Conv2D(16, 3, strides=strides, padding="same", groups=4)(x)
        x = layers.BatchNormalization()(x) if strides < 4 else x
    unshared = keras.Model(inputs, layers.Dense(16)(layers.Dense(16)(layers.Flatten()(x))))
    return sharing, unshared


def test_effective_parameters_are_those_of_an_unshared_network():
    sharing, unshared = sharing_and_unshared()
    p, q = profile(sharing), profile(unshared)
    statistics = 2 * 2 * 16
    assert p.effective_parameters == unshared.count_params() - statistics
    assert p.stored_parameters == sharing.count_params() - 2 * 16
    assert q.ratio == 1.0
    assert q.effective_parameters == q.stored_parameters == p.effective_parameters
    pixels = 8 * 8 + 4 * 4 + 1
    assert p.multiply_adds == q.multiply_adds == 3 * 3 * 4 * 16 * pixels + 2 * 16 * 16


def test_one_row_a_call():
    p = profile(sharing_and_unshared()[0])
    kernel, bias = 3 * 3 * 4 * 16, 16
    counts = [(row.name, row.call, row.stored_parameters, row.effective_parameters, row.shared) for row in p.layers]
    assert counts == [
        ("shared", 0, kernel // 4 + bias, kernel + bias, False),
        ("norm", 0, 32, 32, False),
        ("shared", 1, 0, kernel + bias, True),
        ("norm", 1, 0, 32, True),
        ("shared", 2, 0, kernel + bias, True),
        (p.layers[5].name, 0, 0, 0, False),
        ("dense", 0, 16 * 17, 16 * 17, False),
        ("dense", 1, 0, 16 * 17, True),
    ]
    assert [row.type for row in p.layers[:2]] == ["HighlySharedConv2D", "BatchNormalization"]
    assert [row.non_trainable_parameters for row in p.layers] == [0, 32, 0, 0, 0, 0, 0, 0]
    assert (p.layers[2].input_shape, p.layers[2].output_shape) == ((None, 8, 8, 16), (None, 4, 4, 16))
    assert p.input_shapes == ((8, 8, 16),)


# Every output value of a convolution costs one multiply-add per value of its window.
RULES = [
    (layers.Conv1D(6, 5, dilation_rate=2, padding="causal"), (9, 4), 9 * 6 * 5 * 4),
    (layers.Conv2D(6, (3, 2), strides=2, groups=2), (9, 8, 4), 4 * 4 * 6 * 3 * 2 * 2),
    (layers.Conv2D(6, 3, dilation_rate=3, padding="same"), (9, 8, 4), 9 * 8 * 6 * 9 * 4),
    (layers.Conv3D(2, 3, padding="same"), (4, 5, 6, 3), 4 * 5 * 6 * 2 * 27 * 3),
    (layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 4), 7 * 8 * 3),
    (layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2, padding="same"), (9, 8, 4), 5 * 4 * 8 * 9),
    (layers.SeparableConv1D(6, 3, depth_multiplier=2), (9, 4), 7 * 8 * 3 + 7 * 8 * 6),
    (layers.SeparableConv2D(6, 3, depth_multiplier=2), (9, 8, 4), 7 * 6 * 8 * 9 + 7 * 6 * 8 * 6),
    (layers.Conv1DTranspose(6, 3, strides=2), (9, 4), 9 * 4 * 3 * 6),
    (layers.Conv2DTranspose(6, 3, strides=2), (9, 8, 4), 9 * 8 * 4 * 9 * 6),
    (layers.Conv3DTranspose(2, 2, strides=2), (2, 3, 4, 3), 2 * 3 * 4 * 3 * 8 * 2),
    (layers.Dense(7), (5,), 5 * 7),
    (layers.Dense(7), (2, 3, 5), 2 * 3 * 5 * 7),
    (layers.EinsumDense("ab,bc->ac", output_shape=7), (5,), 5 * 7),
    (layers.EinsumDense("abc,cde->abde", output_shape=(None, 4, 3)), (6, 5), 6 * 5 * 4 * 3),
    (layers.EinsumDense("abcd,cde->abe", output_shape=(None, 7)), (6, 5, 4), 6 * 5 * 4 * 7),
    (layers.EinsumDense("...x,xy->...y", output_shape=7), (2, 3, 5), 2 * 3 * 5 * 7),
    (HighlySharedConv2D(8, 3, groups=4, channel_repeats=2, strides=2), (9, 8, 12), 5 * 4 * 8 * 9 * 3),
    (HighlySharedConv2D(8, 1, groups=2, arrangements=2, padding="valid"), (9, 8, 12), 9 * 8 * 8 * 6),
    (layers.SimpleRNN(3), (5, 4), 5 * (4 * 3 + 3 * 3)),
    (layers.GRU(3), (5, 4), 5 * 3 * (4 * 3 + 3 * 3)),
    (layers.Bidirectional(layers.LSTM(3, return_sequences=True)), (5, 4), 5 * 2 * 4 * (4 * 3 + 3 * 3)),
    (layers.TimeDistributed(layers.Conv2D(6, 3)), (2, 9, 8, 4), 2 * 7 * 6 * 6 * 9 * 4),
    (
        layers.TimeDistributed(HighlySharedConv2D(8, 3, groups=4, channel_repeats=2)),
        (2, 9, 8, 12),
        2 * 9 * 8 * 8 * 9 * 3,
    ),
    (
        layers.TimeDistributed(keras.Sequential([keras.Input((9, 4)), layers.Dense(3), layers.LSTM(2)])),
        (7, 9, 4),
        7 * 9 * (4 * 3 + 4 * (3 * 2 + 2 * 2)),
    ),
    (layers.TimeDistributed(layers.Flatten()), (None, 9, 4), 0),
    (layers.BatchNormalization(), (9, 8, 4), 0),
    (layers.LayerNormalization(axis=(1, 2, 3)), (9, 8, 4), 0),
    (layers.PReLU(), (9, 8, 4), 0),
    (layers.Embedding(10, 4), (9,), 0),
    (layers.MaxPooling2D(), (9, 8, 4), 0),
    (layers.Softmax(), (9,), 0),
]


@pytest.mark.parametrize(
    ("layer", "shape", "multiply_adds"), RULES, ids=lambda value: type(value).__name__ if hasattr(value, "call") else ""
)
def test_multiply_adds_of_each_layer(layer, shape, multiply_adds):
    inputs = keras.Input(shape)
    p = profile(keras.Model(inputs, layer(inputs)))
    assert p.multiply_adds == multiply_adds
    assert p.uncounted == ()
    parameters = sum(int(np.prod(weight.shape)) for weight in layer.trainable_weights)
    assert p.stored_parameters == parameters


def test_channels_first():
    inputs = keras.Input((4, 9, 8))
    convolved = layers.Conv2D(6, 3, groups=2, data_format="channels_first")(inputs)
    assert profile(keras.Model(inputs, convolved)).multiply_adds == 7 * 6 * 6 * 9 * 2


@keras.saving.register_keras_serializable("test_profile")
class Custom(keras.layers.Layer):
    """A custom layer with weights of any shape, or with the weights of another layer."""

    def __init__(self, shape=(), source=None, **kwargs):
        super().__init__(**kwargs)
        self.shape = shape
        self.source = source

    def build(self, input_shape):
        self.kernel = self.source.kernel if self.source else self.add_weight(shape=self.shape, name="kernel")
        self.average = self.add_weight(shape=(), name="average", trainable=False)

    def call(self, inputs):
        return inputs


def test_layers_without_a_rule_are_listed_and_do_not_count_as_zero():
    inputs = keras.Input((6, 4))
    x = layers.Dense(4, name="dense")(inputs)
    custom = Custom((4, 4), name="custom")
    x = Custom((4,), name="scale")(custom(custom(x)))
    x = layers.RNN(layers.LSTMCell(4), return_sequences=True, name="cells")(x)
    x = layers.Bidirectional(layers.RNN(layers.SimpleRNNCell(2), return_sequences=True), name="wrapped")(x)
    x = layers.Attention(name="attention")([x, x])
    product = keras.ops.matmul(x, keras.ops.transpose(x, (0, 2, 1)))
    p = profile(keras.Model(inputs, product))
    assert p.uncounted == ("custom", "cells", "wrapped", "attention", p.layers[-1].name)
    assert p.layers[-1].type == "Matmul"
    assert [row.multiply_adds for row in p.layers if row.name == "custom"] == [None, None]
    assert [row.multiply_adds for row in p.layers if row.name == "scale"] == [0]
    assert p.multiply_adds == 6 * 4 * 4
    squares = keras.ops.vectorized_map(lambda row: keras.ops.matmul(row, row), product)
    p_of_map = profile(keras.Model(product, squares))
    assert [row.multiply_adds for row in p_of_map.layers] == [None]
    # Weights are counted even if the products are not.
    assert p.stored_parameters == 4 * 5 + 4 * 4 + 4 + 4 * (4 + 4 + 1) * 4 + 2 * (4 + 2 + 1) * 2


def test_a_variable_of_two_layers_is_stored_once():
    inputs = keras.Input((4,))
    dense = layers.Dense(4, use_bias=False, name="dense")
    model = keras.Model(inputs, Custom(source=dense, name="tied")(dense(inputs)))
    p = profile(model)
    assert [(row.name, row.stored_parameters, row.effective_parameters) for row in p.layers] == [
        ("dense", 16, 16),
        ("tied", 0, 16),
    ]
    assert (p.stored_parameters, p.effective_parameters, p.ratio) == (16, 32, 2.0)


def test_a_frozen_network_counts_as_before():
    def network():
        inputs = keras.Input((8, 8, 3))
        x = layers.Normalization(name="pixels")(ksn.layers.FakeQuantize()(ksn.layers.Whitening()(inputs)))
        x = layers.Dropout(0.5)(layers.BatchNormalization()(layers.Conv2D(4, 3)(x)))
        x = layers.Bidirectional(layers.SimpleRNN(3))(layers.Reshape((36, 4))(x))
        x = layers.SpectralNormalization(layers.Dense(2))(Custom((6, 6))(x))
        return keras.Model(inputs, x)

    before, model = profile(network()), network()
    model.trainable = False
    frozen = profile(model)
    parameters = 3 * 3 * 3 * 4 + 4 + 2 * 4 + 2 * (4 * 3 + 3 * 3 + 3) + 6 * 6 + 6 * 2 + 2
    assert before.stored_parameters == frozen.stored_parameters == parameters
    # Mean and matrix of the whitening; a range; mean, variance and count of the pixels; moving mean and variance;
    # Custom's average; the spectral vector.
    never = 192 + 192**2 + 2 + 3 + 3 + 1 + 4 + 4 + 1 + 2
    assert before.non_trainable_parameters == frozen.non_trainable_parameters == never
    assert model.trainable_weights == []


def test_a_frozen_layer_in_a_wrapper_counts_as_before():
    inputs = keras.Input((8, 8, 3))
    wrapper = layers.TimeDistributed(layers.BatchNormalization())
    model = keras.Model(inputs, wrapper(inputs))
    wrapper.layer.trainable = False
    p = profile(model)
    assert (p.stored_parameters, p.effective_parameters, p.non_trainable_parameters) == (2 * 3, 2 * 3, 2 * 3)


@pytest.mark.skipif(not hasattr(layers, "ReversibleEmbedding"), reason="Keras is too old")
def test_the_reverse_of_an_embedding_is_a_dense_layer():
    inputs = keras.Input((9,))
    embedding = layers.ReversibleEmbedding(10, 4)
    p = profile(keras.Model(inputs, embedding(embedding(inputs), reverse=True)))
    assert [row.multiply_adds for row in p.layers] == [0, 9 * 10 * 4]
    assert (p.stored_parameters, p.effective_parameters) == (10 * 4, 2 * 10 * 4)


def test_a_frozen_backbone_inside_a_network():
    backbone = ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(16, 16, 3), include_top=False, pooling="avg")
    inputs = keras.Input((16, 16, 3))
    model = keras.Model(inputs, layers.Dense(5, name="head")(backbone(inputs)))
    before = profile(model)
    backbone.trainable = False
    assert profile(model).stored_parameters == before.stored_parameters == backbone.count_params() - 1_824 + 129 * 5
    assert profile(model).layers[0].name == f"{backbone.name}/preprocessing"
    assert profile(model) == before


def test_counts_follow_what_the_network_holds_after_saving(tmp_path):
    model = sharing_and_unshared()[0]
    model.save(tmp_path / "model.keras")
    reloaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert profile(reloaded) == profile(model)


def test_effective_parameters_in_a_wrapper_are_those_of_full_kernels():
    inputs = keras.Input((2, 8, 8, 4))
    shared = HighlySharedConv2D(6, 3, groups=2, channel_repeats=2, use_bias=True)
    p = profile(keras.Model(inputs, layers.TimeDistributed(shared)(inputs)))
    assert (p.stored_parameters, p.effective_parameters) == (3 * 3 * 2 * 3 + 6, 3 * 3 * 2 * 6 + 6)


def test_scales_of_float8_are_no_parameters():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(4)(inputs))
    model.quantize("float8")
    assert profile(model).stored_parameters == ksn.analysis.count_parameters(model) == 6 * 4 + 4


def test_a_network_without_parameters():
    inputs = keras.Input((4,))
    p = profile(keras.Model(inputs, layers.ReLU()(inputs)))
    assert (p.stored_parameters, p.effective_parameters, p.multiply_adds, p.ratio) == (0, 0, 0, 1.0)


def test_the_model_computes_as_before():
    model = sharing_and_unshared()[0]
    images = pseudo_random((2, 8, 8, 16))
    before = np.asarray(model(images))
    trainable = [variable.trainable for variable in model.variables]
    profile(model)
    np.testing.assert_array_equal(np.asarray(model(images)), before)
    assert [variable.trainable for variable in model.variables] == trainable


def test_non_functional_model_raises_an_error():
    with pytest.raises(ValueError, match=r"`model` \(='unbuilt'\) must be built"):
        profile(keras.Sequential([layers.Dense(2)], name="unbuilt"))
