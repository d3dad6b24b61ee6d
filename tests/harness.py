"""The checks that every layer and every network of the library must pass; a new one is a row in a test's table."""

import contextlib
import functools
import json

import keras
import numpy as np
import pytest

from keras_sharenets.dtype_policies import in_policy

# Building a large network takes seconds on JAX, and counts are the same on every backend.
on_one_backend = pytest.mark.skipif(keras.backend.backend() == "jax", reason="counts: TensorFlow's run has them")


@contextlib.contextmanager
def without_weights():
    """Builds networks with shapes but without values, which more than halves the time to count them."""
    with keras.StatelessScope():
        yield
        # The end of the scope would create the weights of all networks that still exist.
        keras.utils.clear_session()


def counts_only(test):
    """Marks a test that builds large networks and uses only shapes."""
    return on_one_backend(pytest.mark.usefixtures("no_weights")(test))


def slow_after(count, cases):
    """The cases of a test; those after the first `count` run only in `make test-all`. A tuple is several arguments."""
    cases = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*case, marks=() if i < count else pytest.mark.slow) for i, case in enumerate(cases)]


@functools.cache
def _quick_compilation():
    """XLA options for programs that run once: without the fusion emitter, compilation takes a third of the time."""
    import jax

    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0).lower().compile(options)
    except Exception:  # A JAX version without this option; its error type is undocumented.
        return None
    return options


def jit(function):
    """`jax.jit` for a program that runs once."""
    import jax

    return jax.jit(function, compiler_options=_quick_compilation())


def pseudo_random(shape, seed=0):
    """Reproducible float32 numbers with mean 0 and variance 1; `None` in the shape becomes 2."""
    return np.random.default_rng(seed).standard_normal([side or 2 for side in shape]).astype("float32")


def outputs_and_gradients(model, images, training=False):
    """The outputs, and the gradients of `sum(outputs * probe)` by the trainable weights, on the current backend.

    The probe has fixed pseudo-random values, so that no gradient vanishes by symmetry (those of a softmax sum to 0).
    """
    probe = pseudo_random((len(images), *model.output_shape[1:]), seed=1)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            outputs = model(images, training=training)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) * probe)
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        gradients = [None if gradient is None else np.asarray(tf.convert_to_tensor(gradient)) for gradient in gradients]
        return np.asarray(tf.cast(outputs, tf.float32)), gradients
    import jax

    def loss(trainable, fixed):
        outputs, _ = model.stateless_call(trainable, fixed, images, training=training)
        return (outputs.astype("float32") * probe).sum(), outputs.astype("float32")

    weights = [variable.value for variable in model.trainable_variables]
    fixed = [variable.value for variable in model.non_trainable_variables]
    (_, outputs), gradients = jit(jax.value_and_grad(loss, has_aux=True))(weights, fixed)
    return np.asarray(outputs), [np.asarray(gradient) for gradient in gradients]


def outputs_of(model, images):
    """The outputs in inference mode as float32 or wider; compiled as a whole on JAX."""
    if keras.backend.backend() == "jax":
        outputs = jit(lambda trained, fixed: model.stateless_call(trained, fixed, images)[0])(*_values(model))
    else:
        outputs = model(images, training=False)
    dtype = keras.backend.standardize_dtype(outputs.dtype)
    return keras.ops.convert_to_numpy(outputs if dtype == "float64" else keras.ops.cast(outputs, "float32"))


def _values(model):
    """The values of the trainable and of the non-trainable variables."""
    groups = model.trainable_variables, model.non_trainable_variables
    return [[variable.value for variable in group] for group in groups]


def assert_close(actual, expected, tolerance, least=1e-6):
    """Equal within `tolerance` times the largest expected magnitude, or times `least` if that is larger."""
    scale = max(float(np.max(np.abs(expected), initial=0.0)), least)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def _check_config(instance, rebuild):
    before = json.dumps(instance.get_config(), sort_keys=True, default=str)
    after = json.dumps(rebuild(instance.get_config()).get_config(), sort_keys=True, default=str)
    assert before == after


def training_step(model, images, labels):
    """The network's part of a training step, on the current backend.

    Returns:
        A list of arrays: the outputs in inference mode before the step, the cross-entropy in training mode, its
        gradients by the trainable weights, and the updated non-trainable weights.
    """
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        outputs = model(images, training=False)
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(images, training=True))
        gradients = tape.gradient(loss, [variable.value for variable in model.trainable_variables])
        results = [outputs, loss, *gradients, *model.non_trainable_variables]
        return [np.asarray(tf.convert_to_tensor(result)) for result in results]
    import jax

    def loss(trained, fixed):
        logits, fixed = model.stateless_call(trained, fixed, images, training=True)
        return loss_of(labels, logits), fixed

    # One program, since compilation takes nearly all of the time on a CPU.
    def step(trained, fixed):
        outputs, _ = model.stateless_call(trained, fixed, images, training=False)
        (value, updated), gradients = jax.value_and_grad(loss, has_aux=True)(trained, fixed)
        return [outputs, value, *gradients, *updated]

    return [np.asarray(result) for result in jit(step)(*_values(model))]


def _check_file(model, images, path):
    """A network saved as a `.keras` file loads as the same network."""
    model.save(path)
    reloaded = keras.saving.load_model(path, compile=False)
    assert len(reloaded.weights) == len(model.weights)
    assert_close(outputs_of(reloaded, images), outputs_of(model, images), 1e-6)


def _check_same_there(model, path, images, folder, other_backend):
    """The other backend computes the same outputs and gradients from the same file."""
    outputs, gradients = outputs_and_gradients(model, images)
    outputs_there, gradients_there = other_backend.outputs_and_gradients(path, images, folder)
    assert_close(outputs_there, outputs, 1e-5)
    assert len(gradients_there) == len(gradients)
    for actual, expected in zip(gradients_there, gradients, strict=True):
        assert_close(actual, expected, 1e-5)


def _check_gradients(model, images):
    """Every stored weight gets a gradient."""
    _, gradients = outputs_and_gradients(model, images, training=True)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
        assert gradient is not None, f"no gradient reaches {variable.path}"
        assert np.all(np.isfinite(gradient)), variable.path
        assert np.count_nonzero(gradient) >= 0.5 * gradient.size, f"most gradients of {variable.path} are 0"
    return gradients


# float16 has 11 significant bits, bfloat16 has 8: rounding errors are 8 times as large.
DIGITS_LOST = {"mixed_float16": 1, "mixed_bfloat16": 8}


def _check_mixed_precision(build, weights, images, expected, tolerance, classifier=None):
    """Computes in half precision and stores full precision: float16 within `tolerance`, bfloat16 within 8 times that.

    The layer called `classifier` computes in full precision.
    """
    for policy, factor in DIGITS_LOST.items():
        model = in_policy(policy, build)
        assert {variable.dtype for variable in model.trainable_variables} <= {"float32"}
        half = policy.removeprefix("mixed_")
        if classifier is None:
            assert keras.backend.standardize_dtype(model.output.dtype) == half
        else:
            last = model.get_layer(classifier)
            types = [keras.backend.standardize_dtype(tensor.dtype) for tensor in (last.input, last.output)]
            assert types == [half, "float32"]
            assert model.output is last.output
        model.set_weights(weights)
        difference = outputs_of(model, images) - expected
        assert np.linalg.norm(difference) <= factor * tolerance * np.linalg.norm(expected), policy


def check_half_precision(build, weights, images, bar=1e-2):
    """Training outputs and gradients of all weights in half precision are within `bar` of full precision.

    Args:
        build: function that returns a model.
        weights: list of arrays.
        images: float32 array.
        bar: float, maximum norm of the difference relative to the norm of the full-precision result.
    """

    def compute(policy):
        model = in_policy(policy, build)
        model.set_weights(weights)
        outputs, gradients = outputs_and_gradients(model, images, training=True)
        return ["outputs", *(variable.path for variable in model.trainable_variables)], [outputs, *gradients]

    _, expected = compute("float32")
    for policy in DIGITS_LOST:
        for name, value, right in zip(*compute(policy), expected, strict=True):
            assert np.linalg.norm(value - right) <= bar * np.linalg.norm(right), f"{policy}: {name}"


def check_layer(
    layer_class, arguments, input_shape, output_shape, stored_parameters, folder, other_backend=None, half=1e-3
):
    """Runs all checks on a layer.

    Args:
        layer_class: the class.
        arguments: dict, its constructor's arguments.
        input_shape, output_shape: with the batch dimension.
        stored_parameters: int, the count by independent arithmetic.
        folder: path for files.
        other_backend: the fixture `conftest.other_backend`, or `None` to skip that comparison.
        half: maximum relative error of the outputs in float16.
    """
    keras.utils.set_random_seed(0)

    def build(**more):
        inputs = keras.Input(input_shape[1:])
        return keras.Model(inputs, layer_class(**arguments, **more)(inputs))

    images = pseudo_random(input_shape)
    model = build()
    layer = model.layers[-1]
    _check_config(layer, layer_class.from_config)
    assert {name: layer.get_config()[name] for name in arguments} == arguments
    assert layer.count_params() == stored_parameters
    assert model.output_shape == (None, *output_shape[1:])
    assert build(trainable=False).trainable_weights == []
    outputs = outputs_of(model, images)
    assert outputs.shape == tuple(output_shape)
    for gradient in _check_gradients(model, images):
        assert np.count_nonzero(gradient) == gradient.size
    path = folder / "model.keras"
    _check_file(model, images, path)
    if other_backend is not None:
        _check_same_there(model, path, images, folder, other_backend)
    # Repeated, since layers that track their input have changed.
    _check_mixed_precision(build, model.get_weights(), images, outputs_of(model, images), half)
    if model.trainable_variables:
        check_half_precision(build, model.get_weights(), images)


def check_choice(factory, arguments, folder, batch=4):
    """Runs the full-precision checks on a single backend for a network: config, gradients and file.

    Args:
        factory: function that returns a functional model; takes `classifier_activation`.
        arguments: dict, its arguments.
        folder: path for files.
        batch: int, number of images.
    """
    keras.utils.set_random_seed(0)
    model = factory(**arguments, classifier_activation=None)
    images = pseudo_random((batch, *model.input_shape[1:]))
    _check_config(model, keras.Model.from_config)
    _check_gradients(model, images)
    _check_file(model, images, folder / "model.keras")


def check_model(factory, arguments, folder, other_backend=None, batch=4, classifier="predictions"):
    """Runs all checks on a network.

    Args:
        factory, arguments, folder, batch: as above.
        other_backend: the fixture `conftest.other_backend`, or `None` to skip that comparison.
        classifier: name of the last layer, which computes in full precision under every policy; `None` without one.
    """
    keras.utils.set_random_seed(0)

    # Logits: the softmax of an untrained deep network is one-hot, regardless of its weights.
    def build():
        return factory(**arguments, classifier_activation=None)

    model = build()
    images = pseudo_random((batch, *model.input_shape[1:]))
    _check_config(model, keras.Model.from_config)
    _check_gradients(model, images)
    calm_statistics(model, images)
    precise = model if other_backend is None else in_policy("float64", build)
    precise.set_weights(model.get_weights())
    path = folder / "model.keras"
    _check_file(precise, images, path)
    if other_backend is not None:
        _check_training_there(precise, path, len(images), folder, other_backend)
    outputs = outputs_of(model, images)
    _check_mixed_precision(build, model.get_weights(), images, outputs, tolerance=3e-2, classifier=classifier)


def _check_training_there(model, path, batch, folder, other_backend, draws=3):
    """The other backend computes the same outputs for every draw of images, and the same training step for one.

    The two backends round differently. If the input of one ReLU among thousands is 0 up to rounding, their gradients
    differ by a percent. Float64 makes this rare but not impossible: on JAX, Keras promotes float64 and float32 to
    float32, which batch normalization uses. A wrong gradient is wrong for every draw.
    """
    weights, trained = model.get_weights(), range(2, 2 + len(model.trainable_variables))
    labels = np.arange(batch) % model.output_shape[-1]
    for draw in range(draws):
        images = pseudo_random((batch, *model.input_shape[1:]), seed=draw)
        model.set_weights(weights)
        step, step_there = (
            training_step(model, images, labels),
            other_backend.training_step(path, images, labels, folder),
        )
        assert_close(step_there[0], step[0], 1e-5)
        # If a second normalization follows, the gradients of the offsets are 0 up to rounding.
        least = 1e-2 * max(np.abs(step[place]).max() for place in trained)
        try:
            for place, (actual, expected) in enumerate(zip(step_there, step, strict=True)):
                assert_close(actual, expected, 1e-4, least if place in trained else 1e-6)
            return
        except AssertionError:
            if draw == draws - 1:
                raise


def calm_statistics(model, images, steps=30):
    """Sets moving statistics from `images`: with the initial ones, the activations of a deep network explode."""
    moving = [layer for layer in _layers(model) if hasattr(layer, "momentum")]
    before = [layer.momentum for layer in moving]
    for layer in moving:
        layer.momentum **= steps
    if keras.backend.backend() == "jax":
        step = jit(lambda trained, fixed: model.stateless_call(trained, fixed, images, training=True)[1])
        for variable, value in zip(model.non_trainable_variables, step(*_values(model)), strict=True):
            variable.assign(value)
    else:
        model(images, training=True)
    for layer, momentum in zip(moving, before, strict=True):
        layer.momentum = momentum


def _layers(model):
    """The layers of a model and of its nested models."""
    for layer in model.layers:
        yield from _layers(layer) if isinstance(layer, keras.Model) else [layer]
