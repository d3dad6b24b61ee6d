"""Random functional models: several inputs and outputs, branches, nested models, tensor functions, rare layers."""

import keras
from keras import layers, ops
from random_networks import CenteredReLU, NetworkBuilder, StandardizedConv2D, WeightedAdd, images

ACTIVATIONS = ("relu", "relu6", "silu", "gelu", "elu", "selu", "tanh", "sigmoid", "hard_silu", "leaky_relu", "softplus")


class TopologyBuilder(NetworkBuilder):
    """Builds random topologies from Keras layers, library layers, third-party layers, and tensor functions."""

    def activation(self, y):
        name = self.one(*ACTIVATIONS)
        made = self.one(layers.LeakyReLU(0.2), layers.PReLU(shared_axes=[1, 2]), layers.ELU(), layers.Softmax())
        return self.one(layers.Activation(name), made, layers.Conv2D(6, 1, activation=name))(y)

    def image_layer(self, y):
        height, width, channels = y.shape[1:]
        if min(height, width) < 4:
            return y
        return self.one(
            lambda: layers.SeparableConv2D(6, 3, padding=self.one("same", "valid"), strides=self.one(1, 2)),
            lambda: layers.Conv2DTranspose(4, self.one(2, 3), strides=2, padding=self.one("same", "valid")),
            lambda: layers.UpSampling2D(interpolation=self.one("nearest", "bilinear")),
            lambda: layers.Resizing(5, 7),
            lambda: layers.CenterCrop(height - 1, width - 2),
            lambda: layers.Cropping2D(((1, 0), (0, 1))),
            lambda: layers.Permute((2, 1, 3)),
            lambda: layers.LayerNormalization(axis=self.one(-1, 1, (1, 2, 3))),
            lambda: layers.GroupNormalization(1),
            lambda: layers.Softmax(axis=self.one(1, 2)),
            lambda: layers.EinsumDense("bhwc,cd->bhwd", (height, width, 5), activation=self.one(None, "relu")),
            lambda: layers.Conv2D(channels, (3, 1), dilation_rate=2, padding="same"),
            lambda: layers.Dense(5, activation="relu"),
        )()(y)

    def attention(self, y):
        """Attention between the pixels of an image."""
        height, width, channels = y.shape[1:]
        x, causal = layers.Reshape((height * width, channels))(y), self.one(True, False)
        x = self.one(
            lambda: layers.MultiHeadAttention(2, 3, dropout=self.one(0, 0.1))(x, x, use_causal_mask=causal),
            lambda: layers.GroupQueryAttention(4, 4, 2)(x, x, use_causal_mask=causal),
            lambda: layers.Attention()([x, ops.tanh(x)], use_causal_mask=causal),
            lambda: layers.AdditiveAttention()([x, x], use_causal_mask=causal),
            lambda: ops.matmul(self.random.normal(size=(height * width,) * 2).astype("float32") / 8, x),
        )()
        return layers.Reshape((height, width, x.shape[-1]))(x)

    def function(self, y):
        """A function of `keras.ops` of one tensor, or of a tensor and its convolution."""
        other, (height, width) = layers.Conv2D(y.shape[-1], 1, activation="relu")(y), y.shape[1:3]
        return self.one(
            lambda: y + other,
            lambda: y - 0.5 * other,
            lambda: y * ops.sigmoid(other),
            lambda: y / (1.0 + other),
            lambda: ops.maximum(y, other),
            lambda: ops.minimum(y, 0.7),
            lambda: ops.silu(y),
            lambda: ops.tanh(other),
            lambda: ops.relu(y) + ops.mean(y, axis=(1, 2), keepdims=True),
            lambda: ops.concatenate([y, other, y], axis=self.one(-1, 1, 2)),
            lambda: ops.transpose(y, (0, 2, 1, 3)),
            lambda: ops.pad(y, ((0, 0), (1, 0), (0, 2), (0, 0))),
            lambda: ops.clip(y, -0.5, 0.8),
            lambda: ops.reshape(y, (-1, y.shape[2], y.shape[1], y.shape[3])),
            lambda: 1.0 - ops.abs(y),
            lambda: ops.sqrt(other + 0.1),
            lambda: ops.power(y, self.one(2, 3)) / 8.0,
            lambda: y - ops.min(y, axis=self.one(1, -1), keepdims=True),
            lambda: ops.max(y, axis=1, keepdims=True) - y,
            lambda: ops.var(y, axis=(1, 2), keepdims=True) + y,
            lambda: ops.std(y, axis=self.one(2, (1, 2, 3)), keepdims=True) + y,
            lambda: ops.where(self.random.random((height, width, 1)) < 0.5, y, other),
            lambda: ops.where(self.random.random(y.shape[-1]) < 0.5, y, 0.3),
        )()

    def selection(self, y):
        """A function of `keras.ops` that takes, reorders or repeats entries."""
        height, width, channels = y.shape[1:]
        axis, sign = self.one(1, 2, 3), self.one(1, -1)
        axis, side = axis - (4 if self.one(True, False) else 0), y.shape[axis]
        return self.one(
            lambda: ops.flip(y, axis=axis),
            lambda: ops.roll(y, self.one(1, -2), axis=axis),
            lambda: ops.tile(y, (1, *self.one((1, 2, 1), (2, 1, 1), (1, 1, 2)))),
            lambda: ops.repeat(y, 2, axis=axis),
            lambda: ops.take(y, self.random.integers(-side, side, side), axis=axis),
            lambda: ops.take_along_axis(y, self.random.integers(-height, height, (1, height, 1, channels)), axis=1),
            lambda: y[:, ::sign, :: -2 * sign],
            lambda: y[:, :, 0, None, ::sign],
            lambda: ops.split(y, [1], axis=axis)[1] if side > 1 else y,
            lambda: ops.stack([y, ops.relu(y)], axis=2)[:, :, self.one(0, 1)],
            lambda: ops.pad(
                y, ((0, 0), (0, int(height > 1)), (int(width > 1), 0), (0, 0)), mode=self.one("reflect", "symmetric")
            ),
        )()

    def unusual(self, y):
        """Layers and functions that have no lowering rule, or only for some arguments."""
        return self.one(
            lambda: StandardizedConv2D(4, 3, padding="same")(y),
            lambda: WeightedAdd()([y, 0.5 * y]),
            lambda: CenteredReLU()(y),
            lambda: layers.Lambda(lambda x: x * x)(y),
            lambda: ops.where(y > 0.2, y, -0.1 * y),
            lambda: ops.cumsum(y, axis=1),
            lambda: layers.TimeDistributed(layers.Dense(4))(y),
            lambda: layers.BatchNormalization(axis=1)(y),
            lambda: layers.Conv2DTranspose(4, 3, strides=2, output_padding=1)(y),
            lambda: layers.Dot(axes=2, normalize=True)([layers.Reshape((-1, y.shape[-1]))(y)] * 2)[:, :3, None, :],
            lambda: layers.Dense(3, activation=keras.activations.hard_tanh)(y),
        )()

    def branches(self, y):
        parts = [self.one(self.activation, self.function, self.normalization)(self.convolution(y, 4, same=True))]
        parts += [self.convolution(y, 4, same=True) for _ in range(self.one(1, 2))]
        parts = [layers.Resizing(*parts[0].shape[1:3])(part) for part in parts]
        same = len({part.shape for part in parts}) == 1
        merging = self.one(layers.Add, layers.Maximum, layers.Concatenate) if same else layers.Concatenate
        return merging()(parts)

    def inner_model(self, y):
        """A nested model: called twice, with two inputs, with two outputs, or with its input as an output."""
        start = keras.Input(y.shape[1:])
        kind = self.one("twice", "two outputs", "through", "two inputs")
        body = layers.Conv2D(y.shape[-1], 3, padding="same", activation="relu")(start)
        if kind == "twice":
            inner = keras.Model(start, body)
            return inner(inner(y)) + inner(y)
        if kind == "two inputs":
            other = keras.Input(y.shape[1:])
            return keras.Model([start, other], layers.Subtract()([body, other]))([y, layers.ReLU()(y)])
        inner = keras.Model(start, [body, start if kind == "through" else layers.Conv2D(y.shape[-1], 1)(body)])
        first, second = inner(y)
        return layers.Add()([first, second])

    def part(self, y):
        kinds = [self.convolution, self.library, self.normalization, self.pooling, self.residual, self.gate]
        kinds += [self.shared, self.without_effect, self.arithmetic, self.activation, self.image_layer]
        kinds += [self.function, self.function, self.selection, self.attention, self.branches, self.inner_model]
        kinds += [self.unusual]
        return self.one(*kinds)(y)

    def vector(self, y):
        y = layers.GlobalAveragePooling2D()(y) if self.one(True, False) else layers.Flatten()(y)
        return layers.Dense(6, activation=self.one("relu", "tanh", "silu"), bias_initializer="random_normal")(y)

    def end(self, y, pooled):
        """A head: softmax, multi-label, binary, logits, regression, a map, or a nested model."""
        kind = self.one("softmax", "sigmoid", "binary", "logits", "value", "map", "nested", "function")
        if kind == "map":
            return layers.Conv2D(3, 1, activation=self.one("softmax", "sigmoid", None))(y)
        if kind == "nested":
            start = keras.Input(pooled.shape[1:])
            return keras.Model(start, layers.Dense(4, activation=self.one("softmax", "sigmoid"))(start))(pooled)
        units = 1 if kind in ("binary", "value") else 4
        scores = layers.Dense(units, kernel_initializer="random_normal", bias_initializer="random_normal")(pooled)
        if kind == "function":
            return self.one(ops.softmax, ops.sigmoid)(scores)
        ends = {"softmax": "softmax", "sigmoid": "sigmoid", "binary": "sigmoid"}
        return layers.Activation(ends[kind])(scores) if kind in ends else scores


def random_topology(seed):
    """`(model, data)`: a network of 8x8 images, possibly with a second image and a vector; and input arrays."""
    keras.utils.set_random_seed(seed)
    maker = TopologyBuilder(seed)
    inputs = {"image": keras.Input((8, 8, 3), name="image")}
    y = maker.convolution(maker.preprocessing(inputs["image"]), 6, same=True)
    if maker.random.random() < 0.3:
        inputs["second"] = keras.Input((8, 8, 3), name="second")
        other = maker.convolution(inputs["second"] / 255.0, 6, same=True)
        y = maker.one(layers.Add, layers.Concatenate, layers.Multiply)()([y, other])
    parts = [y]
    for _ in range(maker.random.integers(2, 6)):
        parts.append(maker.part(parts[-1] if maker.random.random() < 0.8 else maker.one(*parts)))
    pooled = maker.vector(parts[-1])
    if maker.random.random() < 0.3:
        inputs["vector"] = keras.Input((5,), name="vector")
        pooled = layers.Concatenate()([pooled, layers.Dense(3)(inputs["vector"] * 0.01)])
    outputs = [maker.end(parts[-1], pooled) for _ in range(maker.one(1, 1, 2, 3))]
    keep = {tensor.name: tensor for tensor in inputs.values()}
    model = keras.Model(list(keep.values()), outputs if len(outputs) > 1 else outputs[0])
    data = {
        name: images(seed + place, 32) if name != "vector" else maker.random.uniform(0, 99, (32, 5)).astype("float32")
        for place, name in enumerate(inputs)
    }
    model([data[name][:16] for name in inputs] if len(inputs) > 1 else data["image"][:16], training=True)
    return model, data
