"""Commands on networks and files."""

import json
import re

import keras
import numpy as np
import PIL.Image
import pytest

import keras_sharenets as ksn
from keras_sharenets import files, mobile
from keras_sharenets.mobile import size_report
from keras_sharenets.mobile.page import site

NAMES = ("circle", "square", "star")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a small network, its labels, and images, as after training."""
    folder = tmp_path_factory.mktemp("cli")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    scaled = keras.layers.Rescaling(1 / 255)(inputs)
    shared = ksn.layers.HighlySharedConv2D(8, 3, groups=4, channel_repeats=2, activation="relu")
    x = keras.layers.Conv2D(8, 3, padding="same")(scaled)
    x = keras.layers.GlobalAveragePooling2D()(shared(shared(x)))
    files.save_model(keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x)), folder / "net.keras")
    (folder / "labels.txt").write_text("\n".join(NAMES))
    (folder / "images").mkdir()
    for index in range(12):
        noise = np.random.default_rng(index).integers(0, 256, (9, 11, 3), np.uint8)
        PIL.Image.fromarray(noise).save(folder / "images" / f"{index}.png")
    return folder


def test_list(sharenets):
    status, out, _ = sharenets("list", "hscnet_m1?8*_r8*")
    assert status == 0
    header, *rows = (line.split() for line in out.partition("\n\n")[0].splitlines())
    assert header[:2] == ["network", "family"]
    # Sorted by size, with the counts of the specification.
    assert rows == [
        ["hscnet_m128_g16_r8_a2_star", "hscnet", "32x32x3", "10", "1,434,906", "494,326,784", *rows[0][6:]],
        ["hscnet_m128_g16_r8_a2", "hscnet", "32x32x3", "10", "1,778,970", "494,326,784", *rows[1][6:]],
    ]
    assert "multiply-adds: for one image" in out


def test_list_within_limits(sharenets):
    def names(*words):
        status, out, _ = sharenets("list", *words, "--json", "-")
        assert status == 0
        return [each["label"] for each in json.loads(out)]

    small = names("--max-parameters", 60_000, "--trained")
    assert set(small) == {each.label for each in ksn.models.list_trained() if each.stored_parameters <= 60_000}
    below = names("--max-bytes", 100_000, "--trained")
    assert set(below) == {each.label for each in ksn.models.list_trained() if each.int8_bytes <= 100_000}
    assert set(names("--family", "hscnet")) == set(ksn.list_models("hscnet*"))
    assert names("resnet_8", "--max-multiply-adds", 12_000_000) == []
    assert names("resnet_8", "--max-multiply-adds", 13_000_000) == ["resnet_8"]
    assert set(ksn.list_models()) <= set(names())
    assert sharenets("list", "resnet_8", "--max-parameters", 5)[1].startswith("none of 1 networks")
    assert sharenets("list", "vggnet", "--trained")[:2] == (0, "none of 1 networks match; `sharenets list` shows all\n")


def test_list_of_unknown_family(sharenets):
    status, _, err = sharenets("list", "--family", "hscnets")
    assert (status, err.count("\n")) == (2, 1)
    assert "`family` (='hscnets') must be one of 'hscnet'" in err
    assert "`max_bytes` (=0) must be a positive integer" in sharenets("list", "--max-bytes", 0)[2]


def test_describe_network(sharenets):
    status, out, _ = sharenets("describe", "resnet_8", "--format", "json")
    profile = json.loads(out)
    assert status == 0
    assert profile["stored_parameters"] == 78_186
    assert profile["multiply_adds"] == 12_501_632
    status, out, _ = sharenets("describe", "resnet_8", "--classes", 100)
    assert status == 0
    assert "84,036" in out  # 90 more classes with 64 weights and an offset each.


def test_describe_network_with_other_input_shape(sharenets):
    words = ("describe", "resnet_8", "--input-shape", 16, 16, 1, "--classes", 3, "--json", "-")
    profile = ksn.profile(ksn.create_model("resnet_8", input_shape=(16, 16, 1), num_classes=3))
    status, out, _ = sharenets(*words)
    assert (status, json.loads(out)["multiply_adds"]) == (0, profile.multiply_adds)


def test_describe_classes_and_input_shape_of_files(sharenets, tmp_path):
    x = keras.Input((None, None, 1))
    file = tmp_path / "any.keras"
    keras.Model(x, keras.layers.Conv2D(2, 3, padding="same", use_bias=False)(x)).save(file)
    for words, message in (
        ((file, "--classes", 3), "applies to named networks only, not to"),
        (("net.tflite", "--input-shape", 8, 8, 1), "does not apply to .tflite files"),
        (("net.tflite", "--format", "csv"), "does not apply to .tflite files"),
        ((file, "--input-shape", 8, 8, 3), "must agree with the inputs"),
        (("resnet_8", "--input-shape", 0, 0, 3), "`--input-shape` (=0 0 3) must be three positive integers: the multi"),
        ((file,), "`input_shape` must specify the unknown dimensions"),
    ):
        status, _, err = sharenets("describe", *words)
        assert (status, err.count("\n")) == (2, 1)
        assert message in err
    status, out, _ = sharenets("describe", file, "--input-shape", 8, 6, 1, "--json", "-")
    assert (status, json.loads(out)["multiply_adds"]) == (0, 8 * 6 * 9 * 2)


def test_describe_keras_file(sharenets, folder):
    status, out, _ = sharenets("describe", folder / "net.keras", "--format", "csv")
    assert status == 0
    assert sum(line.startswith("highly_shared_conv2d") for line in out.splitlines()) == 2


def test_create_network(sharenets, tmp_path):
    target = tmp_path / "net.keras"
    options = ("--classes", 7, "--input-shape", 8, 8, 1, "--output", target)
    status, out, _ = sharenets("create", "hscnet_m32_g4_r2_b1_a2", *options)
    assert status == 0
    model = files.load_model(target)
    assert (model.input_shape, model.output_shape) == ((None, 8, 8, 1), (None, 7))
    assert f"{ksn.profile(model).stored_parameters:,} parameters" in out


def test_create_pretrained_network(sharenets, tmp_path):
    target = tmp_path / "net.keras"
    given = ("--model-option", "width=40", "--weights", "cifar10", "--classes", 3, "--input-shape", 0, 0, 3)
    status, out, _ = sharenets("create", "sl3_resnet_64", *given, "--output", target)
    assert (status, out.rpartition(", ")[2]) == (0, "weights: cifar10\n")
    model = ksn.create_model("sl3_resnet_64", width=40, weights="cifar10")
    created = files.load_model(target)
    assert (created.input_shape, created.output_shape) == ((None, None, None, 3), (None, 3))
    for ours, theirs in zip(model.weights[:-2], created.weights[:-2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_list_pretrained_networks(sharenets):
    status, out, _ = sharenets("list", "--trained", "sl3_resnet*", "--json", "-")
    assert status == 0
    listed = json.loads(out)
    assert [(each["model"], each["options"], each["weights"]) for each in listed] == [
        ("sl3_resnet_64", {"width": 40}, "cifar10"),
        ("sl3_resnet_64", {}, "cifar10"),
    ]
    status, out, _ = sharenets("list", "--trained")
    rows = [line.split() for line in out.partition("\n\n")[0].splitlines()]
    assert len(rows) == 1 + len(ksn.models.list_trained())
    assert [row[-3:] for row in rows if row[:2] == ["sl3_resnet_64", "shardnet"]] == [["75,986", "84.83%", "84.70%"]]


def test_create_from_trial(sharenets, tmp_path):
    arguments = {"width": 64, "blocks_per_stage": 2, "branch_channels": [[8, 8], [16, 16], [32, 32]]}
    arguments |= {"input_shape": [8, 8, 1], "num_classes": 10}
    (tmp_path / "03").mkdir()
    (tmp_path / "03" / "trial.json").write_text(json.dumps({"name": "igcv2_c64_d20", "arguments": arguments}))
    assert sharenets("create", "--from-trial", tmp_path / "03", "--output", tmp_path / "net.keras")[0] == 0
    branches = ((8, 8), (16, 16), (32, 32))
    same = ksn.models.IGCNet(
        width=64, blocks_per_stage=2, branch_channels=branches, input_shape=(8, 8, 1), num_classes=10
    )
    loaded = files.load_model(tmp_path / "net.keras")
    assert [weight.shape for weight in loaded.weights] == [weight.shape for weight in same.weights]
    given = ("--classes", 3, "--output", tmp_path / "three.keras")
    assert sharenets("create", "--from-trial", tmp_path / "03", *given)[0] == 0
    assert files.load_model(tmp_path / "three.keras").output_shape == (None, 3)


def test_export_describe_predict_and_benchmark_tflite_file(sharenets, folder, tmp_path):
    target = tmp_path / "net.tflite"
    representative = ("--representative-data", folder / "images")
    status, out, _ = sharenets(
        "export", folder / "net.keras", "--quantization", "int8", *representative, "--output", target
    )
    assert status == 0
    assert f"{target.stat().st_size:,}" in out

    status, out, _ = sharenets("describe", target)
    described = json.loads(out)
    assert status == 0
    assert described["labels"] == list(NAMES)
    assert described["inputs"][0]["shape"] == [1, 8, 8, 3]
    assert described["inputs"][0]["dtype"] == "uint8"
    assert sum(described["size"].values()) == described["file_bytes"] == target.stat().st_size

    status, out, _ = sharenets("predict", target, folder / "images" / "0.png", "--top", 2)
    line = out.strip().splitlines()[-1]
    assert status == 0
    assert sum(name in line for name in NAMES) == 2

    status, out, _ = sharenets("benchmark", target, "--repetitions", 3)
    assert status == 0
    assert "median ms" in out


def test_export_for_a_target(sharenets, folder, tmp_path):
    path = tmp_path / "chip.tflite"
    export = ("export", folder / "net.keras", "--target", "microcontroller", "--output", path)
    status, _, err = sharenets(*export)
    assert status != 0
    assert "--representative-data" in err
    status, out, _ = sharenets(*export, "--representative-data", folder / "images")
    assert status == 0
    assert re.search(r"^prefer +memory$", out, re.M)
    assert mobile.describe_tflite(path)["inputs"][0]["dtype"] == "int8"


def test_size_of_several_files(sharenets, folder, tmp_path):
    files = [tmp_path / "size.tflite", tmp_path / "speed.tflite"]
    for path in files:
        assert sharenets("export", folder / "net.keras", "--prefer", path.stem, "--output", path)[0] == 0
    status, out, _ = sharenets("size", *files)
    head, *lines = out.splitlines()
    assert status == 0
    assert head.split() == ["bytes", *map(str, files)]
    table = {line.rsplit(None, 2)[0]: [int(count.replace(",", "")) for count in line.split()[-2:]] for line in lines}
    assert table.pop("tensor arena (estimate)") == [size_report(path).arena_bytes for path in files]
    assert table.pop("total") == [path.stat().st_size for path in files]
    assert [sum(column) for column in zip(*table.values(), strict=True)] == [path.stat().st_size for path in files]
    small, fast = table["float32 kernels"]
    assert small < fast
    # Empty parts are not listed: float files have no scales, and no constants are repeated.
    assert "quantization parameters" not in table
    assert "repeated constants" not in table


def test_benchmark_of_several_files(sharenets, folder, tmp_path, monkeypatch):
    for name, preference in (("small", "size"), ("fast", "speed")):
        export = ("export", folder / "net.keras", "--prefer", preference, "--output", tmp_path / f"{name}.tflite")
        assert sharenets(*export)[0] == 0
    monkeypatch.chdir(tmp_path)
    files = ("small.tflite", "fast.tflite")
    accuracies = ("--accuracy", "small.tflite=0.7705", "--accuracy", "fast.tflite=1")
    targets = ("--json", "figures/run.json", "--picture", "figures/run.png")
    status, out, _ = sharenets("benchmark", *files, "--repetitions", 3, *accuracies, *targets)
    assert status == 0
    lines = out.splitlines()
    assert [lines[1].split()[0], lines[1].split()[-1]] == ["small.tflite", "77.05%"]
    assert [lines[2].split()[0], lines[2].split()[-1]] == ["fast.tflite", "100.00%"]
    entries = json.loads((tmp_path / "figures" / "run.json").read_text())["files"]
    assert [entry["path"] for entry in entries] == list(files)
    assert [entry["accuracy"] for entry in entries] == [0.7705, 1.0]
    assert [entry["file_bytes"] for entry in entries] == [(tmp_path / name).stat().st_size for name in files]
    assert PIL.Image.open(tmp_path / "figures" / "run.png").format == "PNG"


def test_predictions_of_keras_and_float32_tflite_agree(sharenets, folder):
    assert sharenets("export", folder / "net.keras")[0] == 0
    images = sorted((folder / "images").iterdir())
    _, keras_out, _ = sharenets("predict", folder / "net.keras", *images)
    _, tflite_out, _ = sharenets("predict", folder / "net.tflite", *images)
    assert len(keras_out.splitlines()) == 13
    assert keras_out == tflite_out


def test_predictions_for_images_of_any_size(sharenets, folder, tmp_path):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.GlobalAveragePooling2D()(inputs)))
    files.save_model(model, tmp_path / "net.keras")
    colors = np.array([[90.0, 91.0, 89.0], [50.0, 48.0, 49.0]])
    for index, color in enumerate(colors):
        PIL.Image.new("RGB", (4 + index, 5), tuple(map(int, color))).save(tmp_path / f"{index}.png")
    status, out, _ = sharenets("predict", tmp_path / "net.keras", tmp_path / "0.png", tmp_path / "1.png", "--json")
    assert status == 0
    found = [{each["class"]: each["probability"] for each in answer["classes"]} for answer in json.loads(out)]
    for answer, color in zip(found, colors, strict=True):
        expected = np.exp(color) / np.exp(color).sum()
        assert [answer[f"class {place}"] for place in range(3)] == pytest.approx(expected, rel=1e-4)


def test_missing_class_names_and_control_characters_in_names(sharenets, folder, tmp_path):
    for name in ("net.keras", "images"):
        (tmp_path / name).symlink_to(folder / name)
    image = folder / "images" / "0.png"
    (tmp_path / "labels.txt").write_bytes(b"cat\ndog\n")
    status, out, err = sharenets("predict", tmp_path / "net.keras", image)
    assert (status, out) == (2, "")
    assert "returns 3 values per image, but has 2 class names" in err
    (tmp_path / "labels.txt").write_bytes("\x1b[31mcat\n\x9b2Jdog\n\u202efox\n".encode())
    image = tmp_path / "\x1b]0;title\x07.png"
    image.symlink_to(folder / "images" / "0.png")
    status, out, _ = sharenets("predict", tmp_path / "net.keras", image)
    assert status == 0
    for shown in (r"\x1b[31mcat", r"\x9b2Jdog", r"\u202efox", r"\x1b]0;title\x07.png"):
        assert shown in out
    assert out.replace("\n", "").isprintable()
    _, _, err = sharenets("predict", tmp_path / "\x1b[2J.keras", image)
    assert r"\x1b[2J.keras" in err


def test_page_says_how_to_view_a_folder_with_spaces(sharenets, folder, monkeypatch):
    report = site.SiteReport("my site", 19_000_000, ({},))
    monkeypatch.setattr(site, "write_site", lambda *words, **more: report)
    out = sharenets("page", folder / "net.keras", "--output", "my site")[1]
    assert out.startswith("my site: 1 network, 19.0 MB with LiteRT.js\n")
    assert " -d 'my site' 8000 " in out


def test_export_saved_model(sharenets, folder):
    status, _, _ = sharenets("export", folder / "net.keras", "--to", "saved_model", "--calibration", folder / "images")
    assert status == 0
    assert (folder / "net_saved_model" / "saved_model.pb").is_file()
    status, _, err = sharenets("export", folder / "net.keras", "--to", "saved_model")
    assert status == 2
    assert "exists" in err


def bad_arguments(folder):
    net, images = folder / "net.keras", folder / "images"
    (folder / "foreign.keras").write_text("no model")
    (folder / "foreign.tflite").write_bytes(bytes(range(256)) * 10)
    (folder / "text.png").write_text("no image")
    (folder / "empty").mkdir(exist_ok=True)
    inputs = keras.Input((8, 8, 3), name="images")
    maps, vector = keras.layers.Conv2D(2, 1)(inputs), keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
    files.save_model(keras.Model(inputs, maps), folder / "maps.keras")
    files.save_model(keras.Model(inputs, [maps, vector]), folder / "two.keras")
    inputs_2, named = folder / "apart" / "inputs.keras", folder / "named"
    files.save_model(keras.Model([inputs, keras.Input((8, 8, 3))], vector), inputs_2)
    files.save_model(keras.Model(inputs, vector), named / "net.keras")
    files.write_labels(named, ["cat"])
    broken, foreign = folder / "broken", folder / "foreign"
    keras.Model(inputs, vector).export(foreign, verbose=False)
    for trial, text in ((broken, "{"), (foreign, '{"name": "resnet_164", "arguments": {"color": 1}}')):
        trial.mkdir(exist_ok=True)
        (trial / "trial.json").write_text(text)
    return [
        (("list", "zzz*"), "`pattern` (='zzz*') matches no model; `sharenets list` shows all."),
        (("list", "resnet_11"), "`pattern` (='resnet_11') matches no model; '*resnet_11*' matches 1."),
        (("describe", "hscnet_m128_g16"), "Did you mean 'hscnet_m128_g16_r4_a2'"),
        (("describe", folder / "none.keras"), "There is no file"),
        (("create", "--output", folder / "new.keras"), "Exactly one of NAME and `--from-trial DIR/ID` is required"),
        (("create", "vggnet", "--weights", "cifar10", "--output", folder / "new.keras"), "'vggnet' is not pretrained"),
        (("create", "vggnet", "--model-option", "a=1", "--output", folder / "new.keras"), "has no argument `a`."),
        (("create", "hscnet_m128_g16", "--output", folder / "new.keras"), "Did you mean 'hscnet_m128_g16_r4_a2'"),
        (("create", "igcv2_c64_d20", "--output", folder / "new.h5"), "must end in `.keras`"),
        (("create", "--from-trial", folder, "--output", folder / "new.keras"), "is not the folder of a trial"),
        (("create", "--from-trial", broken, "--output", folder / "new.keras"), "is not the record of a trial"),
        (("create", "--from-trial", foreign, "--output", folder / "new.keras"), "that this version does not support"),
        (("describe", folder / "foreign.keras"), "is not a Keras file"),
        (("describe", folder / "foreign.tflite"), "is not a TFLite file"),
        (("export", folder / "foreign.keras"), "is not a Keras file"),
        (("export", net, "--quantization", "int8"), "`--quantization int8` requires `--representative-data FOLDER`"),
        (("export", net, "--to", "saved_model", "--quantization", "int8"), "does not apply to `--to saved_model`"),
        (
            ("export", net, "--quantization", "int5"),
            "`--quantization` (='int5') must be one of 'float32', 'float16'",
        ),
        (("export", net, "--quantization", "stem=int8"), "`--quantization` assigns 'int8' to a layer, but must assign"),
        (("export", net, "--calibration", folder / "empty"), "must be a folder that contains images"),
        (("export", net, "--calibration", folder / "none"), "There is no file or folder"),
        (("export", net, "--calibration", folder / "text.png"), "must be a folder that contains images, but is a file"),
        (("export", net, "--output", folder / "text.png" / "a.tflite"), "`--output` (='"),
        (("export", net, "--to", "c_array", "--output", folder / "text.png" / "a"), "text.png is a file."),
        (("export", inputs_2, "--calibration", images), "for one input of images, but"),
        (("export", named / "net.keras"), "labels.txt has 1 entry, but the network has 2 classes"),
        (("export", net, "--calibration", images, "--pictures", 0), "`--images` (=0) must be a positive integer"),
        (("export", net, "--images", 9), "`--images` requires `--representative-data FOLDER`"),
        (("export", net, "--to", "saved_model", "--max-bytes", 0), "does not apply to `--to saved_model`"),
        (("export", net, "--output", folder / "images" / ".." / "net.keras"), "must differ from the network"),
        (("export", net, "--test"), "`--test` is for the folder of a run, but TARGET is not a folder"),
        (("export", folder, "--quantization", "int8"), "`--quantization` is for a .keras file, but TARGET is a folder"),
        (("describe", images), "is neither a .keras nor a .tflite file"),
        (("export", folder), "metrics.json"),
        (("predict", folder, images / "0.png"), "metrics.json"),
        (("size", folder / "foreign.tflite"), "is not a TFLite file"),
        (("benchmark", folder / "foreign.tflite"), "is not a TFLite file"),
        (("benchmark", folder / "none.tflite"), "There is no file"),
        (("benchmark", "a.tflite", "--accuracy", "b.tflite=0.5"), "`--accuracy` (=b.tflite=0.5) must be FILE=FRACTION"),
        (("benchmark", "a.tflite", "--accuracy", "a.tflite=77"), "a number from 0 to 1"),
        (("benchmark", "a.tflite", "--accuracy", "a.tflite=nan"), "a number from 0 to 1"),
        (("benchmark", "a.tflite", "--picture", folder / "run.png"), "`--figure` needs `--accuracy FILE=FRACTION`"),
        (("predict", net, folder / "text.png"), "text.png is not an image that can be read"),
        (("predict", net, folder / "none.png"), "There is no file"),
        (("predict", folder / "foreign.keras", images / "0.png"), "is not a Keras file"),
        (("predict", net, images / "0.png", "--top", 0), "`--top` (=0) must be a positive integer"),
        (("predict", folder / "maps.keras", images / "0.png"), "takes (None, 8, 8, 3) and returns (None, 8, 8, 2); it"),
        (("predict", folder / "two.keras", images / "0.png"), "returns (None, 8, 8, 2) and (None, 2); it must map one"),
        (("predict", folder / "foreign", images / "0.png"), "foreign was not written by `export_saved_model`: it"),
    ]


def test_bad_arguments_create_no_output(sharenets, folder):
    cases = bad_arguments(folder)
    before = sorted(path for path in folder.rglob("*"))
    for arguments, message in cases:
        status, _, err = sharenets(*arguments)
        assert status == 2, arguments
        assert message in err, arguments
        assert err.startswith("error: "), arguments
        assert len(err.strip().splitlines()) == 1, arguments
    assert sorted(path for path in folder.rglob("*")) == before
