import functools
import pathlib

import keras
import numpy as np
import pytest
from families import REPRESENTATIVES, representative
from harness import assert_close, calm_statistics, check_model, outputs_of, pseudo_random, slow_after

import keras_sharenets as ksn
from keras_sharenets import mobile
from keras_sharenets.layers import FakeQuantize, QuantizedKernels
from keras_sharenets.mobile.inspect import file
from keras_sharenets.models import HGCModule, HSCModule


def ranges(model):
    return [layer for layer in model.layers if isinstance(layer, FakeQuantize)]


def range_names(model):
    return [layer.name.removesuffix("_range") for layer in ranges(model)]


def test_values_are_quantized_as_in_the_file(digits):
    """Only the last of convolution, normalization, and ReLU is quantized; uses of a shared layer are separate."""
    inputs = keras.Input((8, 8, 1), name="images")
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    x = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    for use in "ab":
        x = keras.layers.BatchNormalization(name=f"norm_{use}")(shared(x))
        x = keras.layers.ReLU(name=f"relu_{use}")(x)
    x = keras.layers.MaxPooling2D(name="pool")(x)
    y = keras.layers.Conv2D(4, 1, name="branch")(x)
    x = keras.layers.Add(name="sum")([x, y])
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    q = mobile.quantize_aware(keras.Model(inputs, keras.layers.Dense(10, "softmax", name="scores")(x)))
    # Pooling keeps the range; a softmax has a fixed one, and its logits are inside the layer.
    assert q.input.name == q.layers[0].name == "images"
    assert range_names(q) == ["images", "stem", "relu_a", "relu_b", "branch", "sum", "mean"]
    assert [layer.name for layer in q.layers if isinstance(layer, QuantizedKernels)] == [
        "stem_rounded",
        "shared_rounded",
        "branch_rounded",
        "scores",  # An output keeps its name.
    ]


def test_values_that_only_a_bound_reads_are_not_quantized():
    inputs = keras.Input((4, 4, 3), name="images")
    x = keras.ops.clip(keras.layers.Conv2D(4, 3, name="stem")(inputs), -1, 1)
    q = mobile.quantize_aware(keras.Model(inputs, keras.layers.Conv2D(2, 1, name="end")(x)))
    _, bounded, _ = range_names(q)
    assert bounded.startswith("clip")


def test_indices_are_not_quantized():
    inputs = keras.Input((10,), dtype="int32")
    embedding = keras.layers.Embedding(10, 3, embeddings_initializer="he_normal")
    q = mobile.quantize_aware(keras.Model(inputs, embedding(inputs)))
    indices = np.arange(10)[None]
    q(indices, training=True)  # Sets the ranges.
    vectors = np.asarray(embedding.embeddings)[None]
    assert_close(q(indices), vectors, np.ptp(vectors) / 255)


def head(name, end):
    return keras.layers.Dense(3, end, name=name)


def nested_head(name, end):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Activation(end)], name=name)


@pytest.mark.parametrize("make", [head, nested_head])
def test_outputs_keep_their_names(make):
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, activation="relu", name="hidden")(inputs)
    ends = {"kind": "softmax", "present": "sigmoid", "size": None, "level": "relu"}
    model = keras.Model(inputs, [make(*end)(x) for end in ends.items()])
    quantized = ksn.mobile.quantize_aware(model)
    assert quantized.output_names == model.output_names == list(ends)
    quantized.compile("sgd", {name: "mse" for name in ends}, run_eagerly=True)
    labels = {name: np.zeros((2, 3)) for name in ends}
    assert np.isfinite(quantized.train_on_batch(pseudo_random((2, 4)), labels)).all()


def test_outputs_of_layers_without_kernels_keep_their_names():
    """Also of a function, of a layer that is called again, and of one with weights; `strip` restores the layers."""
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    relu, norm = keras.layers.ReLU(name="relu"), keras.layers.BatchNormalization(momentum=0.0, name="norm")
    features = relu(x)
    y = relu(keras.layers.Conv2D(4, 1, name="inner")(features))
    total = keras.layers.Add(name="total")([features, y])
    mean = keras.layers.GlobalAveragePooling2D(name="mean")(norm(total))
    double = keras.ops.add(total, features)
    model = keras.Model(inputs, [features, mean, norm.output, total, double])
    names = ["relu", "mean", "norm", "total", double._keras_history.operation.name]
    q = mobile.quantize_aware(model)
    assert q.output_names == model.output_names == names
    images = pseudo_random((8, 6, 6, 3))
    q(images, training=True)  # Sets the ranges, and the statistics of both to those of the images.
    for found, expected in zip(q(images), model(images), strict=True):
        assert_close(np.asarray(found), np.asarray(expected), 0.05)
    stripped = mobile.strip(q)
    assert stripped.output_names == model.output_names
    assert {id(layer) for layer in stripped.layers[1:]} == {id(layer) for layer in model.layers[1:]}
    assert ksn.profile(q).stored_parameters == ksn.profile(model).stored_parameters


def test_concatenated_values_share_one_range():
    inputs = keras.Input((8, 8, 2), name="images")
    first = keras.layers.Conv2D(4, 1, name="first")(inputs)
    second = keras.layers.Conv2D(4, 1, name="second", activation="relu")(first)
    joined = keras.layers.Concatenate(name="joined")([first, second])
    x = keras.layers.GlobalAveragePooling2D(name="mean")(joined)
    q = mobile.quantize_aware(keras.Model(inputs, keras.layers.Dense(3, name="scores")(x)))
    assert range_names(q) == ["images", "first", "mean", "scores"]
    assert [layer.places for layer in ranges(q)] == [1, 2, 1, 1]
    # Each place tracks the range of its values.
    images = pseudo_random((8, 8, 8, 2))
    q(images, training=True)
    highest = [float(np.max(keras.Model(inputs, part)(images))) for part in (first, second)]
    assert_close(np.asarray(ranges(q)[1].high), highest, 0.02)


def network_of_modules(input_shape, *modules):
    """A classifier with a stem of 16 filters and a few modules of the papers."""
    x = inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(16, 3, padding="same", name="stem")(x)
    for module in modules:
        x = module(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10, "softmax", name="predictions")(x))


def shared_module():
    return network_of_modules((8, 8, 1), HSCModule(width=16, groups=2, channel_repeats=2, name="module"))


def shared_network():
    return ksn.create_model(
        "hscnet_m32_g4_r2_b1_a2", input_shape=(8, 8, 1), num_classes=10, include_preprocessing=False
    )


@pytest.mark.parametrize("build", slow_after(1, [shared_module, shared_network]))
def test_training_updates_the_weights_of_the_model(build, digits):
    model = build()
    before = model.get_weights()
    q = mobile.quantize_aware(model)
    images, classes = digits
    x = images[:64].astype("float32")
    calm_statistics(model, x)
    assert_close(outputs_of(q, x), outputs_of(model, x), 0.3)
    q.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    q.fit(x, classes[:64], batch_size=32, verbose=0)
    moved = [np.abs(new - old).max() for new, old in zip(model.get_weights(), before, strict=True)]
    assert sum(change > 0 for change in moved) >= len(model.trainable_weights)
    assert all(float(layer.high.numpy().max()) > 0 for layer in ranges(q))
    assert ksn.profile(q).stored_parameters == ksn.profile(model).stored_parameters
    assert ksn.profile(q).multiply_adds == ksn.profile(model).multiply_adds


@pytest.fixture(scope="module")
def quantized(trained, digits):
    """A copy of the trained network after eleven steps of quantization-aware training."""
    copy = keras.models.clone_model(trained)
    copy.set_weights(trained.get_weights())
    for layer in copy.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    q = mobile.quantize_aware(copy)
    keras.utils.set_random_seed(0)
    q.compile(keras.optimizers.Adam(5e-4), "sparse_categorical_crossentropy", run_eagerly=True)
    images, classes = digits
    q.fit(images[:-500].astype("float32"), classes[:-500], batch_size=128, verbose=0)
    return q


@pytest.fixture(scope="module")
def exported(quantized, digits, tmp_path_factory):
    """The report on the int8 file of that network."""
    path = tmp_path_factory.mktemp("quantized") / "q.tflite"
    return mobile.export_tflite(quantized, path, quantization="int8", representative_data=digits[0][:100])


def test_file_matches_the_trained_network(quantized, exported, trained, digits, tmp_path):
    (images, classes), report = digits, exported
    plain = mobile.export_tflite(trained, tmp_path / "t.tflite", quantization="int8", representative_data=images[:100])
    assert abs(report.file_bytes - plain.file_bytes) < 0.02 * plain.file_bytes
    assert report.stored_parameters == plain.stored_parameters
    # At most half the error of post-training quantization.
    assert report.score_error < 0.03
    test = images[-500:]
    in_keras = outputs_of(quantized, test.astype("float32")).argmax(1)
    in_file = mobile.predict_tflite(report.path, test).argmax(1)
    assert (in_keras == in_file).mean() >= 0.99
    assert (in_file == classes[-500:]).mean() >= (in_keras == classes[-500:]).mean() - 0.005


def test_file_uses_the_learned_ranges(quantized, digits, tmp_path):
    """Even if the representative images have other ranges."""
    dark = digits[0][:20] // 2
    mobile.export_tflite(quantized, tmp_path / "q.tflite", quantization="int8", representative_data=dark)
    runtime = mobile.open_tflite(tmp_path / "q.tflite")
    scale, zero_point = runtime.get_input_details()[0]["quantization"]
    assert scale == pytest.approx(255 / 255, rel=1e-5)
    assert zero_point == 0


def test_saved_network_gives_the_same_outputs_and_file(quantized, exported, digits, tmp_path):
    quantized.save(tmp_path / "q.keras")
    reloaded = keras.saving.load_model(tmp_path / "q.keras")
    test = digits[0][:100].astype("float32")
    assert_close(outputs_of(reloaded, test), outputs_of(quantized, test), 1e-6)
    path = tmp_path / "reloaded.tflite"
    mobile.export_tflite(reloaded, path, quantization="int8", representative_data=digits[0][:100])
    assert path.read_bytes() == pathlib.Path(exported.path).read_bytes()


def hierarchical_network():
    modules = [HGCModule(growth=4, squeeze_excite=2, name="first"), HGCModule(growth=4, groups=2, name="second")]
    return network_of_modules((16, 16, 3), *modules)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        hierarchical_network,
        functools.partial(representative, "hgcnet", blocks_per_stage=1, growth=4),
        *(functools.partial(representative, family) for family in REPRESENTATIVES),
    ],
    ids=["chains", "short hgcnet", *REPRESENTATIVES],
)
def test_every_family(build, tmp_path):
    keras.utils.set_random_seed(0)
    model = build()
    images = np.random.default_rng(0).uniform(0, 1, (8, *model.input_shape[1:])).astype("float32")
    calm_statistics(model, images)
    q = mobile.quantize_aware(model)
    q(images, training=True)  # Sets the ranges.
    report = mobile.export_tflite(q, tmp_path / "q.tflite", quantization="int8", representative_data=images)
    plain = mobile.export_tflite(model, tmp_path / "m.tflite", quantization="int8", representative_data=images)
    # Quantization-aware training fixes the kernels, so they cannot absorb the remainder of a preceding scale.
    more = step_bytes(report.path) - step_bytes(plain.path)
    assert abs(report.file_bytes - plain.file_bytes - more) < 0.02 * plain.file_bytes
    assert report.score_error < 0.2


def step_bytes(path):
    """The bytes of scales in a file: one array per tensor, and one array of zero points per length."""
    main = file.parse(pathlib.Path(path).read_bytes()).Subgraphs(0)
    found = [main.Tensors(index).Quantization() for index in range(main.TensorsLength())]
    counts = [quantization.ScaleLength() for quantization in found if quantization is not None]
    return 4 * sum(counts) + 8 * sum(set(counts))


# By default, the other backend runs the layers of such a network only.
@pytest.mark.parametrize("there", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_harness(there, tmp_path, request):
    def factory(classifier_activation):
        inputs = keras.Input((8, 8, 4))
        shared = ksn.layers.HighlySharedConv2D(8, 3, groups=2, channel_repeats=2, name="shared")
        x = keras.layers.Conv2D(8, 1, name="stem")(inputs)
        for use in range(2):
            x = keras.layers.BatchNormalization(name=f"norm_{use}")(shared(x))
        x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
        return mobile.quantize_aware(keras.Model(inputs, keras.layers.Dense(3, classifier_activation, name="end")(x)))

    other_backend = request.getfixturevalue("other_backend") if there else None
    check_model(factory, {}, tmp_path, other_backend, classifier=None)


def test_bad_arguments():
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="conv")(inputs))
    with pytest.raises(ValueError, match=r"`preserve` \(='all'\) must be one of None, 'zeros', 'clusters'"):
        mobile.quantize_aware(model, preserve="all")
    with pytest.raises(ValueError, match=r"`engine` \(='tf'\) must be one of 'keras', 'tfmot'"):
        mobile.quantize_aware(model, engine="tf")
    q = mobile.quantize_aware(model)
    with pytest.raises(ValueError, match=r"quantization-aware already"):
        mobile.quantize_aware(q)
    odd = keras.Model(inputs, keras.layers.UpSampling2D(interpolation="bicubic", name="odd")(inputs))
    with pytest.raises(mobile.UnsupportedLayerError, match="'odd', a UpSampling2D"):
        mobile.quantize_aware(odd)

    regular = keras.Model(inputs, keras.layers.Conv2D(2, 1, activity_regularizer="l2", name="sparse")(inputs))
    with pytest.raises(ValueError, match=r"`engine` \(='tfmot'\) does not apply .* 'sparse': use 'keras'"):
        mobile.quantize_aware(regular, engine="tfmot")


class Block(keras.layers.Layer):
    """A convolution and a normalization, whose statistics are part of the layer."""

    def build(self, input_shape):
        self.conv = keras.layers.Conv2D(2, 1, kernel_initializer="ones")
        self.norm = keras.layers.BatchNormalization(momentum=0.0)
        self.conv.build(input_shape)
        self.norm.build((*input_shape[:-1], 2))

    def call(self, inputs, training=None):
        return self.norm(self.conv(inputs), training=training)


@pytest.mark.parametrize("engine", ["keras", "tfmot"])
def test_statistics_inside_a_layer_are_updated(engine):
    inputs, block = keras.Input((4, 4, 3)), Block()
    q = mobile.quantize_aware(keras.Model(inputs, block(inputs)), engine=engine)
    q.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    images = pseudo_random((2, 4, 4, 3))
    q.train_on_batch(images, np.zeros((2, 4, 4, 2)))
    expected = images.sum(-1).mean()
    assert_close(block.norm.moving_mean.numpy(), np.full(2, expected), 0.05)


def test_clusters_beside_frozen_kernels():
    """`cluster` skips frozen kernels, so they need no clusters; each of their filters is rounded by its own scale."""
    inputs = keras.Input((20,))
    frozen, trained = keras.layers.Dense(20, name="frozen", use_bias=False), keras.layers.Dense(20, name="trained")
    model = keras.Model(inputs, trained(frozen(inputs)))
    kernel = pseudo_random((20, 20)).astype("float32")
    frozen.kernel.assign(kernel)
    trained.kernel.assign(np.round(3 * pseudo_random((20, 20))))
    frozen.trainable = False
    q = mobile.quantize_aware(model, preserve="clusters")
    assert [q.get_layer(f"{name}_rounded").preserve for name in ("frozen", "trained")] == ["zeros", "clusters"]
    scale = np.abs(kernel).max(axis=0) / 127
    assert_close(q.get_layer("frozen_rounded")(np.eye(20, dtype="float32")), np.round(kernel / scale) * scale, 1e-6)
    frozen.trainable = True
    with pytest.raises(ValueError, match=r"'frozen/kernel' has \d+: cluster the network first"):
        mobile.quantize_aware(model, preserve="clusters")


def test_engines_quantize_alike(trained, digits):
    """One training step from the same weights gives the same loss and ranges."""
    losses, limits = [], []
    for engine in ("keras", "tfmot"):
        copy = keras.models.clone_model(trained)
        copy.set_weights(trained.get_weights())
        q = mobile.quantize_aware(copy, engine=engine)
        q.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", run_eagerly=True)
        losses.append(q.train_on_batch(digits[0][:64].astype("float32"), digits[1][:64]))
        limits.append([float(limit) for layer in ranges(q) for limit in layer.range()])
    assert_close(losses[1], losses[0], 1e-4)
    assert_close(limits[1], limits[0], 1e-4)


class Pair(keras.layers.Layer):
    """A layer with two inputs and two outputs, each with a separate kernel."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [keras.layers.Dense(4, use_bias=False, name=name) for name in ("one", "two")]

    def build(self, first_shape, second_shape):
        for part, shape in zip(self.parts, (first_shape, second_shape), strict=True):
            part.build(shape)

    def call(self, first, second):
        return self.parts[0](first), self.parts[1](second)


@pytest.mark.parametrize("by_name", [False, True])
def test_functions_and_layers_with_several_inputs_and_outputs(by_name):
    inputs, pair = keras.Input((3,), name="numbers"), Pair(name="pair")
    second = keras.ops.square(inputs)
    x, y = pair(first=inputs, second=second) if by_name else pair(inputs, second)
    q = mobile.quantize_aware(keras.Model(inputs, [x, y]))
    assert {"pair", "pair_output_2"} <= set(range_names(q))
    data, kernels = pseudo_random((5, 3)), [np.asarray(part.kernel) for part in pair.parts]
    steps = [np.abs(kernel).max(axis=0) / 127 for kernel in kernels]
    rounded = [np.round(kernel / step) * step for kernel, step in zip(kernels, steps, strict=True)]
    for actual, expected in zip(q(data), (data @ rounded[0], data**2 @ rounded[1]), strict=True):
        assert_close(keras.ops.convert_to_numpy(actual), expected, 1e-5)
