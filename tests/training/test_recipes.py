import dataclasses
import math

import keras
import numpy as np
import pytest
from harness import slow_after
from tiny_network import create_plain

from keras_sharenets import files
from keras_sharenets.models import list_models
from keras_sharenets.search.training import train
from keras_sharenets.training.recipes.named import DEFAULTS, RECIPES, changed_fields, find_recipe, override, recipe_for
from keras_sharenets.training.recipes.optimization import (
    build_optimizer,
    build_schedule,
    decay_weights,
    limit_momentum,
    plateau_rate,
)
from keras_sharenets.training.recipes.recipe import OPTIONS, Recipe
from keras_sharenets.training.run import network
from keras_sharenets.training.run.fit import fit
from keras_sharenets.training.run.record import Epoch, RunOptions
from trainers.cli import main

MODEL = "hscnet_m32_g4_r2_b1_a2"
PLAIN = Recipe(epochs=10, learning_rate=0.1, weight_decay=0.0)


def rate(schedule, step):
    return float(keras.ops.convert_to_numpy(schedule(step)))


# Table of the paper: epochs, weight decay, and the learning rate from certain epochs on.
PAPER = {
    "cifar10": (200, 2e-4, {0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}),
    "cifar100": (200, 5e-4, {0: 0.1, 60: 0.02, 120: 0.004, 160: 0.0008}),
    "imagenet32": (40, 5e-4, {0: 0.01, 10: 0.002, 20: 0.0004, 30: 0.00008}),
    "cinic10": (200, 1e-4, {0: 0.1, 100: 0.01, 150: 0.001, 175: 0.0001}),
    "tiny_imagenet": (200, 1e-4, {0: 0.1, 100: 0.01, 150: 0.001, 175: 0.0001}),
}


@pytest.mark.parametrize("data", PAPER)
def test_recipes_of_the_hscnet_paper(data):
    epochs, weight_decay, rates = PAPER[data]
    recipe = recipe_for("hscnet_m128_g16_r8_a2", data)
    assert (recipe.epochs, recipe.weight_decay) == (epochs, weight_decay)
    assert (recipe.batch_size, recipe.momentum, recipe.nesterov) == (128, 0.9, True)
    schedule = build_schedule(recipe, steps_per_epoch=390)
    starts = [*rates, epochs]
    for (start, expected), end in zip(rates.items(), starts[1:], strict=True):
        assert rate(schedule, 390 * start) == pytest.approx(expected, rel=1e-5)
        assert rate(schedule, 390 * end - 1) == pytest.approx(expected, rel=1e-5)


def test_schedule_scales_with_the_number_of_epochs():
    recipe = override(recipe_for(MODEL, "cifar10"), epochs=10)
    schedule = build_schedule(recipe, steps_per_epoch=7)
    rates = [rate(schedule, 7 * epoch) for epoch in range(10)]
    assert rates == pytest.approx([0.1] * 3 + [0.02] * 3 + [0.004] * 2 + [0.0008] * 2, rel=1e-5)


def test_cosine_with_warmup():
    recipe = override(PLAIN, schedule="cosine", warmup_epochs=2)
    schedule = build_schedule(recipe, steps_per_epoch=5)
    warmup = [0.1 * (step + 1) / 10 for step in range(10)]
    cosine = [0.1 * (1 + math.cos(math.pi * step / 40)) / 2 for step in range(40)]
    assert [rate(schedule, step) for step in range(50)] == pytest.approx(warmup + cosine, abs=1e-7)


def test_warmup_does_not_shift_milestones():
    schedule = build_schedule(override(PLAIN, warmup_epochs=2, milestones=(0.5,)), steps_per_epoch=10)
    assert rate(schedule, 0) == pytest.approx(0.005)
    assert [rate(schedule, step) for step in (20, 49, 50, 99)] == pytest.approx([0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize("changes", [{}, {"milestones": (0.2, 0.8)}, {"schedule": "cosine", "warmup_epochs": 3}])
def test_optimizer_config_round_trip(changes):
    optimizer = build_optimizer(override(PLAIN, momentum=0.8, nesterov=False, **changes), steps_per_epoch=4)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert isinstance(again, keras.optimizers.SGD)
    assert (again.momentum, again.nesterov) == (0.8, False)
    for step in (0, 5, 11, 12, 31, 39):
        expected = rate(build_schedule(override(PLAIN, **changes), 4), step)
        again.iterations.assign(step)
        assert float(keras.ops.convert_to_numpy(again.learning_rate)) == pytest.approx(expected, rel=1e-6)


def test_recipe_for_other_data():
    digits = recipe_for(MODEL, "digits")
    assert (digits.flip, digits.pad) == (False, 1)
    assert recipe_for(MODEL, "holiday images").flip


def test_unknown_model():
    with pytest.raises(ValueError, match=r"`name` \(='hscnet_m32'\) is not a known model\. .*'hscnet_m32_g4_r2_b1_a2'"):
        recipe_for("hscnet_m32", "digits")


def test_unknown_field():
    with pytest.raises(ValueError, match=r"`weightdecay` is not a field of a recipe\. Did you mean 'weight_decay'"):
        override(PLAIN, weightdecay=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"`epochs` \(=0\) must be a positive integer"),
        ({"batch_size": 1.5}, r"`batch_size` \(=1\.5\) must be a positive integer"),
        ({"learning_rate": 0.0}, r"`learning_rate` \(=0\.0\) must be a number above 0"),
        ({"rise": 1.0}, r"`rise` \(=1.0\) must be above 0 and below 1"),
        ({"schedule": "linear"}, r"`schedule` \(='linear'\) must be one of 'step', 'cosine', 'one_cycle', 'plateau'"),
        ({"momentum": 1.0}, r"`momentum` \(=1\.0\) must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, r"`weight_decay` \(=-0\.1\) must be at least 0 and below 1"),
        ({"label_smoothing": 2}, r"`label_smoothing` \(=2\) must be at least 0 and below 1"),
        ({"decay_factor": 0}, r"`decay_factor` \(=0\) must be above 0 and at most 1"),
        ({"milestones": (0.5, 0.2)}, r"`milestones` \(=\(0\.5, 0\.2\)\) must be increasing fractions of all epochs"),
        ({"milestones": (60, 120)}, r"`milestones` \(=\(60, 120\)\) must be increasing fractions of all epochs"),
        ({"pad": -1}, r"`pad` \(=-1\) must be a non-negative integer\."),
        ({"patience": 0}, r"`patience` \(=0\) must be a positive integer"),
        ({"watch": "val"}, r"`watch` \(='val'\) must be one of 'train', 'test'"),
        ({"crop": "ten"}, r"`crop` \(='ten'\) must be one of 'shift', 'area', 'scale'"),
        ({"border": "black"}, r"`border` \(='black'\) must be one of 'mean', 'edge', 'reflect'"),
        ({"normalization": "pca"}, r"`normalization` \(='pca'\) must be one of 'channels', 'zca'"),
        ({"initialization": "he"}, r"`initialization` \(='he'\) must be one of 'network', 'he_fan_in', 'he_fan_out'"),
        ({"jitter": 1.0}, r"`jitter` \(=1\.0\) must be at least 0 and below 1"),
        ({"crop_size": -1}, r"`crop_size` \(=-1\) must be a non-negative integer\."),
        ({"crop_size": 56}, r"`crop_size` \(=56\) must be 0 for the crop 'shift'"),
        (
            {"crop_size": 56, "crop": "area", "normalization": "zca"},
            r"`crop_size` \(=56\) must be 0 for the normalization 'zca'",
        ),
        (
            {"warmup_epochs": 1, "schedule": "plateau"},
            r"`warmup_epochs` \(=1\) must be 0 for the schedule 'plateau'",
        ),
        (
            {"warmup_epochs": 10},
            r"`warmup_epochs` \(=10\) must be a non-negative integer and below `epochs` \(=10\)",
        ),
    ],
)
def test_bad_recipes(changes, message):
    with pytest.raises(ValueError, match=message):
        override(PLAIN, **changes)


# Weight decay; `test_trainers_on_jax` runs these tests on JAX too.


def recurrent_network():
    """A 1x1 convolution that is called three times, each call followed by a separate batch normalization."""
    inputs = x = keras.Input((4, 4, 3))
    convolution = keras.layers.Conv2D(3, 1, use_bias=False, name="shared")
    for _ in range(3):
        x = keras.layers.BatchNormalization()(convolution(x))
    return keras.Model(inputs, x)


def test_weight_decay_counts_a_shared_tensor_once():
    """With black images, all other gradients are 0: only the decay moves the weights, with Nesterov momentum."""
    model = recurrent_network()
    recipe = dataclasses.replace(PLAIN, weight_decay=0.05, learning_rate=0.3)
    decay_weights(model, recipe)
    model.compile(build_optimizer(recipe, steps_per_epoch=4), "mean_squared_error", run_eagerly=True)
    shared, scale = model.get_layer("shared").kernel, model.layers[2].gamma
    start = np.random.default_rng(0).normal(size=shared.shape)
    shared.assign(start)
    scale.assign([1.0, 2.0, -3.0])
    black = np.zeros((8, 4, 4, 3), "float32")
    history = model.fit(black, black, batch_size=2, shuffle=False, verbose=0)
    for variable, begin in ((shared, start), (scale, np.array([1.0, 2.0, -3.0]))):
        weights, velocity = begin.copy(), 0.0
        for _ in range(4):
            gradient = 0.05 * weights
            velocity = 0.9 * velocity - 0.3 * gradient
            weights = weights + 0.9 * velocity - 0.3 * gradient
        assert np.abs(weights - begin).max() > 0.05
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), weights, atol=1e-5)
    assert history.history["loss"][0] > 0


@pytest.mark.parametrize(
    ("before", "steps", "after"),
    [(0.99, 5_000, 0.99), (0.99, 1_000, 0.99), (0.99, 200, 0.95), (0.9, 200, 0.9), (0.99, 3, 0.5), (1.0, 100, 1.0)],
)
def test_momentum_of_statistics_is_limited_in_short_training(before, steps, after):
    inputs = keras.Input((2, 2, 3))
    nested = keras.Sequential([keras.layers.BatchNormalization(momentum=before)])
    model = keras.Model(inputs, nested(inputs))
    limit_momentum(model, steps)
    assert nested.layers[0].momentum == pytest.approx(after)


def test_short_training_forgets_initial_statistics(digits):
    """With pixels up to 255, the initial mean 0 and variance 1 are far from the statistics."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    normalization = keras.layers.BatchNormalization()
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(normalization(x)))
    model = keras.Model(inputs, keras.layers.Dense(10, "softmax")(x))
    recipe = override(PLAIN, epochs=2, batch_size=64, learning_rate=0.01, pad=0, flip=False)
    train(model, digits, recipe=recipe, seed=0, last_epoch=2)
    flows = np.asarray(keras.Model(inputs, normalization.input)(digits.train.pixels(range(500)).astype("float32")))
    np.testing.assert_allclose(normalization.moving_variance, flows.var((0, 1, 2)), rtol=0.2)


@pytest.mark.parametrize("plain", slow_after(1, [True, False]))
def test_short_run_limits_momentum_of_statistics(plain, digits, tmp_path, eager, monkeypatch):
    if plain:
        monkeypatch.setattr(network, "create_model", create_plain)
    recipe = override(find_recipe("default"), epochs=2, batch_size=128)
    run_options = RunOptions(jit_compile=False)
    fit(
        "resnet_8",
        digits,
        tmp_path / "run",
        recipe=recipe,
        options={"width": (4, 4, 4)},
        run_options=run_options,
        verbose=0,
    )
    layers = files.load_model(tmp_path / "run" / "last.keras").layers
    momentums = {layer.momentum for layer in layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert list(momentums) == [pytest.approx(1 - 10 / (2 * 11))]  # 1,438 images are 11 batches.


def test_weight_decay_in_the_loss():
    model = recurrent_network()
    decay_weights(model, override(PLAIN, weight_decay=0.05))
    model.compile("sgd", "mean_squared_error")
    black = np.zeros((2, 4, 4, 3), "float32")
    kernel = keras.ops.convert_to_numpy(model.get_layer("shared").kernel)
    # The three normalizations have 3 scales of 1 and 3 offsets of 0 each.
    expected = 0.05 / 2 * (np.square(kernel).sum() + 3 * 3)
    assert model.evaluate(black, black, verbose=0) == pytest.approx(expected, rel=1e-5)
    decay_weights(model, PLAIN)
    assert model.losses == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # From the training sections of the papers.
        ("hgcnet_42_g4", (300, 0.1, 1e-4, "cosine", (), 128)),
        ("igcv2_c64_d8", (400, 0.1, 1e-4, "step", (200, 300, 350), 64)),
        ("sharesnet_164", (200, 0.1, 5e-4, "step", (60, 120, 160), 128)),
    ],
)
def test_recipes_of_the_other_papers(name, expected):
    for data in ("cifar10", "cifar100"):
        recipe = recipe_for(name, data)
        milestones = tuple(round(fraction * recipe.epochs) for fraction in recipe.milestones)
        assert (
            recipe.epochs,
            recipe.learning_rate,
            recipe.weight_decay,
            recipe.schedule,
            milestones,
            recipe.batch_size,
        ) == expected


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        ("sl3_vggnet_256", "cifar10", (200, 0.05, 0.5, 10, 0, 128)),
        ("sl7_resnet_256", "cifar100", (200, 0.05, 0.5, 10, 0, 128)),
        ("sl_vggnet_256", "tiny_imagenet", (100, 0.01, 0.1, 5, 56, 128)),
        ("sl_resnet_34_256", "tiny_imagenet", (100, 0.05, 0.1, 5, 56, 128)),
        ("sl_resnet_50_512", "imagenet", (100, 0.1, 0.1, 5, 224, 256)),
    ],
)
def test_recipes_of_the_shardnet_paper(model, data, expected):
    recipe = recipe_for(model, data)
    figures = (recipe.epochs, recipe.learning_rate, recipe.decay_factor, recipe.patience, recipe.crop_size)
    assert (*figures, recipe.batch_size) == expected
    assert (recipe.schedule, recipe.momentum, recipe.nesterov, recipe.weight_decay) == ("plateau", 0.9, False, 5e-4)
    assert recipe.crop == ("shift" if "cifar" in data else "area")


def test_other_fields_of_paper_recipes():
    tiny = recipe_for("igcv2_c64_d8", "tiny_imagenet")
    assert (tiny.epochs, tiny.crop, tiny.crop_size, tiny.batch_size) == (200, "scale", 64, 64)
    assert [part * tiny.epochs for part in tiny.milestones] == [100, 150, 175]
    for name in ("sharesnet_164", "sha_wrn_28_10"):
        recipe = recipe_for(name, "cifar100")
        assert (recipe.border, recipe.initialization, recipe.normalization) == ("reflect", "he_fan_out", "channels")
        assert recipe.dropout == (0.3 if name == "sha_wrn_28_10" else 0.0)
    whitened = find_recipe("sharesnet-cifar10-zca")
    changed = {**dataclasses.asdict(whitened), "normalization": "channels", "name": "", "source": ""}
    assert changed == {**dataclasses.asdict(find_recipe("sharesnet-cifar10")), "name": "", "source": ""}
    imagenet = recipe_for("sharesnet_34", "imagenet")
    assert [part * imagenet.epochs for part in imagenet.milestones] == [30, 60]
    assert (imagenet.jitter, imagenet.lighting, imagenet.crop_size, imagenet.batch_size) == (0.4, 0.1, 224, 256)
    assert recipe_for("mobilenet_v2_1_0", "cifar10").epochs == 400


def test_names_and_defaults_of_recipes():
    assert [name for name, recipe in RECIPES.items() if recipe.name != name or not recipe.source] == []
    assert {name for _, name in DEFAULTS} <= set(RECIPES)
    data = ("digits", "cifar10", "cifar100", "cinic10", "imagenet32", "imagenet", "tiny_imagenet", "flowers")
    reached = {recipe_for(model, name).name for model in list_models() for name in data}
    # The others must be selected by name.
    by_name = {"fast", "one-cycle-60", "strong", "sharesnet-cifar10-zca", "sharesnet-cifar100-wide-zca"}
    assert set(RECIPES) - reached == by_name


def test_recipe_by_name():
    fast = find_recipe("fast")
    assert changed_fields(fast) == ()
    assert changed_fields(override(fast, pad=2, epochs=2)) == ("epochs", "pad")
    assert override(fast, epochs=2).name == "fast"
    assert changed_fields(PLAIN) == ()
    with pytest.raises(ValueError, match=r"`recipe` \(='hscnet-cifar'\) is not a known recipe\. .*'hscnet-cifar10'"):
        find_recipe("hscnet-cifar")


def test_recipes_are_listed(capsys):
    assert main(["recipes"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["name", "epochs"]
    assert [row.split()[0] for row in rows] == list(RECIPES)
    row = next(row for row in rows if row.startswith("shardnet-tiny-imagenet-vgg "))
    for part in ("100", "0.01", "x0.1 after plateau of 5", "0.0005", "area 56, flip", "section A.4"):
        assert part in row
    assert main(["recipes", "hgcnet-cifar10"]) == 0
    text = capsys.readouterr().out
    assert "hgcnet-cifar10: HGC, section 5" in text
    fields = {line.split()[0]: line.split()[1] for line in text.splitlines()[2:]}
    assert list(fields) == [field.name for field in OPTIONS]
    assert (fields["epochs"], fields["schedule"], fields["weight_decay"]) == ("300", "cosine", "0.0001")
    assert main(["recipes", "hgcnet"]) == 2
    assert "error: `recipe` (='hgcnet') is not a known recipe." in capsys.readouterr().err


# Schedules not used by the papers


@pytest.mark.parametrize(("given", "steps"), [({}, 6), ({"rise": 0.15}, 3)])
def test_one_cycle(given, steps):
    schedule = build_schedule(override(PLAIN, schedule="one_cycle", **given), steps_per_epoch=2)
    rise = [0.1 * (step + 1) / steps for step in range(steps)]
    fall = [0.1 * (1 + math.cos(math.pi * step / (20 - steps))) / 2 for step in range(20 - steps)]
    assert [rate(schedule, step) for step in range(20)] == pytest.approx(rise + fall, abs=1e-7)


@pytest.mark.parametrize("steps", [1, 2])
def test_one_cycle_of_a_step_or_two(steps):
    """Nearly all steps rise, but the last one is left for the decay, which starts at the peak."""
    schedule = build_schedule(override(PLAIN, epochs=1, schedule="one_cycle", rise=0.9), steps_per_epoch=steps)
    assert [rate(schedule, step) for step in range(steps)] == pytest.approx([0.1] * steps)


def epochs(accuracies, tests):
    pairs = enumerate(zip(accuracies, tests, strict=True), 1)
    return [Epoch(number, 1.0, accuracy, 1.0, test, 0.1, 1.0) for number, (accuracy, test) in pairs]


def test_plateau_schedule():
    recipe = override(PLAIN, schedule="plateau", patience=2, decay_factor=0.5)
    # The rate is halved after every two consecutive epochs without improvement.
    accuracies = [0.2, 0.3, 0.3, 0.1, 0.4, 0.4, 0.39, 0.4, 0.1, 0.9]
    expected = [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025, 0.025, 0.0125, 0.0125]
    record = epochs(accuracies, [0.5] * 10)
    assert [plateau_rate(recipe, record[:count]) for count in range(11)] == pytest.approx(expected)
    # On the test split, only the first epoch is an improvement; missing values do not count.
    watching = override(recipe, watch="test")
    assert plateau_rate(watching, record) == pytest.approx(0.1 * 0.5**4)
    assert plateau_rate(watching, epochs([0.5] * 3, [None, 0.1, None])) == pytest.approx(0.1)
