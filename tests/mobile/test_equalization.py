"""One scale for all filters of a kernel: what files store and compute, and where each filter keeps its own scale."""

import functools

import keras
import numpy as np
import pytest
from families import REPRESENTATIVES, representative
from harness import assert_close, pseudo_random, slow_after
from hypothesis import given, settings
from hypothesis import strategies as st
from mobile_networks import convert_with_graph, lower, run

import keras_sharenets as ksn
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.mobile import quantize_aware
from keras_sharenets.mobile.export import conversion
from keras_sharenets.mobile.graph import equalization, equalization_factors, scales
from keras_sharenets.mobile.graph.equalization import equalize
from keras_sharenets.mobile.graph.equalization_error import Rounding
from keras_sharenets.mobile.graph.lowering import lower_model
from keras_sharenets.mobile.graph.passes import simplify
from keras_sharenets.mobile.graph.quantization import quantize
from keras_sharenets.mobile.graph.rounding_error import rounding_error
from keras_sharenets.mobile.inspect import file

IMAGES = pseudo_random((48, 8, 8, 3), seed=3)


def spread(model, seed=0, decades=1.0):
    """The model, with the filters of each kernel multiplied by factors that differ by that many powers of ten."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.weights and not isinstance(layer, keras.layers.BatchNormalization):
            kernel, *biases = layer.get_weights()
            axes = kernel.shape[2:] if isinstance(layer, keras.layers.DepthwiseConv2D) else kernel.shape[-1:]
            factors = 10 ** random.uniform(-decades / 2, decades / 2, axes)
            layer.set_weights([kernel * factors, *(factors.ravel() * (bias + 0.1) for bias in biases)])
    return model


def chain(*layers):
    inputs = keras.Input((8, 8, 3))
    x = inputs
    for layer in (*layers, keras.layers.Flatten(), keras.layers.Dense(4, name="scores")):
        x = layer(x)
    return spread(keras.Model(inputs, x))


def conv(filters=12, size=3, **options):
    return keras.layers.Conv2D(filters, size, **options)


def kernel_scales(data):
    """The number of scales of the kernel and of the bias of each operator with a kernel, in order."""
    model = file.parse(data)
    main, found = model.Subgraphs(0), []
    for name, inputs, _ in file.operators(model):
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            found.append(tuple(main.Tensors(each).Quantization().ScaleLength() for each in inputs[1:]))
    return found


CHAINS = {
    "convolutions": ([conv(), conv(6)], [1, 6]),
    "ReLU": ([conv(activation="relu"), conv(6, activation="relu")], [1, 6]),
    "three in a row": ([conv(activation="relu"), conv(10, activation="relu"), conv(6, 1)], [1, 1, 6]),
    "normalization": ([conv(), keras.layers.BatchNormalization(), keras.layers.ReLU(), conv(6)], [1, 6]),
    "pooling": ([conv(activation="relu"), keras.layers.MaxPooling2D(), conv(6, 1)], [1, 6]),
    "padding": ([conv(), keras.layers.ZeroPadding2D(2), conv(6, strides=2)], [1, 6]),
    "groups": ([conv(), conv(12, groups=4), ksn.layers.ChannelShuffle(4), conv(6, groups=2)], [1, 1, 6]),
    "depthwise": ([conv(), keras.layers.DepthwiseConv2D(3, depth_multiplier=2), conv(6, 1)], [1, 1, 6]),
    "dense": ([conv(), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(8, "relu")], [1, 1]),
    # The next kernel multiplies channels that a ReLU6 or a sigmoid has changed.
    "ReLU6": ([conv(), keras.layers.ReLU(6.0), conv(6)], [12, 6]),
    "sigmoid": ([conv(activation="sigmoid"), conv(6)], [12, 6]),
    "own output": ([conv(6)], [6]),
}


@pytest.fixture
def wherever_possible(monkeypatch):
    """Filters get one scale also where that is estimated to cost accuracy."""
    monkeypatch.setattr(equalization_factors, "_MOST_ERROR", 1e3)


@pytest.mark.usefixtures("wherever_possible")
@pytest.mark.parametrize(("layers", "counts"), CHAINS.values(), ids=CHAINS)
def test_scales_of_filters_in_a_file(layers, counts):
    """One for all filters of a kernel that the next one can make up for; the file still computes what Keras does."""
    model = chain(*(layer.__class__.from_config(layer.get_config()) for layer in layers))
    # The last kernel gives the output of the network, and the one before it mostly a reshape that mixes channels.
    check_scales(model, [*counts, 4], 0.06)


def check_scales(model, counts, most):
    """Checks the numbers of scales in the int8 file, and that its outputs are those of Keras."""
    data, quantized = convert_with_graph(model, IMAGES, quantization="int8", input_type="int8", output_type="int8")
    assert kernel_scales(data) == [(count, count) for count in counts]
    expected = np.asarray(model(IMAGES))
    assert_close(run(quantized.graph, IMAGES), expected, 1e-4)
    interpreter = file.open_bytes(data, "The file")
    (end,) = interpreter.get_output_details()
    (found,) = file.run_examples(interpreter, (IMAGES,), [end["index"]])
    assert np.linalg.norm(found - expected) < most * np.linalg.norm(expected)


def added(x):
    return keras.layers.Add()([conv(8)(x), conv(8)(x)])


def residual(x, *between):
    x = stem = conv(8, activation="relu")(x)
    for size in (3, 1):
        x = conv(8, size, padding="same", activation="relu")(x)
    x = keras.layers.ReLU()(keras.layers.Add()([stem, conv(8, 3, padding="same")(x)]))
    return functools.reduce(lambda x, layer: layer(x), between, x)


def joined(x):
    return keras.layers.Concatenate()([conv(8, activation="relu")(x), conv(5)(x)])


BRANCHES = {
    # The fewest scales that give the right result, in the order of the operators.
    "addition": (added, [1, 1]),
    "addition and shuffle": (lambda x: ksn.layers.ChannelShuffle(4)(added(x)), [1, 1]),
    "residual block": (residual, [1, 1, 1, 1]),
    "residual block and pooling": (lambda x: residual(x, keras.layers.MaxPooling2D(2)), [1, 1, 1, 1]),
    "maximum": (lambda x: keras.layers.Maximum()([conv(8)(x), conv(8)(x)]), [1, 1]),
    "concatenation": (joined, [1, 1]),
    "concatenation and addition": (lambda x: keras.layers.Add()([joined(x), conv(13)(x)]), [1, 1, 1]),
    "addition of a number": (lambda x: conv(8)(x) + 1.5, [1]),
    # An image has the channels that it has; a kernel cannot both divide and multiply by the same factors.
    "addition to the image": (lambda x: keras.layers.Add()([x, conv(3, padding="same")(x)]), [3]),
    "addition to its own input": (lambda x: (y := conv(8)(x)) + conv(8, padding="same")(y), [8, 8]),
}


@pytest.mark.usefixtures("wherever_possible")
@pytest.mark.parametrize(("branches", "counts"), BRANCHES.values(), ids=BRANCHES)
def test_scales_of_filters_of_linked_values(branches, counts):
    """Kernels whose outputs are added or concatenated get one scale each, with factors that they have in common."""
    inputs = keras.Input((8, 8, 3))
    model = spread(keras.Model(inputs, conv(4, 3, name="scores")(branches(inputs))), decades=0.5)
    check_scales(model, [*counts, 4], 0.1)


@pytest.mark.usefixtures("wherever_possible")
def test_outputs_keep_their_scales():
    inputs = keras.Input((8, 8, 3))
    first = conv(6, name="first")(inputs)
    for read in (first, keras.layers.Add()([first, conv(6, name="second")(inputs)])):
        model = spread(keras.Model(inputs, [first, conv(4, 1, name="behind")(read)]))
        data, _ = convert_with_graph(model, IMAGES, quantization="int8")
        assert {count for count, _ in kernel_scales(data)} == {6, 4}


def shared_twice(reader):
    """A convolution that is called twice, each time with its own normalization and its own or a shared reader."""
    inputs, shared, outputs = keras.Input((8, 8, 3)), conv(8, 3, padding="same", name="shared"), []
    reader = reader or (lambda x: conv(5, 1)(x))
    for number, start in enumerate((inputs, keras.layers.MaxPooling2D(2, 1, "same")(inputs))):
        norm = keras.layers.BatchNormalization()
        x = keras.layers.ReLU()(norm(shared(start)))
        random = np.random.default_rng(number)
        norm.set_weights([*random.uniform(0.2, 2, (1, 8)), *random.normal(size=(2, 8)), random.uniform(0.5, 2, 8)])
        outputs.append(reader(x))
    return keras.Model(inputs, keras.layers.Concatenate()([keras.layers.Flatten()(output) for output in outputs]))


@pytest.mark.usefixtures("wherever_possible")
def test_a_shared_kernel_keeps_its_integers():
    """Only its scales at a use change, so that both uses still read the same bytes."""
    model = shared_twice(None)
    data, quantized = convert_with_graph(model, IMAGES, quantization="int8")
    assert sorted(count for count, _ in kernel_scales(data)) == [1, 1, 5, 5]
    assert file.constant_bytes(file.parse(data))["int8"] == 3 * 3 * 3 * 8 + 2 * 8 * 5
    assert_close(run(quantized.graph, IMAGES), np.asarray(model(IMAGES)), 1e-4)


@pytest.mark.usefixtures("wherever_possible")
def test_a_shared_kernel_takes_up_no_factors():
    data, _ = convert_with_graph(shared_twice(conv(5, 1, name="reader")), IMAGES, quantization="int8")
    assert sorted(count for count, _ in kernel_scales(data)) == [5, 5, 8, 8]


NETWORKS = {"copies": lambda: ksn.create_model("hscnet_m32_g4_r2_b1_a2", num_classes=10)}
NETWORKS |= {family: functools.partial(representative, family) for family in REPRESENTATIVES}


@pytest.mark.usefixtures("wherever_possible")
@pytest.mark.parametrize("name", slow_after(1, NETWORKS))
def test_no_file_becomes_larger(name, monkeypatch):
    """Copies of a shared kernel for different calls, in files for speed, have the same integers, stored once."""
    model = NETWORKS[name]()
    randomize_batchnorm(model)
    lowered, images = lower_model(model), (pseudo_random((4, 32, 32, 3)),)
    for prefer in ("size", "speed"):
        options = {"quantization": "int8", "representative_data": images, "prefer": prefer}
        equalized, _ = conversion.convert(lowered, **options)
        with monkeypatch.context() as patch:
            patch.setattr(equalization, "equalize", lambda graph, data: graph)
            plain, _ = conversion.convert(lowered, **options)
        # A kernel with two kinds of scales takes another entry in the list of tensors.
        assert len(equalized) <= 1.002 * len(plain)


@pytest.mark.usefixtures("wherever_possible")
def test_learned_ranges_are_kept():
    model = quantize_aware(chain(conv(activation="relu"), conv(6)))
    model(IMAGES, training=True)
    data, _ = convert_with_graph(model, IMAGES, quantization="int8")
    assert [count for count, _ in kernel_scales(data)] == [12, 6, 4]


def test_values_without_channels_keep_their_factors():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Dense(1)(keras.layers.Flatten()(conv()(inputs)))
    scalar = keras.ops.abs(keras.layers.Reshape(())(x))
    model = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Reshape((1,))(scalar)))
    graph = scales.prepare_int8(simplify(lower(model)), lambda site: False)
    assert any(value.shape == (1,) for value in graph.values())
    assert_close(run(equalize(graph, (IMAGES,)), IMAGES), np.asarray(model(IMAGES)), 1e-5)


@pytest.mark.parametrize("zero", ["kernel", "images"])
def test_without_any_error_factors_stay_finite(zero):
    """As behind a normalization whose scales start at 0, or with blank images only."""
    model = chain(conv(use_bias=False, activation="relu"), conv(6, use_bias=False))
    if zero == "kernel":
        model.layers[2].set_weights([np.zeros((3, 3, 12, 6))])
    graph = scales.prepare_int8(simplify(lower(model)), lambda site: False)
    equalized = equalize(graph, (IMAGES * (zero == "kernel"),))
    assert_close(run(equalized, IMAGES), np.asarray(model(IMAGES)), 1e-5)


def test_a_weak_filter_with_large_values_does_not_set_the_step_of_the_others():
    """Its weights times the factor of the strongest filter would make its bias a million times as large as the rest."""
    model = chain(conv(activation="relu"), conv(6))
    kernel, bias = model.layers[1].get_weights()
    kernel[..., 0] *= 1e-5
    bias[0] = 3
    model.layers[1].set_weights([kernel, bias])
    graph = scales.prepare_int8(simplify(lower(model)), lambda site: False)
    given, errors = (IMAGES,), []
    for prepared in (graph, equalize(graph, given)):
        errors.append(rounding_error(quantize(prepared, given), given).scores[0])
    assert errors[1] < 1.5 * errors[0]


ROUNDINGS = {
    "values of one range": {"power": -1, "one_step": True},
    "filters of one scale": {"power": -1},
    "a kernel that reads": {"power": 1},
}


def some_rounding(name, seed, channels=5):
    """Two groups of three steps; some channels share a factor, and some cannot set a step."""
    random = np.random.default_rng(seed)
    reach = random.lognormal(size=(2, 3, channels)) * random.integers(0, 2, (2, 3, channels))
    numbers = random.integers(0, channels, (2, channels))
    return Rounding(numbers, reach, random.lognormal(size=(2, channels)), **ROUNDINGS[name])


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(sorted(ROUNDINGS)), seed=st.integers(0, 10**6), sharpness=st.sampled_from((2, 16, 128)))
def test_errors_and_their_gradients(name, seed, sharpness):
    """The error as a loop over groups and channels; the smooth one is never lower, and its slope is that of a line."""
    rounding, random = some_rounding(name, seed), np.random.default_rng(seed + 1)
    logarithms, direction = random.normal(size=(2, 5))
    expected = 0.0
    for numbers, reach, weights in zip(rounding.channels, rounding.reach, rounding.weights, strict=True):
        own = [np.exp(logarithms[number]) ** rounding.power for number in numbers]
        steps = [max(each * scale for each, scale in zip(row, own, strict=True)) for row in reach]
        squares = sum(steps) ** 2 if rounding.one_step else sum(step**2 for step in steps)
        expected += squares * sum(weight / scale**2 for weight, scale in zip(weights, own, strict=True))
    assert_close(rounding.error(np.exp(logarithms)), expected, 1e-9)

    smooth, gradient = rounding.smooth_error(logarithms, sharpness)
    assert expected * (1 - 1e-9) <= smooth <= expected * 5 ** (2 / sharpness) * (1 + 1e-9)
    ends = [rounding.smooth_error(logarithms + step * direction, sharpness)[0] for step in (-1e-6, 1e-6)]
    assert abs((ends[1] - ends[0]) / 2e-6 - gradient @ direction) <= 1e-4 * smooth * sharpness


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_small_changes_do_not_lower_the_lowest_error_by_much(seed):
    roundings = [some_rounding(name, seed + place) for place, name in enumerate(ROUNDINGS)]
    random = np.random.default_rng(seed)
    best = np.log(equalization_factors.lowest_error(roundings, 3 * random.normal(size=5)))
    found = least = sum(rounding.error(np.exp(best)) for rounding in roundings)
    for _ in range(2000):
        tried = best + random.normal(size=5) * 10 ** random.uniform(-3, 0)
        error = sum(rounding.error(np.exp(tried)) for rounding in roundings)
        if error < least:
            best, least = tried, error
    assert found <= 1.02 * least


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    decades=st.floats(0, 4),
    widths=st.lists(st.sampled_from((4, 8, 12)), min_size=2, max_size=4),
    groups=st.sampled_from((1, 2, 4)),
    relu=st.booleans(),
    join=st.sampled_from((None, keras.layers.Add, keras.layers.Subtract, keras.layers.Concatenate)),
)
def test_equalized_graphs_compute_the_same(seed, decades, widths, groups, relu, join):
    x = inputs = keras.Input((6, 6, 4))
    for number, width in enumerate(widths):
        before = x
        x = conv(width, 1 + 2 * (number % 2), padding="same", groups=groups, activation="relu" if relu else None)(x)
        x = keras.layers.DepthwiseConv2D(3)(x) if number == 1 else x
        if join is not None and number == 0:
            x = ksn.layers.ChannelShuffle(2)(join()([x, conv(width, 3, padding="same")(before)]))
    model = spread(keras.Model(inputs, x), seed, decades)
    images = pseudo_random((8, 6, 6, 4), seed=seed % 1000)
    graph = scales.prepare_int8(simplify(lower(model)), lambda site: False)
    assert_close(run(equalize(graph, (images,)), images), np.asarray(model(images)), 1e-4)
