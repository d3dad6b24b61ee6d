"""The examples of docs/training.md and their output; by default, with a plain network."""

import json
import pathlib
import re
import shlex

import keras
import numpy as np
import PIL.Image
import pytest
import sklearn.metrics
import tensorflow as tf

from keras_sharenets import files, mobile, profile
from keras_sharenets.cli.command import make_parser
from keras_sharenets.cli.report import WRONG_IMAGES, most_confused
from keras_sharenets.training.recipes.named import RECIPES
from trainers.cli import COMMANDS, LINE, main

TRACED = True  # Hundreds of steps.
PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "training.md").read_text()
CLASSES = ("ant", "bee")


@pytest.fixture(scope="module")
def folder(quick_network, quick_decoding, tmp_path_factory, request):
    """The folder in which the examples were run."""
    folder = tmp_path_factory.mktemp("page")
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(10):
            image = random.integers(0, 128, (16, 16, 3), np.uint8) + np.uint8(120 * label)
            PIL.Image.fromarray(image).save(folder / "images" / name / f"{number}.png")
    (folder / "images" / "bee" / "torn.png").write_bytes((folder / "images" / "bee" / "0.png").read_bytes()[:50])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```shell\n(.*?)```", PAGE, re.S):
            for line in block.splitlines():
                words = shlex.split(line)
                assert words[0] == "sharenets"
                assert main(words[1:]) == 0, line
                if words[1] == "fit":  # Only the first run has enough steps to be worth tracing.
                    request.getfixturevalue("eager")
    return folder


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_page_contains_every_command():
    used = set(re.findall(r"^sharenets (\w+)", PAGE, re.M))
    assert set(COMMANDS) - used == {"demo", "blending", "analyze"}
    named = set(re.findall(r"`(?:--recipe )?((?:hscnet|sharesnet|shardnet|fast|digits|default)[\w-]*)`", PAGE))
    assert named
    assert named <= set(RECIPES)


def test_recipe_and_data_are_recorded(folder):
    run = metrics(folder / "runs" / "digits")
    assert (run["recipe"]["name"], run["recipe"]["schedule"]) == ("fast", "one_cycle")
    assert run["recipe_changes"] == ["epochs", "learning_rate", "batch_size", "pad", "flip"]
    assert run["tensorboard"] == []
    assert list((folder / "runs" / "digits" / "logs" / "train").glob("events.*"))
    other = metrics(folder / "runs" / "images")
    assert (other["recipe"]["name"], other["tensorboard"]) == ("default", None)
    assert not (folder / "runs" / "images" / "logs").exists()
    assert [complaint.partition(" is not")[0] for complaint in other["data"]["unreadable"]] == ["images/bee/torn.png"]
    assert other["source"]["skip_unreadable"] is True
    # The record describes the data.
    assert other["data"]["left_out"] == []
    splits = [other["data"][name] for name in ("train", "test", "validation")]
    assert np.sum(other["data"]["images_per_class"], axis=0).tolist() == splits
    assert splits == [15, 3, 2]


def test_predictions(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    model = files.load_model("runs/images/last.keras")
    paths = ["images/ant/0.png", "images/bee/1.png"]
    expected = model.predict(np.stack([np.asarray(PIL.Image.open(path), "float32") for path in paths]), verbose=0)
    assert main(["predict", "runs/images", *paths, "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    for path, answer, row in zip(paths, answers, expected, strict=True):
        assert answer["image"] == path
        assert {entry["class"]: entry["probability"] for entry in answer["classes"]} == pytest.approx(
            dict(zip(CLASSES, row.tolist(), strict=True)), rel=1e-5
        )
        assert [entry["probability"] for entry in answer["classes"]] == sorted(row.tolist(), reverse=True)
    assert main(["predict", "runs/images", "images/ant", paths[1], "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert [answer["image"] for answer in answers] == [*(f"images/ant/{number}.png" for number in range(10)), paths[1]]
    assert main(["predict", "runs/images", paths[0], "--top", "1"]) == 0
    best = int(expected[0].argmax())
    assert capsys.readouterr().out.splitlines() == [
        "image             1.",
        f"images/ant/0.png  {CLASSES[best]} {expected[0][best]:.3f}",
    ]


def test_report(folder, digits):
    page = (folder / "runs" / "digits" / "report.html").read_text()
    kinds = re.findall(r'<img alt="[^"]+" src="data:image/png;base64,iVBOR[^"]*" class="(\w+)"', page)
    rows = re.findall(r"<tr><td[^>]*>(.*?)</td><td[^>]*>(.*?)</td></tr>", page)
    table = dict(rows)
    run = metrics(folder / "runs" / "digits")
    correct = round(run["test_accuracy"] * 359)
    assert table["test accuracy, last epoch"] == f"{run['test_accuracy']:.4f} ({correct} of 359)"
    assert table["changed fields"] == "epochs 10, learning rate 0.05, batch 32, pad 1, no flip"
    model = files.load_model(folder / "runs" / "digits" / "last.keras")
    stored = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    assert table["stored parameters"] == f"{stored:,}"
    guesses = model.predict(digits.test.images, verbose=0).argmax(1)
    matrix = sklearn.metrics.confusion_matrix(digits.test.labels, guesses, labels=range(10))
    wrong = matrix * (1 - np.eye(10, dtype=int))
    assert kinds == ["figure"] * 2 + ["photos"] * min(WRONG_IMAGES, 359 - correct)
    table_of_counts = page.partition('<table class="confusion">')[2].partition("</table>")[0]
    counts = [re.findall(r"<td[^>]*>([\d,]*)</td>", row) for row in table_of_counts.split("<tr>")[2:]]
    np.testing.assert_array_equal([[int(count or 0) for count in row] for row in counts], matrix)
    mistakes = page.partition("Most frequent mistakes")[2].partition("</table>")[0]
    mistakes = re.findall(r'<td class="number">(\d+)</td>' * 3, mistakes)
    assert len(mistakes) == min(10, np.count_nonzero(wrong))
    if mistakes:
        row, column, count = map(int, mistakes[0])
        assert matrix[row, column] == count == wrong.max()
    # Precision is by column, recall by row.
    classes = re.findall(r'<td class="number">(\d)</td>' * 2 + r'<td class="number">([\d.]+)</td>' * 3, page)
    for index, name, precision, recall, _ in classes:
        assert name == digits.class_names[int(index)]
        right = matrix[int(index), int(index)]
        assert float(precision) == pytest.approx(right / max(matrix[:, int(index)].sum(), 1), abs=5e-5)
        assert float(recall) == pytest.approx(right / matrix[int(index)].sum(), abs=5e-5)
    assert len(classes) == 10


def test_most_confused_classes_are_sorted():
    matrix = np.array([[9, 0, 2], [5, 9, 0], [0, 0, 9]])
    assert most_confused(matrix, ("a", "b", "c")) == [("b", "a", "5"), ("a", "c", "2")]


def test_comparison(folder):
    output = folder / "runs" / "compared"
    assert {path.name for path in output.iterdir()} == {
        *("compare.md", "compare.csv", "compare.json", "compare.png", "compare_sizes.png", "index.html")
    }
    entries = json.loads((output / "compare.json").read_text())["runs"]
    for entry, name in zip(entries, ("digits", "images"), strict=True):
        run = metrics(folder / "runs" / name)
        assert (entry["run"], entry["test_accuracy"]) == (name, run["test_accuracy"])
        model = files.load_model(folder / "runs" / name / "last.keras")
        assert entry["parameters"] == sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
        assert entry["multiply_adds"] == profile(model).multiply_adds
        assert entry["int8_bytes"] is None  # The page exports the run later.
        row = next(line for line in (output / "compare.md").read_text().splitlines() if line.startswith(f"| {name} |"))
        for part in (run["model"], f"{run['test_accuracy']:.2%}", f"{entry['parameters']:,}"):
            assert f"| {part} |" in row
    assert (output / "compare.png").read_bytes().startswith(b"\x89PNG")
    for name in ("epochs", "schedule", "pad"):
        values = [metrics(folder / "runs" / run)["recipe"][name] for run in ("digits", "images")]
        assert [entry["recipe_differences"][name] for entry in entries] == values
    page = (output / "index.html").read_text()
    assert [page.count(f"<h2>{heading}</h2>") for heading in ("Training", "Recipe differences")] == [1, 1]


def test_exported_files(folder, digits):
    output = folder / "runs" / "digits" / "export"
    written = {entry["form"]: entry for entry in json.loads((output / "export.json").read_text())["files"]}
    assert list(written) == ["float", "int8", "saved_model", "keras"]
    images = digits.test.images
    expected = files.load_model(output / "model.keras").predict(images.astype("float32"), verbose=0)
    assert files.read_labels(output / "model.keras") == tuple("0123456789")
    serve = tf.saved_model.load(str(output / "saved_model")).signatures["serving_default"]
    served = serve(images=tf.constant(images, tf.float32))["probabilities"].numpy()
    np.testing.assert_allclose(served, expected, atol=1e-4)
    np.testing.assert_allclose(mobile.predict_tflite(output / "float.tflite", images), expected, atol=1e-4)
    int8 = mobile.predict_tflite(output / "int8.tflite", images)
    assert (int8.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.9
    for form in ("keras", "float", "int8"):
        assert written[form]["bytes"] == (output / written[form]["path"]).stat().st_size
    # Paths are relative, so that the folder can be published.
    assert [entry["path"] for entry in written.values()] == [
        "float.tflite",
        "int8.tflite",
        "saved_model",
        "model.keras",
    ]
    assert all(entry["report"]["path"] == entry["path"] for entry in written.values() if "report" in entry)
    assert written["int8"]["report"]["verified_on"].endswith("given images")
    for form, probabilities in (("float", expected), ("int8", int8)):
        correct = int((probabilities.argmax(axis=1) == digits.test.labels).sum())
        measured = [written[form][name] for name in ("test_correct", "test_pictures", "test_accuracy")]
        assert measured == [correct, 359, correct / 359]
    assert not any("test_accuracy" in written[form] for form in ("saved_model", "keras"))


def test_hub_folder(folder, digits):
    hub = folder / "runs" / "upload" / "hub"
    assert json.loads((hub.parent / "export.json").read_text())["run"] == "../digits"
    assert {path.name for path in hub.iterdir()} >= {"config.json", "model.weights.h5", "labels.txt", "README.md"}
    # Keras does the same with "hf://..." after downloading the folder.
    loaded = keras.saving.load_model(hub)
    images = digits.test.images[:100].astype("float32")
    expected = files.load_model(folder / "runs" / "digits" / "last.keras").predict(images, verbose=0)
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), expected)
    assert files.read_labels(hub / "config.json") == tuple("0123456789")
    card = (hub / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: keras\n")
    assert 'keras.saving.load_model("hf://USER/NAME")' in card
    assert f"| test accuracy, Keras in float32 | {metrics(folder / 'runs' / 'digits')['test_accuracy']:.2%} |" in card
    assert "int8" not in card.partition("## Results")[2].partition("## Limitations")[0]


def test_results(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "runs" / "results.png").unlink()
    assert main(["results", "runs/digits", "runs/images"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (folder / "runs" / "results.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((folder / "runs" / "digits" / "export" / "export.json").read_text())["files"]
    (int8,) = (entry for entry in written if entry["form"] == "int8")
    model = files.load_model(folder / "runs" / "digits" / "last.keras")
    stored = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)
    accuracies = [metrics(folder / "runs" / "digits")["test_accuracy"], int8["test_correct"] / 359]
    figures = [
        f"{100 * accuracies[0]:.2f} % | {100 - 100 * accuracies[0]:.2f} %",
        f"{100 * accuracies[1]:.2f} %",
        f"{int8['bytes']:,}",
        f"{mobile.size_report(folder / 'runs' / 'digits' / 'export' / int8['path']).arena_bytes:,}",
        f"{stored:,}",
        f"{profile(model).multiply_adds / 1e6:.1f} M",
        "-",
    ]
    (row,) = (line for line in lines if "(runs/digits)" in line)
    assert row == (
        "| `hscnet_m32_g4_r2_b1_a2` | digits | fast, learning rate 0.05, batch 32, pad 1, no flip, 143 images for "
        "validation | 10 | "
        f"[0](runs/digits) | {' | '.join(figures)} |"
    )
    # The commands of the page, except for options that do not affect the network.
    for name in ("digits", "images"):
        line = next(line for line in lines if line.endswith(f"--seed 0 --output runs/{name}_seed0"))
        original = next(line for line in PAGE.splitlines() if line.endswith(f"--output runs/{name}"))
        given, printed = (make_parser(LINE).parse_args(shlex.split(text)[1:]) for text in (original, line))
        changed = {key for key, value in vars(given).items() if getattr(printed, key) != value}
        assert changed == {
            "seed",
            "output",
            *(["tensorboard", "batch_size", "learning_rate"] if name == "digits" else ["recipe"]),
        }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere", "a.png"], "There is no file or folder nowhere."),
        (["predict", "runs/images", "none.png"], "There is no file none.png."),
        (
            ["predict", "runs/images", "runs/images/checkpoints"],
            "The folder runs/images/checkpoints contains no images.",
        ),
        (["predict", "runs/images", "images/bee/torn.png"], "images/bee/torn.png is not an image that can be"),
        (["predict", "runs/images", "images/ant/0.png", "--top", "0"], "`--top` (=0) must be a positive integer"),
        (["export", "runs/digits"], "The output directory runs/digits/export exists and is not an empty folder."),
        (
            ["export", "runs/digits", "--output", "new", "--images", "0"],
            "`--images` (=0) must be a positive integer",
        ),
        (
            ["export", "runs/digits", "--output", "new", "--formats", "keras", "--test"],
            "`--test` is for float and int8, but `--formats` (=keras) has neither.",
        ),
        (
            ["export", "stopped", "--output", "new"],
            "The run in stopped is not finished: `sharenets fit --resume stopped` resumes",
        ),
        (["export", "runs/digits", "--output", "new", "--data", "images"], "images/bee/torn.png is not an image"),
        (["report", "empty"], "The run in empty has no finished epoch."),
        (
            ["compare", "runs/digits", "runs/../runs/digits", "--output", "new"],
            "`runs` (=runs/digits runs/../runs/digits)",
        ),
        (
            ["compare", "runs/digits", "--output", "runs/images"],
            "The output directory runs/images already contains a run.",
        ),
    ],
)
def test_bad_arguments(folder, arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    for name, changes in (("stopped", {"state": "stopped"}), ("empty", {"epochs": []})):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "last.keras").write_bytes(b"")
        (folder / name / "metrics.json").write_text(json.dumps(metrics(folder / "runs" / "digits") | changes))
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert output == ""
    assert not (folder / "new").exists()


def test_export_needs_tensorflow(folder, capsys, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert main(["export", str(folder / "runs" / "digits"), "--output", str(folder / "new"), "--forms", "float"]) == 2
    assert "`--formats` (=float) need KERAS_BACKEND=tensorflow, except for keras and hub." in capsys.readouterr().err
