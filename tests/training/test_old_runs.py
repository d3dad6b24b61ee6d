"""Runs of earlier versions: their records lack fields whose defaults have changed."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from made_up_runs import DATA, fake_run
from tiny_network import MODEL, TINY

import keras_sharenets.training.run.fit
from keras_sharenets import files
from keras_sharenets.training.data.dataset import Arrays, make_dataset
from keras_sharenets.training.recipes.named import override, recipe_for
from keras_sharenets.training.run.fit import fit, resume, summarize
from keras_sharenets.training.run.record import run_from_dict

SQUARES = ((2, 4), (4, 4), (4, 8))


@pytest.fixture(scope="module")
def recipe():
    return override(recipe_for(MODEL, "digits"), epochs=2, batch_size=256, learning_rate=0.03)


@pytest.mark.parametrize(
    ("model", "shape", "crop_size", "given", "expected"),
    [
        ("igcv2_c64_d8", [64, 64, 3], 0, {}, {"stem_strides": 1}),
        ("igcv2_c64_d8", [None, None, 3], 64, {}, {"stem_strides": 1}),
        ("igcv2_c64_d8", [64, 64, 3], 0, {"stem_strides": 2}, {"stem_strides": 2}),
        ("igcv2_c64_d8", [32, 32, 3], 0, {}, {}),
        ("igcv2_c64_d8", [64, 64, 3], 32, {}, {}),
        (MODEL, [64, 64, 3], 0, {}, {}),
    ],
)
def test_old_records_of_igc_networks_keep_their_stem(model, shape, crop_size, given, expected):
    """Records without `start` are of networks whose stem has a stride of 1 even for large images."""
    recipe = override(recipe_for(MODEL, "digits"), crop="scale", crop_size=crop_size)
    run = fake_run(model, 0, 0.5, recipe, options=given, data={**DATA, "shape": shape}, state="running")
    record = json.loads(json.dumps(dataclasses.asdict(run)))
    assert run_from_dict(record).options == given
    del record["start"]
    assert run_from_dict(record).options == expected


def test_old_igc_run_resumes_with_its_stem(tmp_path, monkeypatch):
    """Checks the network that `resume` builds from an old record, without training."""
    images = np.zeros((2, 64, 64, 3), "uint8")
    data = make_dataset("large", "", ["a", "b"], *[Arrays(images, np.array([0, 1]))] * 2)
    run = fake_run("igcv2_c64_d8", 0, 0.5, data=summarize(data), state="running", backend=keras.backend.backend())
    run = dataclasses.replace(run, epochs=(), options={"width": 8, "blocks_per_stage": 2, "branch_channels": SQUARES})
    record = {name: value for name, value in dataclasses.asdict(run).items() if name != "start"}
    files.write_json(tmp_path / "metrics.json", record)
    stems = []
    monkeypatch.setattr(
        keras_sharenets.training.run.fit,
        "train_network",
        lambda devices, network, *more: stems.append(network.get_layer("stem").strides),
    )
    resume(tmp_path, data, verbose=0)
    assert stems == [(1, 1)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"arrangements": 2}, {"arrangements": 2}),
        ({"arrangements": 4}, {"arrangements": 4, "plane_orders": "shuffled"}),
        ({"arrangements": 4, "plane_orders": "distinct"}, {"arrangements": 4, "plane_orders": "distinct"}),
    ],
)
def test_old_records_of_shuffled_plane_orders(given, expected):
    run = fake_run(MODEL, 0, 0.5, options=given, state="running")
    assert run_from_dict(json.loads(json.dumps(dataclasses.asdict(run)))).options == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`arrangements`")
def test_old_runs_with_four_arrangements_keep_shuffled_orders(digits, recipe, tmp_path, monkeypatch):
    """Old records lack `plane_orders`; `fit` records it if it makes a difference."""
    options = {"width": (16,), "groups": 1, "channel_repeats": 1, "arrangements": 4}
    begun = []

    def begin(devices, network, make, run, *more):
        begun.append((run, [layer.plane_orders for layer in network.layers if getattr(layer, "arrangements", 1) > 2]))

    monkeypatch.setattr(keras_sharenets.training.run.fit, "train_network", begin)
    fit(MODEL, digits, tmp_path / "new", options=options, recipe=recipe, verbose=0)
    run, orders = begun.pop()
    assert run.options == {**options, "plane_orders": "distinct"}
    assert set(orders) == {"distinct"}
    run = dataclasses.replace(run, state="running")
    assert run_from_dict(json.loads(json.dumps(dataclasses.asdict(run)))).options == run.options
    old = dataclasses.asdict(dataclasses.replace(run, options=options))
    files.write_json(tmp_path / "old" / "metrics.json", old)
    resume(tmp_path / "old", digits, verbose=0)
    run, orders = begun.pop()
    assert run.options == {**options, "plane_orders": "shuffled"}
    assert set(orders) == {"shuffled"}
    fit(MODEL, digits, tmp_path / "two", options=TINY, recipe=recipe, verbose=0)
    assert begun.pop()[0].options == TINY
