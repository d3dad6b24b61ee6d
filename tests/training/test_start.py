"""Training that starts from a trained network, and settings that depend on the number of images."""

import dataclasses
import json
import re
import shutil

import keras
import numpy as np
import pytest
from tiny_network import MODEL, TINY

from keras_sharenets import files
from keras_sharenets.cli import LINE, main
from keras_sharenets.cli.arguments import chosen_recipe, given_fields
from keras_sharenets.cli.command import make_parser
from keras_sharenets.cli.fit import accuracy_before
from keras_sharenets.models import list_trained
from keras_sharenets.training.data.dataset import Arrays, make_dataset
from keras_sharenets.training.recipes.named import adapt, batch_size_for, find_recipe, override
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.command import fit_command_line
from keras_sharenets.training.run.fit import fit, resume
from keras_sharenets.training.run.network import build
from keras_sharenets.training.run.record import RunOptions, read_metrics
from keras_sharenets.training.run.start import find_start, freeze, keep_preprocessing, load_start_weights


def make_data(count=60, classes=("x", "y", "z"), side=8, channels=1):
    generator = np.random.default_rng(0)
    labels = np.arange(count) % len(classes)
    images = generator.integers(0, 120, (count, side, side, channels)) + 60 * labels[:, None, None, None]
    part = Arrays(images.clip(0, 255).astype("uint8"), labels)
    return make_dataset("made", "made up", classes, part, part)


@pytest.fixture(scope="module")
def before(digits, tmp_path_factory):
    """A file of a network with random weights, and a file of its class names."""
    folder = tmp_path_factory.mktemp("before")
    network = build(MODEL, digits, TINY)
    generator = np.random.default_rng(1)
    network.set_weights([generator.uniform(0.5, 1, weight.shape) for weight in network.get_weights()])
    files.save_model(network, folder / "net.keras")
    files.write_labels(folder, digits.class_names)
    return folder / "net.keras"


def test_weights_without_the_head_and_preprocessing_are_kept(before, digits):
    start = find_start(str(before), MODEL, TINY)
    mine = keep_preprocessing(make_data(), start)
    assert (mine.mean, mine.variance) == (digits.mean, digits.variance)
    network = build(MODEL, mine, TINY)
    head = network.get_layer("predictions").get_weights()
    assert load_start_weights(network, start, mine.class_names) == ("predictions",)
    for layer in network.layers:
        if layer.name == "predictions":
            assert all(map(np.array_equal, layer.get_weights(), head))
        else:
            assert all(map(np.array_equal, layer.get_weights(), start.network.get_layer(layer.name).get_weights()))
    images = mine.train.images[:4].astype("float32")
    ours, theirs = (
        keras.Model(model.input, model.get_layer("predictions").input)(images) for model in (network, start.network)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_head_is_kept_if_the_classes_are_equal(before, digits):
    start = find_start(str(before), MODEL, TINY)
    others = dataclasses.replace(digits, class_names=tuple("abcdefghij"))
    for dataset, expected in ((digits, ()), (others, ("predictions",))):
        network = build(MODEL, dataset, TINY)
        assert load_start_weights(network, start, dataset.class_names) == expected
    unknown = dataclasses.replace(start, class_names=None)
    assert load_start_weights(build(MODEL, digits, TINY), unknown, digits.class_names) == ("predictions",)


def test_accuracy_before_training_is_reported_if_the_head_is_kept(before, digits):
    start, recipe = find_start(str(before), MODEL, TINY), find_recipe("digits")
    few = digits.test.part(np.arange(30))
    guesses = np.argmax(start.network(few.images.astype("float32")), axis=1)
    told = f"accuracy before training: {sum(guesses == few.labels) / 30:.4f}"
    assert accuracy_before(start, dataclasses.replace(digits, test=few), recipe) == f"\ntest {told}"
    held = dataclasses.replace(digits, validation=few)
    assert accuracy_before(start, held, recipe) == f"\nvalidation {told}"
    for other in ({"class_names": digits.class_names[::-1]}, {"shape": (9, 9, 1)}):
        assert accuracy_before(start, dataclasses.replace(held, **other), recipe) == ""


def test_freeze_trains_only_new_layers(digits):
    network = build(MODEL, digits, TINY)
    freeze(network, {"new_layers": ["predictions"]})
    assert {variable.path.split("/")[0] for variable in network.trainable_variables} == {"predictions"}


def test_other_networks_and_damaged_files_are_rejected(before, tmp_path, digits):
    start = find_start(str(before), MODEL, TINY)
    with pytest.raises(ValueError, match="belong to another network, or to one with other options: for the layer"):
        load_start_weights(build(MODEL, digits, {**TINY, "width": (24,)}), start, digits.class_names)
    with pytest.raises(ValueError, match=r"takes images with 1 channels, but made has 3"):
        keep_preprocessing(make_data(channels=3), start)
    inputs = keras.Input((8, 8, 1))
    other = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)), name="mine")
    files.save_model(other, tmp_path / "other.keras")
    with pytest.raises(ValueError, match="does not name its network: also give `model`"):
        find_start(str(tmp_path / "other.keras"))
    (tmp_path / "torn.keras").write_bytes(before.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"torn\.keras is not a Keras file"):
        find_start(str(tmp_path / "torn.keras"), MODEL, TINY)
    with pytest.raises(ValueError, match=r"must be the folder of a run, a \.keras file, or one pretrained network"):
        find_start("hscnet_m128_g16_r8_a2")
    with pytest.raises(ValueError, match=r"cifar10.* or one pretrained network"):
        find_start("cifar10")
    with pytest.raises(ValueError, match="contains no run"):
        find_start(str(tmp_path))


def test_options_that_change_no_shape_must_be_those_of_the_start(tmp_path, digits):
    """The weights would fit, but the layers would read other values; dropout may differ."""
    options = {**TINY, "width": (24,)}
    files.save_model(build(MODEL, digits, {**options, "dropout_rate": 0.3}), tmp_path / "net.keras")
    start = find_start(str(tmp_path / "net.keras"), MODEL, options)
    with pytest.raises(ValueError, match=r"other options: `inputs` of layer .* in the file, and .* these arguments"):
        fit(MODEL, digits, tmp_path / "run", options={**options, "projection_input": "raw"}, start=start)
    assert not (tmp_path / "run").exists()


def test_pretrained_networks_are_found_by_name():
    each = next(each for each in list_trained() if each.model == "resnet_8")
    found = find_start("resnet_8")
    assert (found.model, tuple(found.class_names), found.shape) == (each.model, each.class_names, each.input_shape)
    assert find_start("sl3_resnet_64 width=40").options == {"width": 40}
    assert find_start("cifar10", "resnet_8").path == found.path


def test_bad_arguments_create_no_output(before, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--data", "digits", "--output", "run"]
    for more, message in (
        (["--from", str(before), "--model", "resnet_8"], "belong to another network"),
        (["--from", "resnet_8"], "takes images with 3 channels"),
        (["--from", "nothing"], "must be the folder of a run"),
        (["--model", "resnet_8", "--freeze"], "`--freeze` requires `--from`"),
        (["--model", "resnet_8", "--validation", "1.5"], "`validation` (='1.5')"),
    ):
        assert main([*words, *more]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True])
def test_run_resumes_without_its_start_file(before, tmp_path, frozen):
    shutil.copy(before, tmp_path / "net.keras")
    start = find_start(str(tmp_path / "net.keras"), MODEL, TINY)
    recipe = override(find_recipe("digits"), epochs=2, batch_size=20)
    options = RunOptions(deterministic=True, jit_compile=False)
    settings = {"recipe": recipe, "options": TINY, "run_options": options, "start": start, "frozen": frozen}
    run = fit(MODEL, make_data(), tmp_path / "run", **settings, verbose=0)
    old = start.network
    new = files.load_model(tmp_path / "run" / "last.keras")
    same = [
        all(map(np.array_equal, layer.get_weights(), old.get_layer(layer.name).get_weights()))
        for layer in new.layers
        if layer.weights and layer.name != "predictions"
    ]
    assert all(same) if frozen else not any(same)
    assert all(layer.trainable for layer in new.layers)
    assert run.start["new_layers"] == ["predictions"]
    assert ("--freeze" in fit_command_line(run)) == frozen
    (tmp_path / "net.keras").unlink()
    last = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    last.unlink()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(metrics | {"state": "running"}))
    again = resume(tmp_path / "run", make_data(), verbose=0)
    assert again.test_accuracy == run.test_accuracy
    ends = [files.load_model(tmp_path / "run" / "last.keras").get_weights(), new.get_weights()]
    assert all(map(np.array_equal, *ends))


def test_batch_size_depends_on_the_number_of_images():
    for images in (1, 7, 39, 432, 480, 1295, 2559, 2560, 50_000):
        size = batch_size_for(images, 128)
        assert size == 128 or images // size >= 20 or size == 8
        assert size in (8, 16, 32, 64, 128)
        assert size in (8, 128) or images // size >= 40
        assert size == 128 or images < 20 * 2 * size * 2


@pytest.mark.parametrize(
    ("images", "typed", "expected"),
    [
        (432, [], (8, "one_cycle", 0.05)),
        (432, ["--from", "resnet_8"], (16, "cosine", 0.01)),
        (432, ["--learning-rate", "0.2", "--schedule", "cosine"], (8, "cosine", 0.2)),
        (432, ["--batch-size", "16"], (16, "cosine", 0.1)),
        (432, ["--recipe", "default"], (8, "cosine", 0.05)),
        (432, ["--recipe", "fast"], (8, "one_cycle", 0.05)),
        (432, ["--recipe", "fast", "--from", "resnet_8"], (16, "one_cycle", 0.01)),
        (432, ["--recipe", "fast", "--learning-rate", "0.4"], (8, "one_cycle", 0.4)),
        (2560, [], (128, "cosine", 0.1)),
        (2560, ["--from", "resnet_8"], (128, "cosine", 0.01)),
        (2560, ["--recipe", "fast"], (128, "one_cycle", 0.4)),
        (2560, ["--recipe", "fast", "--from", "resnet_8"], (128, "one_cycle", 0.01)),
    ],
)
def test_recipe_is_adapted_to_few_images_unless_overridden(images, typed, expected):
    arguments = make_parser(LINE, ("fit",)).parse_args(["fit", *typed])
    recipe = adapt(
        chosen_recipe(arguments, "resnet_8", "images"),
        images,
        given=given_fields(arguments),
        named=arguments.recipe is not None,
        trained="--from" in typed,
    )
    assert (recipe.batch_size, recipe.schedule, recipe.learning_rate) == expected


@pytest.mark.parametrize(("images", "named", "epochs"), [(30, False, 334), (30, True, 100), (432, False, 100)])
def test_few_images_get_a_thousand_steps(images, named, epochs):
    """Three whole batches of 8 in each epoch of 30 images, 54 in one of 432."""
    recipe = Recipe(100, 0.1, 5e-4, "cosine")
    assert adapt(recipe, images, given=(), named=named, trained=False).epochs == epochs


@pytest.mark.slow
def test_command_reports_adapted_recipe(tmp_path, capsys):
    words = ["fit", "--model", MODEL, "--data", "digits", "--validation", "0.6", "--jit-compile", "false"]
    assert main([*words, "--epochs", "1", "--output", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert "575 training images: 71 steps of 8 per epoch (a random 7 are skipped), 1 epoch, " in told.err
    # Standard output contains the result only, without Keras' progress bar.
    assert re.search(
        r"^epoch 1 of 1: loss [\d.]+, accuracy [\d.]+, validation accuracy [\d.]+; [\d.]+ (s|min)$", told.err, re.M
    )
    assert told.out.startswith(f"{MODEL} on digits (")
    assert "step" not in told.out
    assert told.out.splitlines()[-1].startswith(f"report: sharenets report {tmp_path / 'run'}; ")
    assert read_metrics(tmp_path / "run" / "metrics.json").recipe.batch_size == 8
