"""Published records, files, cards, docs/results.md, and the weights in the package agree."""

import io
import json
import operator
import pathlib

import numpy as np
import PIL.Image
import pytest
from harness import without_weights
from made_up_runs import DATA, fake_run

from keras_sharenets import files
from keras_sharenets.analysis.counting import count_parameters
from keras_sharenets.cli.results import BEGIN, END, draw, draw_times, to_markdown
from keras_sharenets.models.counts import find_counts
from keras_sharenets.models.registry import create_model
from keras_sharenets.models.weights import FOLDER as WEIGHTS
from keras_sharenets.models.weights import list_trained
from keras_sharenets.training.recipes.named import find_recipe, override
from keras_sharenets.training.reports import results
from keras_sharenets.training.reports.card import CARD, model_card
from keras_sharenets.training.reports.evaluate import evaluate
from keras_sharenets.training.reports.results import Published, make_rows, read_published, read_times
from keras_sharenets.training.run.record import read_metrics
from tools.pack_keras import pack
from trainers.cli import main

ROOT = pathlib.Path(__file__).parents[2]
PUBLISHED = sorted((ROOT / "saved_models").glob("*_seed*"))
NAME = operator.attrgetter("name")


@pytest.fixture(scope="module", autouse=True)
def counted_once():
    """Counts the network of runs that differ in seed or recipe once, and builds it without weights."""
    known, counts_of_run = {}, results.counts_of_run

    def counted_once(run):
        network = json.dumps([run.model, run.options, run.data["shape"], run.data["class_names"], run.recipe.crop_size])
        if network not in known:
            with without_weights():
                known[network] = counts_of_run(run)
        return known[network]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "counts_of_run", counted_once)
        yield


def test_results_page_matches_published_runs():
    section = (ROOT / "docs" / "results.md").read_text().split(BEGIN)[1].split(END)[0]
    if not PUBLISHED:
        assert section.strip() == "No run of a paper's network is published yet."
        return
    rows, times = make_rows(map(read_published, PUBLISHED)), read_times(ROOT / "saved_models" / "times.json")
    command = (
        "sharenets results saved_models/*_seed* --benchmark saved_models/times.json --update docs/results.md --cards"
    )
    assert section == f"\n{to_markdown(rows, ROOT / 'docs', times)}", f"run `{command}`"
    for name, drawn in (("results.png", draw(rows)), ("results_ms.png", draw_times(rows, times))):
        image, again = PIL.Image.open(ROOT / "saved_models" / name), PIL.Image.open(io.BytesIO(drawn))
        if image.info["Software"] == again.info["Software"]:  # Other versions of Matplotlib draw slightly differently.
            np.testing.assert_array_equal(np.asarray(image), np.asarray(again))


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_compare_supports_every_saved_record(every, tmp_path, capsys):
    """By default, one of each network.

    Including the oldest record, which has fewer fields, and records without a network file.
    """
    places = sorted(path.parent for path in (ROOT / "saved_models").rglob("metrics.json"))
    runs = {place.name: read_metrics(place / "metrics.json") for place in places}
    assert "hscnet_m32_g4_r2_b1_a2_cifar10" in runs
    assert all(run.state == "finished" for run in runs.values())
    # One seed of each, since their networks are built to be counted.
    chosen = [place for place in places if runs[place.name].seed == 0]
    if not every:
        first = {runs[place.name].model: place for place in reversed(chosen)}
        assert ROOT / "saved_models" / "hscnet_m32_g4_r2_b1_a2_cifar10" in first.values()
        chosen = list(first.values())
    assert main(["compare", *map(str, chosen), "--output", str(tmp_path / "compared")]) == 0
    entries = json.loads((tmp_path / "compared" / "compare.json").read_text())["runs"]
    assert [entry["test_accuracy"] for entry in entries] == [runs[place.name].test_accuracy for place in chosen]
    for entry, place in zip(entries, chosen, strict=True):
        assert entry["parameters"] > 0
        # Published networks are loaded below.
        if (place / "last.keras").is_file() and place not in PUBLISHED:
            assert entry["parameters"] == count_parameters(files.load_model(place / "last.keras"))


# Loading a deep network takes seconds.
@pytest.mark.parametrize(
    "place",
    [pytest.param(place, marks=[] if "vggnet" in place.name else pytest.mark.slow) for place in PUBLISHED],
    ids=NAME,
)
def test_published_files_match_the_record(place):
    published = read_published(place)
    if published.int8:
        int8 = place / "export" / published.int8["path"]
        assert int8.stat().st_size == published.int8["bytes"]
        (row,) = make_rows([published])
        assert count_parameters(files.load_model(place / "last.keras")) == row.counts.stored_parameters


@pytest.mark.parametrize("place", [place for place in PUBLISHED if (place / CARD).is_file()], ids=NAME)
def test_cards_match_records(place):
    card = model_card(read_published(place), results.counts_of_run(read_metrics(place / "metrics.json")))
    assert (place / CARD).read_text() == card, "run `sharenets results saved_models/*_seed* --cards`"


def test_card_of_crops_from_a_folder(tmp_path):
    data = {**DATA, "name": "dogs: all", "train": 9, "shape": [None, None, 3], "mean": [1.0], "variance": [1.0]}
    run = fake_run("resnet_8", 0, 0.5, override(find_recipe("fast"), crop="area", crop_size=64), data=data)
    card = model_card(Published(tmp_path, run, 0.5, None), find_counts("resnet_8", {}, (32, 32, 3), 10))
    assert '\ndatasets:\n- "dogs: all"\nmetrics:\n' in card
    assert ", of varying size, 10 classes" in card
    assert "Its input is the center crop, 64x64, of images whose short side is 8/7 of that." in card


def test_pretrained_networks_match_published_runs():
    for each in list_trained():
        place = ROOT / "saved_models" / each.run
        published = read_published(place)
        assert (published.run.model, published.run.options) == (each.model, each.options)
        assert published.accuracy == each.test_accuracy
        assert (published.int8["bytes"], published.int8["test_accuracy"]) == (each.int8_bytes, each.int8_test_accuracy)
        assert (place / "last.keras").resolve() == (WEIGHTS / each.file).resolve()
        assert f'weights="{each.weights}"' in (place / CARD).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("place", PUBLISHED, ids=NAME)
def test_published_files_have_the_recorded_accuracy(place, cifar10):
    published = read_published(place)
    if not published.int8:
        pytest.skip("only the record is published")
    in_keras = evaluate(place / "last.keras", cifar10)
    assert in_keras.correct == pytest.approx(10000 * published.run.test_accuracy, abs=5)
    assert evaluate(place / "export" / published.int8["path"], cifar10).correct == published.int8["test_correct"]


@pytest.mark.slow
@pytest.mark.parametrize("each", list_trained(), ids=lambda each: each.run)
def test_pretrained_networks_have_the_recorded_accuracy(each, cifar10):
    model = create_model(each.model, weights=each.weights, **each.options)
    images = np.asarray(cifar10.test.pixels(range(10000)), "float32")
    right = int((model.predict(images, batch_size=250, verbose=0).argmax(axis=-1) == cifar10.test.labels).sum())
    # Other machines round differently, and two classes may be nearly tied.
    assert right == pytest.approx(10000 * each.test_accuracy, abs=2)
    assert abs(each.int8_test_accuracy - each.test_accuracy) <= 0.005


def test_saved_models_are_small():
    # Weights in the package are links; 50 trained networks take 15.6 MB.
    sizes = [path.lstat().st_size for path in (ROOT / "saved_models").rglob("*") if path.is_file()]
    assert sum(sizes) <= 16_000_000, "run `python -m tools.pack_keras saved_models/*/last.keras`"


def test_packed_files_have_the_same_weights(tmp_path):
    create_model("hscnet_m32_g4_r2_b1_a2").save(tmp_path / "net.keras")
    (tmp_path / "packed.keras").write_bytes(pack((tmp_path / "net.keras").read_bytes()))
    assert (tmp_path / "packed.keras").stat().st_size < 0.6 * (tmp_path / "net.keras").stat().st_size
    model, packed = (files.load_model(tmp_path / name) for name in ("net.keras", "packed.keras"))
    assert packed.get_config() == model.get_config()
    for variable, expected in zip(packed.variables, model.variables, strict=True):
        np.testing.assert_array_equal(variable, expected)
    assert pack((tmp_path / "packed.keras").read_bytes()) == (tmp_path / "packed.keras").read_bytes()
