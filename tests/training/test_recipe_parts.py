"""Optional parts of a recipe other than SGD, crops, and flips, each compared with an independent computation."""

import dataclasses
import itertools
import zipfile

import keras
import numpy as np
import pytest
from tiny_network import create_plain

from keras_sharenets import files
from keras_sharenets.cli.fit import _steps
from keras_sharenets.training.data.dataset import Arrays, make_dataset
from keras_sharenets.training.devices.devices import Devices
from keras_sharenets.training.recipes.batch_changes import batch_changer
from keras_sharenets.training.recipes.optimization import find_optimizer, is_over
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run import network as network_module
from keras_sharenets.training.run.fit import fit
from keras_sharenets.training.run.network import compile_model, deliver, evaluate_as
from keras_sharenets.training.run.record import Epoch, Run, RunOptions
from keras_sharenets.training.run.teacher import learn_from, open_teacher

PLAIN = Recipe(4, 0.1, 0.0, momentum=0.0, nesterov=False)
CLASSES = 3


def small_network():
    images = keras.Input((4, 4, 1))
    x = keras.layers.BatchNormalization(name="scale")(keras.layers.Flatten()(images))
    return keras.Model(images, keras.layers.Dense(CLASSES, activation="softmax", name="last")(x))


def compiled(network, recipe, **more):
    run = Run(model="small", options={}, data={}, recipe=recipe, backend="", versions={}, jit_compile=False)
    model = compile_model(network, run, 4, Devices(), **more)
    model.run_eagerly = keras.backend.backend() == "tensorflow"  # Tracing takes longer.
    return model


def batch(seed=0):
    generator = np.random.default_rng(seed)
    labels = np.eye(CLASSES, dtype="float32")[generator.integers(0, CLASSES, 8)]
    return generator.uniform(0, 255, (8, 4, 4, 1)).astype("float32"), labels


def to_numpy(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


@pytest.mark.parametrize("name", ["Optimizer", "LossScaleOptimizer", "adamm"])
def test_unknown_optimizer(name):
    with pytest.raises(ValueError, match=rf"`optimizer` \(='{name}'\) is not in keras\.optimizers\. Did you mean '"):
        find_optimizer(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion"]
)
@pytest.mark.parametrize("parts", [{}, {"decoupled_decay": True, "decay_scales": False, "ema": 0.9, "accumulate": 2}])
def test_every_optimizer_with_every_part(name, parts):
    network = small_network()
    model = compiled(network, dataclasses.replace(PLAIN, optimizer=name, weight_decay=0.01, clip_norm=1.0, **parts))
    before = to_numpy(network.get_layer("last").kernel)
    for _ in range(2):
        model.train_on_batch(*batch())
    assert np.isfinite(to_numpy(network.get_layer("last").kernel)).all()
    assert not np.array_equal(to_numpy(network.get_layer("last").kernel), before)


# Muon trains only kernels of dense layers itself, and all other weights with Adam and another weight decay.
@pytest.mark.parametrize(("optimizer", "scales"), [("AdamW", True), ("AdamW", False), ("Muon", True)])
def test_decoupled_decay_shrinks_weights_by_the_rate(optimizer, scales):
    """Gradients are 0 for black images and uniform labels."""
    recipe = dataclasses.replace(PLAIN, optimizer=optimizer, weight_decay=0.5, decay_scales=scales)
    network = small_network()
    last, scale = network.get_layer("last"), network.get_layer("scale")
    last.kernel.assign(np.full((16, CLASSES), 2.0))
    scale.gamma.assign(np.full(16, 3.0))
    model = compiled(network, recipe)
    assert model.losses == []
    model.train_on_batch(np.zeros((8, 4, 4, 1), "float32"), np.full((8, CLASSES), 1 / CLASSES, "float32"))
    np.testing.assert_allclose(to_numpy(last.kernel), 2.0 * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_allclose(to_numpy(scale.gamma), 3.0 * (1 - 0.1 * 0.5 * scales), rtol=1e-6)


def test_clipping_and_accumulation():
    """Two batches make one step with the length of the clipped mean gradient."""
    network = small_network()
    kernel = network.get_layer("last").kernel
    model = compiled(network, dataclasses.replace(PLAIN, clip_norm=0.01, accumulate=2))
    start, weights = to_numpy(kernel), [to_numpy(each) for each in network.trainable_variables]
    model.train_on_batch(*batch(0))
    np.testing.assert_array_equal(to_numpy(kernel), start)
    model.train_on_batch(*batch(1))
    moved = [to_numpy(each) - before for each, before in zip(network.trainable_variables, weights, strict=True)]
    assert np.sqrt(sum(np.square(each).sum() for each in moved)) == pytest.approx(0.1 * 0.01, rel=1e-3)


def test_batches_that_complete_no_step_are_told():
    network, recipe = small_network(), dataclasses.replace(PLAIN, epochs=1, accumulate=3, batch_size=8)
    model, kernels = compiled(network, recipe), [to_numpy(network.get_layer("last").kernel)]
    for _ in range(5):
        model.train_on_batch(*batch())
        kernels.append(to_numpy(network.get_layer("last").kernel))
    changed = [not np.array_equal(*pair) for pair in itertools.pairwise(kernels)]
    assert changed == [False, False, True, False, False]
    told = "40 training images: 5 batches of 8 per epoch, 1 epoch, learning rate 0.1 (step); every 3 batches make one"
    assert _steps(recipe, 40) == f"{told} optimizer step (the last 2 of the run make none)"
    assert _steps(recipe, 24) == f"{told.replace('40', '24').replace('5', '3')} optimizer step"


def test_accumulation_over_more_batches_than_the_run_has():
    """Four epochs of four batches: with 17, no optimizer step would be taken."""
    with pytest.raises(ValueError, match=r"`accumulate` \(=17\) must be at most the number of batches of .* \(=16\)"):
        compiled(small_network(), dataclasses.replace(PLAIN, accumulate=17))
    assert compiled(small_network(), dataclasses.replace(PLAIN, accumulate=16)).optimizer is not None


def test_penalty_of_an_evaluation_excludes_frozen_weights():
    """The evaluated network is a copy in which nothing is frozen."""
    network, copy = small_network(), small_network()
    copy.get_layer("scale").trainable = False
    recipe = dataclasses.replace(PLAIN, weight_decay=0.5)
    trained, tested = compiled(copy, recipe), compiled(network, recipe)
    evaluate_as(trained, tested)
    images, labels = batch()
    images /= 255  # Otherwise, some probabilities would be 0.
    found, _ = trained.evaluate(images, labels, verbose=0)
    loss = -np.log((labels * to_numpy(copy(images, training=False))).sum(-1)).mean()
    penalty = 0.5 / 2 * sum(np.square(to_numpy(each)).sum() for each in copy.get_layer("last").trainable_weights)
    assert found == pytest.approx(loss + penalty, rel=1e-4)


def test_moving_average_is_delivered():
    network, copy = small_network(), small_network()
    copy.set_weights(network.get_weights())
    model = compiled(copy, dataclasses.replace(PLAIN, ema=0.75))
    average = None
    for step in range(3):
        model.train_on_batch(*batch(step))
        kernel = to_numpy(copy.get_layer("last").kernel)
        average = kernel if average is None else 0.75 * average + 0.25 * kernel
    statistics = to_numpy(copy.get_layer("scale").moving_mean)
    for _ in range(2):
        deliver(model, network)
        np.testing.assert_allclose(to_numpy(network.get_layer("last").kernel), average, rtol=1e-5)
        np.testing.assert_array_equal(to_numpy(network.get_layer("scale").moving_mean), statistics)
        # Training continues with its current weights.
        np.testing.assert_array_equal(to_numpy(copy.get_layer("last").kernel), kernel)
        model.fit(*batch(), initial_epoch=1, epochs=1, verbose=0)  # No step, only the callbacks at the end of training.


def test_moving_average_counts_optimizer_steps():
    """Two batches make one step. The first step is the first average, and the second one weighs a quarter."""
    network, copy = small_network(), small_network()
    model = compiled(copy, dataclasses.replace(PLAIN, ema=0.75, accumulate=2))
    kernels = []
    for step in range(5):
        model.train_on_batch(*batch(step))
        kernels.append(to_numpy(copy.get_layer("last").kernel))
    assert [np.array_equal(*pair) for pair in itertools.pairwise(kernels)] == [False, True, False, True]
    deliver(model, network)
    expected = 0.75 * kernels[1] + 0.25 * kernels[3]
    np.testing.assert_allclose(to_numpy(network.get_layer("last").kernel), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("accuracies", "over"),
    [
        ([0.5], False),
        ([0.5, 0.4], False),
        ([0.5, 0.5, 0.4], True),
        ([0.5, 0.4, 0.6], False),
        ([0.1, 0.2, 0.3, 0.4], True),
    ],
)
def test_early_stopping(accuracies, over):
    epochs = [Epoch(number, 1.0, None, None, value, 0.1, 1.0) for number, value in enumerate(accuracies, 1)]
    assert is_over(dataclasses.replace(PLAIN, early_stopping=2), epochs) is over
    assert is_over(PLAIN, epochs) is (len(epochs) == 4)


def change_batch(recipe, step, seed=0):
    """Changes a batch of uniform images with gray value 20 * class, and returns images and labels."""
    classes = np.arange(64) % 10
    images = np.broadcast_to(20.0 * classes[:, None, None, None], (64, 16, 16, 1)).astype("float32")
    changer = batch_changer(recipe, seed, (16, 16, 1))
    return tuple(map(to_numpy, changer(images, np.eye(10, dtype="float32")[classes], step)))


@pytest.mark.parametrize(("changes", "error"), [({"mixup": 0.4}, 1e-3), ({"cutmix": 1.0}, 20.0)])
def test_mixed_labels_match_mixed_pixels(changes, error):
    """The gray value expected from the labels is the mean of the pixels, up to the corners of a rectangle."""
    images, labels = change_batch(dataclasses.replace(PLAIN, **changes), 3)
    np.testing.assert_allclose(labels.sum(-1), 1, rtol=1e-5)
    assert ((labels > 0).sum(-1) == 2).mean() > 0.5
    np.testing.assert_allclose(images.mean((1, 2, 3)), labels @ (20.0 * np.arange(10)), atol=error)
    assert len(np.unique(images[labels.max(-1) < 0.9][0])) == (1 if "mixup" in changes else 2)


def test_changes_depend_only_on_seed_and_step():
    both = dataclasses.replace(PLAIN, mixup=0.4, cutmix=1.0, random_erasing=0.5)
    first = change_batch(both, 4)
    for other, same in (
        (change_batch(both, 4), True),
        (change_batch(both, 6), False),
        (change_batch(both, 4, seed=1), False),
    ):
        assert np.array_equal(first[0], other[0]) is same
    # MixUp and CutMix alternate.
    both = dataclasses.replace(both, random_erasing=0.0)
    for step, field in ((4, "cutmix"), (5, "mixup")):
        for one, other in zip(
            change_batch(both, step), change_batch(dataclasses.replace(both, **{field: 0.0}), step), strict=True
        ):
            np.testing.assert_array_equal(one, other)


def test_random_erasing():
    images, labels = change_batch(dataclasses.replace(PLAIN, random_erasing=0.25), 0)
    changed = np.ptp(images, axis=(1, 2, 3)) > 0
    assert 4 <= changed.sum() <= 30
    np.testing.assert_array_equal(labels, np.eye(10)[np.arange(64) % 10])


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_changes_only_images(channels):
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, channels)).astype("float32")
    labels = np.eye(4, dtype="float32")
    changer = batch_changer(dataclasses.replace(PLAIN, rand_augment=0.5), 0, images.shape[1:])
    found = [changer(images, labels, step) for step in range(3)]
    assert all(to_numpy(each).shape == images.shape and np.ptp(to_numpy(each)) <= 255 for each, _ in found)
    assert not np.array_equal(to_numpy(found[0][0]), to_numpy(found[1][0]))
    assert all(np.array_equal(to_numpy(each), labels) for _, each in found)


def test_batches_are_changed_within_the_training_step():
    """Changing batches before the step gives the same weights."""
    recipe = dataclasses.replace(PLAIN, mixup=0.4)
    plain, changed = small_network(), small_network()
    changed.set_weights(plain.get_weights())
    changer = batch_changer(recipe, 0, (4, 4, 1))
    models = compiled(plain, PLAIN), compiled(changed, recipe)
    for step in range(3):
        models[0].train_on_batch(*map(to_numpy, changer(*batch(step), step)))
        models[1].train_on_batch(*batch(step))
    np.testing.assert_allclose(to_numpy(plain.layers[-1].kernel), to_numpy(changed.layers[-1].kernel), rtol=1e-5)


def make_data_set(classes):
    """A data set of a few images for the small network."""
    images = Arrays(np.zeros((6, 4, 4, 1), "uint8"), np.arange(6) % len(classes))
    return make_dataset("few", "", classes, images, images)


def test_distillation_loss():
    network, teacher = small_network(), small_network()
    recipe = dataclasses.replace(PLAIN, teacher_weight=0.25, temperature=2.0)
    model = compiled(network, recipe, teacher=teacher)
    images, labels = batch()
    images /= 255  # Otherwise, the teacher's probabilities would be 0 and 1.
    assert len(model.variables) == len(network.variables)

    def softened(probabilities):
        powers = np.sqrt(probabilities)
        return powers / powers.sum(-1, keepdims=True)

    said = to_numpy(network(images, training=True))
    asked, answered = softened(to_numpy(teacher(images, training=False))), softened(said)
    divergence = (asked * np.log(asked / answered)).sum(-1).mean() * 2.0**2
    expected = 0.75 * -np.log((labels * said).sum(-1)).mean() + 0.25 * divergence
    assert float(model.train_on_batch(images, labels)[0]) == pytest.approx(expected, rel=1e-4)
    # Evaluation does not use the teacher.
    alone = compiled(small_network(), PLAIN)
    alone.set_weights(model.get_weights())
    learn_from(alone, teacher, recipe)
    found, _ = alone.evaluate(images, labels, verbose=0)
    probabilities = to_numpy(alone(images, training=False))
    assert found == pytest.approx(-np.log((labels * probabilities).sum(-1)).mean(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "on_device",
    ["no", pytest.param("yes", marks=pytest.mark.skipif(keras.backend.backend() != "jax", reason="for JAX"))],
)
def test_run_with_a_teacher(on_device, tmp_path, monkeypatch):
    """If labels have weight 0, the student learns from a teacher that predicts the next class for every image."""
    monkeypatch.setattr(network_module, "create_model", create_plain)
    labels = np.arange(60) % CLASSES
    pixels = np.random.default_rng(0).integers(0, 50, (60, 8, 8, 1)) + 80 * labels[:, None, None, None]
    part = Arrays(pixels.astype("uint8"), labels)
    dataset = make_dataset("made", "", "abc", part, part)
    # The class with the center nearest to the mean pixel: the smallest (m - c)^2 = m^2 - 2 c m + c^2.
    centers = np.roll(25.0 + 80.0 * np.arange(CLASSES), 1)
    inputs = keras.Input((8, 8, 1))
    nearest = keras.layers.Dense(CLASSES, activation="softmax")
    teacher = keras.Model(inputs, nearest(keras.layers.GlobalAveragePooling2D()(inputs)))
    nearest.set_weights([centers[None] / 50, -(centers**2) / 100])
    files.save_model(teacher, tmp_path / "teacher.keras")
    recipe = Recipe(15, 0.05, 0.0, "cosine", batch_size=20, pad=0, teacher_weight=1.0, temperature=1.0)
    options = RunOptions(teacher=str(tmp_path / "teacher.keras"), epochs_on_device=on_device)
    run = fit("hscnet_m32_g4_r2_b1_a2", dataset, tmp_path / "run", recipe=recipe, run_options=options, verbose=0)
    assert run.epochs_on_device == on_device
    student = files.load_model(tmp_path / "run" / "last.keras")
    answers = to_numpy(student(pixels.astype("float32"), training=False)).argmax(-1)
    assert (answers == (labels + 1) % CLASSES).mean() > 0.9


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        ("abcd", None, r"`teacher` \(='.*'\) has 3 classes, but few has a, b, c, d \(4\)\."),
        ("abc", "acb", r"`teacher` \(='.*'\) has the classes a, c, b \(3\), but few has a, b, c \(3\)\."),
    ],
)
def test_teacher_with_other_classes(classes, labels, message, tmp_path):
    files.save_model(small_network(), tmp_path / "teacher.keras")
    if labels is not None:
        files.write_labels(tmp_path, labels)
    with pytest.raises(ValueError, match=message):
        open_teacher(str(tmp_path / "teacher.keras"), make_data_set(classes), PLAIN)


def test_other_bad_teachers(tmp_path):
    path, few = tmp_path / "teacher.keras", make_data_set("abc")
    files.save_model(small_network(), path)
    assert open_teacher(str(path), few, PLAIN)[0].output_shape == (None, 3)
    large = dataclasses.replace(few, shape=(8, 8, 1))
    with pytest.raises(
        ValueError, match=r"takes images of shape \(4, 4, 1\), but the images of few have shape \(8, 8, 1\)"
    ):
        open_teacher(str(path), large, PLAIN)
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "cut.keras", "w") as cut:
        for name in archive.namelist():
            cut.writestr(name, archive.read(name)[: 100 if name.endswith(".h5") else None])
    with pytest.raises(ValueError, match=r"cut\.keras cannot be loaded as a Keras model"):
        open_teacher(str(tmp_path / "cut.keras"), few, PLAIN)
    images = keras.Input((4, 4, 1))
    flat = keras.layers.Dense(3, bias_initializer="ones")(keras.layers.Flatten()(images))
    files.save_model(keras.Model(images, flat), tmp_path / "logits.keras")
    with pytest.raises(ValueError, match=r"must return class probabilities: it must end in a softmax"):
        open_teacher(str(tmp_path / "logits.keras"), few, PLAIN)
    files.save_model(keras.Model(images, [flat, flat]), tmp_path / "two.keras")
    with pytest.raises(ValueError, match=r"`teacher` \(='.*two\.keras'\) has 2 outputs, but few has a, b, c \(3\)"):
        open_teacher(str(tmp_path / "two.keras"), few, PLAIN)
