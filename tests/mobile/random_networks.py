"""Random small classifiers of Keras and library layers: random arguments, nesting, sharing, and unsupported layers."""

import keras
import numpy as np
from keras import layers, ops

import keras_sharenets as ksn


@keras.saving.register_keras_serializable("tests")
class StandardizedConv2D(layers.Conv2D):
    """Weight standardization, as implemented in many libraries."""

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - ops.mean(kernel, axis=(0, 1, 2), keepdims=True))


@keras.saving.register_keras_serializable("tests")
class ScaledConv2D(layers.Conv2D):
    def call(self, inputs):
        return 1.1 * super().call(inputs)


@keras.saving.register_keras_serializable("tests")
class NegatedKernelConv2D(layers.Conv2D):
    @property
    def kernel(self):
        return -super().kernel


@keras.saving.register_keras_serializable("tests")
class WeightedAdd(layers.Add):
    def _merge_function(self, inputs):
        return inputs[0] + 0.3 * inputs[1]


@keras.saving.register_keras_serializable("tests")
class CenteredReLU(layers.ReLU):
    def call(self, inputs):
        return super().call(inputs) - ops.mean(inputs, axis=(1, 2), keepdims=True)


@keras.saving.register_keras_serializable("tests")
class RenamedConv2D(layers.Conv2D):
    """A subclass that computes the same as its base class, and is exported."""

    def build(self, input_shape):
        super().build(input_shape)
        self.note = "built"


@keras.saving.register_keras_serializable("tests")
class SymmetricConv2D(layers.Layer):
    """A third-party layer with an `effective_kernel()`, which does not include `gain`."""

    def __init__(self, filters, strides=(1, 1), padding="same", gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.strides, self.padding, self.gain = filters, tuple(strides), padding, gain

    def build(self, shape):
        self.half = self.add_weight(shape=(3, 3, shape[-1], self.filters), initializer="he_normal", name="half")

    def effective_kernel(self):
        return (self.half + ops.flip(self.half, axis=1)) / 2

    def call(self, inputs):
        return self.gain * ops.conv(inputs, self.effective_kernel(), self.strides, self.padding, "channels_last")

    def get_config(self):
        own = {"filters": self.filters, "strides": self.strides, "padding": self.padding, "gain": self.gain}
        return {**super().get_config(), **own}


class NetworkBuilder:
    """Builds random layers and records the names of those that may be rejected."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.odd = []

    def one(self, *choices):
        return choices[self.random.integers(len(choices))]

    def convolution(self, y, filters=None, same=False, cls=layers.Conv2D):
        channels = y.shape[-1]
        dilated = self.random.random() < 0.2
        rows = {} if same or dilated else {"strides": self.one(1, 1, 2), "padding": self.one("same", "valid", "same")}
        size = self.one(1, 3, 3, (1, 3), 2) if min(y.shape[1:3]) > 3 else 1
        arguments = {"padding": "same", "use_bias": self.one(True, False), "bias_initializer": "random_normal", **rows}
        if dilated:
            arguments["dilation_rate"] = self.one(2, (1, 2))
        if cls in (layers.DepthwiseConv2D, ksn.layers.DepthwiseConv2D):
            strides = arguments.pop("strides", 1)
            return cls(size, strides=strides, activation=self.one(None, "relu"), **arguments)(y)
        groups = self.one(1, 1, 2) if channels % 2 == 0 and not dilated else 1
        filters = filters or self.one(4, 8)
        return cls(filters, size, groups=groups, activation=self.one(None, "relu", "relu6"), **arguments)(y)

    def depthwise(self, y):
        return self.convolution(y, same=True, cls=self.one(layers.DepthwiseConv2D, ksn.layers.DepthwiseConv2D))

    def library(self, y):
        channels = y.shape[-1]
        if channels % 4:
            y = layers.Conv2D(8, 1)(y)
        if min(y.shape[1:3]) < 3:
            return y
        own = ksn.layers
        return self.one(
            lambda: own.HighlySharedConv2D(8, self.one(1, 3), groups=2, channel_repeats=self.one(1, 2), use_bias=True),
            lambda: own.HighlySharedConv2D(8, 3, groups=2, arrangements=2, activation="relu", strides=self.one(1, 2)),
            lambda: own.HierarchicalGroupConv2D(8, groups=self.one(2, 4), use_bias=True),
            lambda: own.SplitGroupConv2D(8, groups=2),
            lambda: own.SqueezeExcite(2),
            lambda: own.ChannelShuffle(2),
            lambda: own.StridedChannelShuffle(self.one(2, 3)),
            lambda: own.ChannelSlice(1, 4),
            lambda: own.ChannelPadding(y.shape[-1] + 2),
            lambda: own.PaddedMaxPooling2D(3, strides=self.one(1, 2)),
        )()(y)

    def normalization(self, y):
        cls = self.one(layers.BatchNormalization, ksn.layers.BatchNormalization)
        drawn = {"gamma_initializer": "random_uniform"} if self.random.random() < 0.2 else {}
        y = cls(momentum=0.0, center=self.one(True, False), scale=self.one(True, True, False), **drawn)(y)
        return self.one(layers.ReLU(), layers.ReLU(6), layers.Activation("relu"), ops.relu, layers.Identity())(y)

    def pooling(self, y):
        if min(y.shape[1:3]) < 3:
            return y
        pool = self.one(layers.MaxPooling2D, layers.AveragePooling2D)
        return pool(self.one(2, 3), strides=self.one(1, 2), padding=self.one("same", "valid"))(y)

    def without_effect(self, y):
        return self.one(
            layers.Dropout(0.3),
            layers.GaussianDropout(0.3),
            layers.AlphaDropout(0.1),
            layers.GaussianNoise(0.1),
            layers.SpatialDropout2D(0.2),
            layers.Identity(),
            layers.RandomFlip(),
            layers.RandomTranslation(0.1, 0.1),
            layers.ActivityRegularization(l2=0.1),
        )(y)

    def padding(self, y):
        return layers.ZeroPadding2D(((0, self.one(0, 1)), (1, self.one(0, 1))))(y)

    def residual(self, y):
        other = self.convolution(y, y.shape[-1], same=True)
        return self.one(
            lambda: layers.Add()([y, other]),
            lambda: y + other,
            lambda: ops.add(y, other),
            lambda: layers.Average()([y, other, y]),
            lambda: layers.Subtract()([y, other]),
            lambda: ops.subtract(y, other),
            lambda: layers.Maximum()([y, other]),
            lambda: ops.minimum(y, other),
            lambda: layers.Concatenate()([y, other]),
        )()

    def gate(self, y):
        squeezed = layers.GlobalAveragePooling2D(keepdims=self.one(True, False))(y)
        return layers.Multiply()([y, layers.Dense(y.shape[-1], activation=self.one("sigmoid", "relu"))(squeezed)])

    def arithmetic(self, y):
        vector = self.random.uniform(0.5, 1.5, y.shape[-1]).astype("float32")
        return self.one(lambda: 1.5 * y, lambda: 1 - y, lambda: y / 2.0, lambda: y * vector, lambda: y - 0.5)()

    def shared(self, y):
        layer = self.one(
            layers.Conv2D(y.shape[-1], 3, padding="same", use_bias=False),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.Conv2D(y.shape[-1], 1, activation="relu"),
        )
        for _ in range(self.one(2, 3)):
            y = layers.BatchNormalization(momentum=0.0)(layer(y))
        return y

    def nested(self, y):
        start = keras.Input(y.shape[1:])
        inner = keras.Model(start, self.block(self.convolution(start)))
        if inner.output.shape == start.shape and self.random.random() < 0.5:
            y = inner(y)  # Called twice.
        return inner(y)

    def foreign(self, y):
        layer = SymmetricConv2D(4, strides=self.one((1, 1), (2, 2)), padding=self.one("same", "same", "valid"))
        return layer(y) if min(y.shape[1:3]) > 2 else y

    def trap(self, y):
        """A layer that must be either rejected by name or exported correctly."""
        channels = y.shape[-1]
        layer = self.one(
            StandardizedConv2D(channels, 3, padding="same"),
            ScaledConv2D(channels, 1),
            NegatedKernelConv2D(channels, 1),
            RenamedConv2D(channels, 1),
            WeightedAdd(),
            CenteredReLU(),
            SymmetricConv2D(4, gain=1.2),
            layers.Softmax(axis=self.one(1, 2, 3)),
            layers.BatchNormalization(axis=self.one(1, 2), moving_mean_initializer="random_normal"),
            layers.Normalization(axis=self.one(1, (1, 3)), mean=1.0, variance=2.0),
            layers.DepthwiseConv2D(1, depth_multiplier=2),
            layers.Conv2D(4, 1, activation=self.one("gelu", "tanh", "silu")),
            layers.ReLU(negative_slope=0.2),
            layers.ReLU(threshold=0.3),
            layers.LeakyReLU(),
            layers.Permute((2, 1, 3)),
            layers.UpSampling2D(),
            layers.MaxPooling2D(1, data_format="channels_first"),
            layers.ZeroPadding2D(1, data_format="channels_first"),
            layers.Rescaling(self.random.uniform(0.5, 2, (y.shape[2], channels)).tolist()),
            layers.LayerNormalization(),
            layers.Lambda(lambda x: x / 2),
        )
        self.odd.append(layer.name)
        return layer([y, 0.5 * y] if isinstance(layer, WeightedAdd) else y)

    def block(self, y):
        kinds = [self.convolution, self.depthwise, self.library, self.normalization, self.pooling, self.padding]
        kinds += [self.without_effect, self.residual, self.gate, self.arithmetic, self.shared, self.foreign]
        return self.one(*kinds)(y)

    def preprocessing(self, y):
        mean, variance = [120.0, 110.0, 100.0], [60.0**2, 62.0**2, 64.0**2]
        return self.one(
            lambda: layers.Rescaling(1 / 255),
            lambda: layers.Rescaling(scale=[1 / 255, 1 / 200, 1 / 150], offset=[0.0, -0.5, 0.1]),
            lambda: layers.Normalization(mean=mean, variance=variance),
            lambda: layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[2e-4, 1e-4, 3e-4], invert=True),
            lambda: layers.Normalization(axis=None, mean=110.0, variance=3600.0),
        )()(y)

    def head(self, y, classes=5):
        activation = self.one(None, "softmax", "sigmoid")
        kind = self.one("pool", "flatten", "convolution", "dense", "two", "operation")
        if kind == "convolution":
            return layers.Softmax()(layers.GlobalAveragePooling2D()(layers.Conv2D(classes, 1)(y)))
        pools = [layers.GlobalAveragePooling2D(), layers.GlobalMaxPooling2D()]
        y = layers.Flatten()(y) if kind == "flatten" else self.one(*pools)(y)
        if kind == "dense":
            y = layers.Dense(8, activation="relu", bias_initializer="random_normal")(y)
            y = layers.BatchNormalization(momentum=0.0)(y)
        if kind == "two":
            return layers.Average()([layers.Dense(classes)(y), layers.Dense(classes, bias_initializer="ones")(y)])
        if kind == "operation":
            return self.one(ops.softmax, ops.sigmoid)(layers.Dense(classes, bias_initializer="ones")(y))
        return layers.Dense(classes, activation=activation, bias_initializer="random_normal")(y)


def images(seed, count, shape=(8, 8, 3)):
    """Smooth random images with pixel values from 0 to 255."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (count, 3, 3, shape[-1]))
    rows, columns = (np.linspace(0, 2, side).round().astype(int) for side in shape[:2])
    return (
        np.clip(coarse[:, rows][:, :, columns] + random.normal(0, 20, (count, *shape)), 0, 255)
        .round()
        .astype("float32")
    )


def random_network(seed):
    """`(model, odd)`: a classifier for 8x8 images, and the names of its layers that may be rejected."""
    keras.utils.set_random_seed(seed)
    maker = NetworkBuilder(seed)
    inputs = keras.Input((8, 8, 3), batch_size=maker.one(None, None, None, 4))
    y = layers.Conv2D(8, 3, padding="same")(maker.preprocessing(inputs))
    for _ in range(maker.random.integers(1, 5)):
        y = maker.one(maker.block, maker.block, maker.block, maker.nested)(y)
    if maker.random.random() < 0.35:
        y = maker.trap(y)
    model = keras.Model(inputs, maker.head(y))
    # With a momentum of 0, normalization adopts the statistics of one batch.
    for start in range(0, 16, model.inputs[0].shape[0] or 16):
        model(images(seed, 16)[start : start + (model.inputs[0].shape[0] or 16)], training=True)
    return model, maker.odd
