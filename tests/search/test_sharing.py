import contextlib
import itertools
import json
import re
import warnings

import keras
import keras_tuner
import numpy as np
import pytest

import keras_sharenets as ksn
from keras_sharenets import cli as sharenets
from keras_sharenets import files
from keras_sharenets.layers import HighlySharedConv2D
from keras_sharenets.search import settings, training, trials
from keras_sharenets.search.budgets import Budget
from keras_sharenets.search.report import full_training
from keras_sharenets.search.sharing import SHARES, SharingHyperModel, open_sharing, sharing_choices
from keras_sharenets.search.training import train
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import recipe_for
from keras_sharenets.training.reports.evaluate import evaluate
from keras_sharenets.training.run.start import NetworkLocation


def network(count=3, pooled=None):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6, 6, 8))
    for number in range(count):
        x = x if number != pooled else keras.layers.MaxPooling2D()(x)
        x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = keras.layers.BatchNormalization()(x)
    return keras.Model(inputs, x)


def test_choices_give_networks_within_the_budget():
    model = network()
    before = [weight.copy() for weight in model.get_weights()]
    stored = ksn.profile(model).stored_parameters
    hypermodel, free = SharingHyperModel(model, budget=Budget(max_parameters=stored // 2)), SharingHyperModel(model)
    # Without a limit, the default does not share.
    assert free.shared(keras_tuner.HyperParameters()).parameters == stored
    random, sizes = np.random.default_rng(0), set()
    hp = keras_tuner.HyperParameters()
    hypermodel.shared(hp)
    assert {each.name for each in hp.space} >= {"conv0", "conv1", "conv2"}
    for _ in range(6):
        for each in hp.space:
            hp.values[each.name] = str(random.choice(each.values))
        shared = hypermodel.shared(hp)
        assert ksn.profile(shared.model).stored_parameters == shared.parameters <= stored // 2
        sizes.add(shared.parameters)
    assert len(sizes) > 1
    point = hypermodel.point(hp)
    name, arguments, counts = hypermodel.describe(hp)
    assert (name, arguments) == (model.name, point)
    made = ksn.profile(hypermodel.network(point))
    assert (counts.stored_parameters, counts.multiply_adds) == (made.stored_parameters, made.multiply_adds)
    assert made.stored_parameters == hypermodel.shared(hp).parameters
    hp.values["conv1"] = next(value for each in hp.space if each.name == "conv1" for value in each.values[1:])
    hp.values["conv0"] = hp.values["conv2"] = "none"
    (row,) = free.shared(hp).layers
    assert (row.path, row.becomes) == ("conv1", hp.values["conv1"])
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


def test_choices_give_files_within_the_limit():
    """With a file of 300 bytes plus one for each parameter: no network is larger than the limit."""
    model, built = network(), []

    def file_bytes(point, build):
        built.append(point)
        return 300 + ksn.profile(build()).stored_parameters

    free = SharingHyperModel(model)
    limit = 300 + ksn.profile(model).stored_parameters // 2
    hypermodel, hp, random = free.limited(limit, file_bytes), keras_tuner.HyperParameters(), np.random.default_rng(0)
    # The default does not share, and is too large.
    points = [hypermodel.point(hp)]
    assert len(built) == 2
    for _ in range(4):
        hp.values = {each.name: str(random.choice(each.values)) for each in hp.space}
        points.append(hypermodel.point(hp))
    assert all(ksn.profile(free.network(point)).stored_parameters <= limit - 300 for point in points)
    assert len({str(point) for point in points}) > 1
    with pytest.raises(ValueError, match=r"`max_tflite_bytes` \(=310\) must be at least \d+: sharing reduces the int8"):
        free.limited(310, file_bytes).point(hp)


def test_sharing_in_a_stage_and_in_the_network_are_different_choices():
    hypermodel = SharingHyperModel(network(count=4, pooled=2))
    hp = keras_tuner.HyperParameters()
    hypermodel.point(hp)
    (choices,) = (each.values for each in hp.space if each.name == "conv0")
    counts = set()
    for value in choices:
        hp.values["conv0"] = value
        counts.add(ksn.profile(hypermodel.network(hypermodel.point(hp))).stored_parameters)
    # Kernels of 576 weights, blending layers of 64, and four normalizations.
    assert {576 + 2 * 64 + 2 * 576 + 4 * 16, 576 + 4 * 64 + 4 * 16} <= counts


def test_bad_budgets():
    with pytest.raises(ValueError, match=r"must allow [\d,]+ parameters"):
        SharingHyperModel(network(), budget=Budget(max_parameters=10))
    with pytest.raises(ValueError, match="must have no `max_multiply_adds`"):
        SharingHyperModel(network(), budget=Budget(max_multiply_adds=10))


def test_images_of_any_size_are_refused(tmp_path):
    inputs = keras.Input((None, None, 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    keras.Model(inputs, keras.layers.Dense(10, "softmax")(x)).save(tmp_path / "any.keras")
    place = NetworkLocation("any.keras", tmp_path / "any.keras", None, {}, None)
    with pytest.raises(ValueError, match=r"`from` \(=any.keras\) must take images of one size, and takes \("):
        open_sharing(place, load("digits"), recipe_for("resnet_8", "digits"), budget=Budget())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of the arguments --space --from is required"),
        (["--space", "shardnet", "--from", "net.keras"], "not allowed with argument --space"),
        (["--space", "shardnet", "--images", "8"], "`--images` requires `--from`"),
        (["--space", "shardnet", "--where", "conv*"], "`--where` requires `--from`"),
        (["--from", "net.keras", "--max-multiply-adds", "9"], "`--max-multiply-adds` requires `--space`"),
        (["--from", "net.keras", "--images", "0"], "`--images` (=0) must be a positive integer"),
    ],
)
def test_incompatible_options(arguments, said, capsys):
    with contextlib.suppress(SystemExit):
        assert sharenets.main(["search", *arguments, "--data", "digits", "--trials", "2", "--output", "x"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_interrupted_command_resumes(tmp_path, monkeypatch, capsys, eager):
    dataset = load("digits")
    x = inputs = keras.Input(dataset.shape)
    for number in range(3):
        x = keras.layers.Conv2D(8, 3, padding="same", name=f"conv{number}")(x)
    x = keras.layers.Dense(10, "softmax")(keras.layers.GlobalAveragePooling2D()(x))
    files.save_model(keras.Model(inputs, x, name="mine"), tmp_path / "mine.keras")
    folder = tmp_path / "run"
    command = ["search", "--from", str(tmp_path / "mine.keras"), "--data", "digits", "--max-parameters", "1100"]
    command += ["--trials", "3", "--epochs", "1", "--batch-size", "512", "--images", "8", "--output", str(folder)]

    def stop_at_the_second(network, dataset, **options):
        if (folder / "0" / "trial.json").exists():
            raise KeyboardInterrupt
        return train(network, dataset, **options)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train", stop_at_the_second)
        assert sharenets.main(command) == 130
    first = folder / "0" / "trial.json"
    before = first.stat().st_mtime_ns
    assert sharenets.main(command) == 0
    assert first.stat().st_mtime_ns == before
    results = trials.read_all(folder)
    assert len({str(result.choices) for result in results}) == len(results) == 3
    for result in results:
        model = files.load_model(folder / result.id / "network.keras")
        assert ksn.profile(model).stored_parameters == result.parameters <= 1100
        assert set(result.choices) == {"conv1", "conv2"}
    assert sharenets.main([*command, "--where", "conv1"]) == 2
    assert "`sharing` (=" in capsys.readouterr().err
    assert full_training(results[0], folder, settings.read(folder)) is None
    check_report(folder, tmp_path / "mine.keras", capsys)


def check_report(folder, path, capsys):
    """The report compares the trials and their sharing with the original network."""
    capsys.readouterr()
    assert sharenets.main(["report", str(folder)]) == 0
    (original,) = json.loads((folder / "report.json").read_text())["references"]
    assert original["name"] == "original"
    assert original["accuracy"] == evaluate(path, load("digits")).accuracy
    assert original["int8_bytes"] == (folder / "references" / "original" / "int8.tflite").stat().st_size
    networks = [line.split("|")[-2] for line in capsys.readouterr().out.splitlines() if re.match(r"\| \d \| ", line)]
    assert len(networks) == 3
    assert all("conv" in network and "none" not in network for network in networks)


def offered_choices(filters, **arguments):
    """All results of `sharing_choices`: every combination of simultaneously active values."""
    found, open_ones = set(), [{}]
    while open_ones:
        hp = keras_tuner.HyperParameters()
        hp.values = dict(open_ones.pop())
        given = set(hp.values)
        chosen = sharing_choices(hp, filters, **arguments)
        free = [each for each in hp.space if hp.is_active(each) and each.name not in given]
        if free:
            kept = {name: hp.values[name] for name in given}
            open_ones += [{**kept, free[0].name: value} for value in free[0].values]
        else:
            found.add((chosen["groups"], chosen["channel_repeats"], chosen["arrangements"]))
    return found


@pytest.mark.parametrize(
    ("channels", "filters", "arrangements"), [(32, 32, (1, 2)), (24, 40, (1, 2, 3, 4)), (8, 16, (2,)), (3, 16, (1, 2))]
)
def test_choices_are_all_valid_arguments_of_the_layer(channels, filters, arrangements):
    """Arguments for which the layer raises an error or warns are not offered."""

    def builds(groups, channel_repeats, arrangements):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                HighlySharedConv2D(
                    filters, 1, groups=groups, channel_repeats=channel_repeats, arrangements=arrangements
                ).build((None, 4, 4, channels))
            except (ValueError, UserWarning):
                return False
        return True

    right = {point for point in itertools.product(SHARES, SHARES, arrangements) if builds(*point)}
    assert offered_choices(filters, channels=channels, arrangements=arrangements) == right


def test_bad_choices_of_a_layer():
    hp = keras_tuner.HyperParameters()
    with pytest.raises(ValueError, match=r"`groups` \(=\(5,\)\).* must contain values that suit `channels` \(=16\)"):
        sharing_choices(hp, 16, groups=(5,))
    with pytest.raises(ValueError, match=r"`filters` \(=0\) must be a positive integer"):
        sharing_choices(hp, 0)


@pytest.mark.slow
@pytest.mark.parametrize("tuner", ["RandomSearch", "BayesianOptimization", "GridSearch", "Hyperband"])
def test_keras_tuner_search_over_layer_choices(tuner, tmp_path, eager):
    def build(hp):
        width = hp.Choice("width", [8, 24])
        inputs = keras.Input((4, 4, 1))
        x = keras.layers.Conv2D(width, 1)(inputs)
        for _ in range(2):
            x = HighlySharedConv2D(width, 3, **sharing_choices(hp, width))(x)
        model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)[:, :3])
        model.compile("sgd", "mse")
        return model

    more = {"max_epochs": 3, "factor": 2} if tuner == "Hyperband" else {"max_trials": 16}
    tuner = getattr(keras_tuner, tuner)(build, objective="val_loss", seed=0, directory=tmp_path, **more)
    images = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype("float32")
    tuner.search(images, np.zeros((8, 3)), validation_split=0.5, verbose=0)
    trials = list(tuner.oracle.trials.values())
    assert {trial.status for trial in trials} == {"COMPLETED"}
    assert len({str(trial.hyperparameters.values) for trial in trials}) > 3
