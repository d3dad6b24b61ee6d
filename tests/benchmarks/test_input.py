import json

import keras
import numpy as np
import pytest

from benchmarks import input as input_speed
from benchmarks.cli import main
from keras_sharenets.training.data.batches import Batches
from keras_sharenets.training.data.dataset import Arrays

SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The output of `input --quick` with a network of one layer."""

    def build(name, *, input_shape, num_classes):
        inputs = keras.Input(input_shape)
        outputs = keras.layers.Dense(num_classes, activation="softmax")(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, outputs, name=name)

    folder = tmp_path_factory.mktemp("input")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_speed.peers, "build", build)
        assert main(["input", "--quick", "--repetitions", "1", "--output", str(folder)]) == 0
    return folder


@pytest.mark.slow
def test_quick_table_with_named_networks(tmp_path):
    assert main(["input", "--quick", "--repetitions", "1", "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "input.json").read_text())["rows"]


@pytest.mark.slow
def test_quick_table(quick):
    contents = json.loads((quick / "input.json").read_text())
    panels = {}
    for row in contents["rows"]:
        panels.setdefault(row["panel"], []).append(row)
    ways = [f"{change}{threads}" for change in ("", "augmented, ") for threads in ("1 thread", "2 threads")]
    files = ("memory", "JPEG files", "PNG files")
    expected = {
        "8x8x1, alone": [f"memory, {way}" for way in ways],
        "8x8x1, fit": ["memory, augmented"],
        "32x32x3, alone": [f"{source}, {way}" for source in files for way in ways],
        "32x32x3, fit": [f"{source}, augmented" for source in files],
    }
    assert {panel: [row["what"] for row in rows if not row["peer"]] for panel, rows in panels.items()} == expected
    for rows in panels.values():
        (peer,) = (row for row in rows if row["peer"])
        assert peer["ratio"] == 1
        assert "igcv2_c64_d8" in peer["what"]
    for row in contents["rows"]:
        assert row["speed"] * row["milliseconds"] == pytest.approx(1000 * 16)
    assert len(contents["claims"]) == sum(map(len, expected.values()))
    assert (quick / "input.md").read_text().count("\n## ") == 5
    assert (quick / "input.png").stat().st_size > 1000


def test_claims():
    rows = [{"panel": "a", "what": "files", "peer": False, "ratio": 0.9}]
    waits = [{"panel": "b", "what": "files", "peer": False, "ratio": 1.6}]
    peer = {"panel": "a", "what": "network", "peer": True, "ratio": 1.0}
    made = input_speed.claims([peer, *rows], [peer, *waits])
    assert [(claim.where, claim.value, claim.limit, claim.holds) for claim in made] == [
        ("a: files", 0.9, 1, True),
        ("b: files", 1.6, input_speed.WAIT, False),
    ]


def test_sources_contain_the_same_images(tmp_path):
    sources = input_speed.make_sources(SHAPE, 6, tmp_path)
    assert list(sources) == ["memory", "JPEG files", "PNG files"]
    indices = np.array([4, 1])
    pixels = {name: source.pixels(indices).astype(int) for name, source in sources.items()}
    np.testing.assert_array_equal(pixels["PNG files"], pixels["memory"])
    assert 0 < np.abs(pixels["JPEG files"] - pixels["memory"]).mean() < 30


def test_fetched_batches_match_training_batches(tmp_path):
    source = input_speed.make_sources(SHAPE, 6, tmp_path)["PNG files"]
    plain, augmented = (input_speed.make_batches(SHAPE, source, 3, augmented=change) for change in (False, True))
    for batches, same in ((plain, True), (augmented, False)):
        for threads in input_speed.THREADS:
            fetched = input_speed.fetch(batches, threads)
            assert len(fetched) == input_speed.FETCHED
            for index, (images, labels) in enumerate(fetched):
                np.testing.assert_array_equal(images, batches[index][0])
                assert labels.shape == (3, input_speed.CLASSES)
                # Augmented images are shuffled and padded.
                assert np.array_equal(images, source.pixels(np.arange(3 * index, 3 * index + 3))) is same
    ready = input_speed.Ready(augmented)
    assert len(ready) == len(augmented) == 2
    np.testing.assert_array_equal(ready[1][0], augmented[0][0])


def test_worker_arguments_do_not_set_keras_threads():
    images, labels = np.zeros((6, 2, 2, 1), "uint8"), np.zeros(6, int)
    batches = Batches(Arrays(images, labels), class_count=2, batch_size=4, worker=1, workers=2)
    assert batches.workers == 1
    assert len(batches[0][0]) == 2


def test_times_are_per_batch(monkeypatch, tmp_path):
    """A call fetches `FETCHED` batches, trains one step, or fits `STEPS` steps."""
    monkeypatch.setattr(input_speed, "take_turns", lambda calls, *_, **__: {key: [6.0, 6.0] for key in calls})
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(inputs)))
    sources = {"memory": input_speed.make_sources(SHAPE, 6, tmp_path)["memory"]}
    rows = input_speed.measure_input(SHAPE, sources, {"a": model}, batch_size=3, repetitions=2)
    assert {(row["milliseconds"], row["ratio"], row["peer"]) for row in rows} == {
        (6000 / input_speed.FETCHED, 1 / input_speed.FETCHED, False),
        (6000.0, 1.0, True),
    }
    waits = input_speed.measure_fit(SHAPE, sources, {"a": model}, batch_size=3, repetitions=2)
    assert {(row["milliseconds"], row["ratio"]) for row in waits} == {(6000 / input_speed.STEPS, 1.0)}
