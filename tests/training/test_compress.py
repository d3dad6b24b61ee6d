import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_sharenets import files
from keras_sharenets.cli import main
from keras_sharenets.cli.compress import larger_files
from keras_sharenets.folder_lock import is_unused
from keras_sharenets.interruption import Interrupted
from keras_sharenets.layers.quantized_kernels import stored_kernels
from keras_sharenets.training.compress import compress
from keras_sharenets.training.compress.steps import Step, dry_run, make_steps, parse_share, share_arguments
from keras_sharenets.training.data.sources import load
from keras_sharenets.training.recipes.named import find_recipe, override
from keras_sharenets.training.run.record import write_metrics

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="pruning and files need TensorFlow")
STEPS = ["--share", "depth:policy=stage", "--prune", "0.5", "--cluster", "8", "--quantization-aware"]


def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Rescaling(1 / 255)(x)
    for number in range(3):
        x = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Dense(10, "softmax", name="predictions")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x, name="tiny")


def make_plan(steps):
    recipe = override(find_recipe("digits"), epochs=1)
    return compress.Plan("tiny.keras", "tiny", steps, None, 16, recipe, 0, None)


def test_parse_share():
    assert parse_share("12.5%") == ("part", 0.125)
    assert share_arguments("25%", 1000) == {"max_parameters": 250}
    scheme = share_arguments("channels:arrangements=2,groups=4", 1000)["scheme"]
    assert (scheme.arrangements, scheme.groups) == (2, 4)
    for text in ("channels", "depth:policy=none", "hierarchical:groups=1", "interleaved:group_convolutions=1"):
        with pytest.raises(ValueError, match=rf"`--share` \(={text}\) shares nothing"):
            share_arguments(text, 1000)
    assert make_steps(["50%", "25%"], 0.5, 8, True) == (
        Step("share", "50%"),
        Step("share", "25%"),
        Step("prune", 0.5),
        Step("cluster", 8),
        Step("quantize"),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "At least one of `--share`"),
        (["--share", "120%"], "must be above 0 % and below 100 %"),
        (["--share", "width"], r"`--share` \(=width\) must start with one of depth"),
        (["--share", "depth:policy"], "SCHEME:FIELD=VALUE"),
        (["--share", "max_parameters=0"], "positive integer"),
        (["--prune", "1"], r"`--prune` \(=1.0\)"),
        (["--prune", "0.5", "--cluster", "2"], "at least 3 with `--prune`"),
    ],
)
def test_bad_options(words, message, capsys, tmp_path):
    output = str(tmp_path / "out")
    assert main(["compress", "none.keras", "--data", "digits", "--output", output, *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_bad_arguments_are_rejected_before_training(tmp_path, capsys):
    files.save_model(network(), tmp_path / "tiny.keras")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("")
    call = ["compress", str(tmp_path / "tiny.keras"), "--data", "digits", "--output", str(tmp_path / "out")]
    for words, message in (
        (["--share", "hierarchical:groups=2"], "fits no convolution of"),
        (["--share", "max_parameters=10"], "must be at least"),
        (["--share", "depth:wide=1"], "some of policy, blending"),
        (["--prune", "0.5", "--output", str(tmp_path / "taken")], "is not an empty folder"),
        (["--prune", "0.5", "--ema", "0.9"], "`ema` (=0.9) must be 0"),
        (["--prune", "0.5", "--early-stopping", "2"], "`early_stopping` (=2) must be 0 with pruning"),
        (["--prune", "0.5", "--optimizer", "adamm"], "`optimizer` (='adamm') is not in keras.optimizers"),
        (["--prune", "0.5", "--seed", "-1"], "`seed` (=-1) must be a non-negative integer"),
        (["--prune", "0.5", "--dropout", "0.2"], "`--dropout` (=0.2) must be omitted: a trained network keeps"),
    ):
        assert main([*call, *words]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    inputs = keras.Input((8, 8, 1))
    three = keras.layers.Dense(3, "softmax")(keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inputs)))
    files.save_model(keras.Model(inputs, three), tmp_path / "tiny.keras")
    assert main([*call, "--prune", "0.5"]) == 2
    assert f"`network` (='{tmp_path}/tiny.keras') has 3 classes, but digits has 0, 1" in capsys.readouterr().err
    assert is_unused(tmp_path / "out")
    for name in ("ant", "bee"):
        (tmp_path / "images" / name).mkdir(parents=True)
    images = str(tmp_path / "images")
    assert main([*call, "--prune", "0.5", "--data", images, "--output", f"{images}/out"]) == 2
    assert "must not be among the images in" in capsys.readouterr().err
    assert main(["compress", "--resume", str(tmp_path / "taken")]) == 2
    assert "contains no compression" in capsys.readouterr().err
    assert main(["compress", "--resume", str(tmp_path / "taken"), "--prune", "0.5"]) == 2
    assert "omit the network, the steps, and `--output`" in capsys.readouterr().err


def test_folder_stays_empty_without_a_record(tmp_path, monkeypatch):
    """With the network alone, it could be neither resumed nor used again."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(compress, "open_teacher", interrupt)
    plan = make_plan(make_steps([], 0.5, None, False))
    with pytest.raises(KeyboardInterrupt):
        compress.begin(network(), plan, load("digits"), tmp_path / "out", say=print, show=print)
    assert is_unused(tmp_path / "out")


def test_dry_run_refuses_images_of_any_size():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    with pytest.raises(ValueError, match=r"Export needs a fixed image size, and the model takes \(None, None, 1\)"):
        dry_run(model, make_steps(["50%"], None, None, False), None, np.zeros((2, 8, 8, 1), "float32"))


@pytest.mark.slow
def test_dry_run_does_not_change_the_network():
    model = network()
    before = [weight.copy() for weight in model.get_weights()]
    dry_run(model, make_steps(["depth:policy=stage"], 0.5, 8, True), None, np.zeros((2, 8, 8, 1), "float32"))
    assert all(np.array_equal(old, new) for old, new in zip(before, model.get_weights(), strict=True))


def test_table_names_steps_that_make_the_file_larger():
    sizes = {"original": 900, "share 50%": 1000, "prune 0.5": 1001, "share depth": 800}
    rows = [compress.Row(step, None, 0.5, 0.5, 1, 1.0, 1, 1, size, 1, 1.0) for step, size in sizes.items()]
    (found,) = larger_files(rows)
    assert found.startswith("After 'share 50%', the int8 file is 100 bytes larger than before")


def test_finished_steps_are_not_repeated(tmp_path, monkeypatch):
    """Training and measurements are mocked, to check which steps run on which networks."""
    trained, told = [], []

    def train(devices, model, make, run, dataset, folder, checkpoint, verbose, callbacks):
        trained.append((folder.name, run.teacher, type(model).__name__))
        write_metrics(run, folder / "metrics.json")
        if len(trained) == 2:
            raise KeyboardInterrupt
        files.save_model(model, folder / "last.keras")

    def measure(step, before, folder, plan, dataset):
        assert (folder / "last.keras").is_file()
        return compress.Row(step, before, 0.5, 0.5, 1, 1.0, 1, 1, 1, 1, 1.0)

    monkeypatch.setattr(compress, "train_network", train)
    monkeypatch.setattr(compress, "_measure", measure)
    monkeypatch.setattr(compress, "_accuracy", lambda *_: 0.25)
    output, dataset = tmp_path / "out", load("digits")
    steps = make_steps(["depth:policy=stage", "channels:arrangements=2"], 0.5, None, False)
    # The second step converts what the first one has made of these.
    asked = dataclasses.replace(make_plan(steps), where=("conv1", "conv2"))
    with pytest.raises(Interrupted, match=r"`sharenets compress --resume .*out` resumes"):
        compress.begin(network(), asked, dataset, output, say=told.append, show=told.append)
    assert compress.read_record(output)[0] == asked
    assert [row.step for row in compress.read_record(output)[1]] == ["original", "share depth:policy=stage"]
    fewer = dataclasses.replace(dataset, train=dataset.train.part(np.arange(1000)))
    with pytest.raises(ValueError, match=r"has 1000 train images, but the run in .*1_share has 1438"):
        compress.resume(output, fewer, say=told.append, show=told.append)
    # A checkpoint has the path of the teacher before the folder was moved.
    state = {"run": files.read_json(output / "2_share" / "metrics.json")}
    monkeypatch.setattr(
        compress, "last_checkpoint", lambda place: (place, {}, state) if "2_share" in str(place) else None
    )
    before, output = output, output.rename(tmp_path / "moved")
    rows = compress.resume(output, dataset, say=told.append, show=told.append)
    teachers = [str(place / "original" / "last.keras") for place in (before, output)]
    assert trained == [
        ("1_share", teachers[0], "Functional"),
        ("2_share", teachers[0], "Functional"),
        ("2_share", teachers[1], "Functional"),
        ("3_prune", teachers[1], "TrainedWithTFMOT"),
    ]
    assert [row.accuracy_before for row in rows] == [None, 0.25, 0.25, None]
    shared = keras.saving.load_model(output / "3_prune" / "last.keras", compile=False)
    assert shared.count_params() < network().count_params()
    assert json.loads((output / "compress.json").read_text())["state"] == "finished"
    assert compress.resume(output, dataset, say=told.append, show=told.append) == rows
    assert len(trained) == 4


@pytest.mark.slow
def test_killed_compression_resumes_within_its_step(tmp_path, capsys):
    files.save_model(network(), tmp_path / "tiny.keras")
    output = tmp_path / "out"
    call = [sys.executable, "-c", "import sys; from keras_sharenets.cli import main; sys.exit(main(sys.argv[1:]))"]
    words = ["compress", str(tmp_path / "tiny.keras"), "--data", "digits", *STEPS, "--epochs", "3"]
    process = subprocess.Popen([*call, *words, "--output", str(output)], env=os.environ, stdout=subprocess.DEVNULL)
    checkpoints = output / "2_prune" / "checkpoints"
    limit = time.monotonic() + 400
    while not list(checkpoints.glob("*.npz")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(checkpoints.glob("*.npz"))
    assert main(["compress", "--resume", str(output), "--json", str(tmp_path / "found.json")]) == 0
    assert "files in" in capsys.readouterr().out
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["step"].split()[0] for row in rows] == ["original", "share", "prune", "cluster", "quantize"]
    assert rows[1]["stored_parameters"] < rows[0]["stored_parameters"]
    assert rows[1]["stored_parameters"] == rows[4]["stored_parameters"]
    assert all(abs(row["nonzero"] - 0.5) < 0.02 for row in rows[2:])
    assert rows[4]["int8_gzip"] < rows[1]["int8_gzip"] < rows[0]["int8_gzip"]
    assert all(row["float_bytes"] > row["int8_bytes"] > row["int8_gzip"] > 0 and row["int8_ms"] > 0 for row in rows)
    assert len(json.loads((output / "2_prune" / "metrics.json").read_text())["epochs"]) == 3
    for folder in ("3_cluster", "4_quantize"):
        model = files.load_model(output / folder / "last.keras")
        kernels = [kernel for layer in model.layers for kernel, _ in stored_kernels(layer)]
        assert kernels
        if folder == "3_cluster":
            assert all(len(np.unique(kernel.numpy())) <= 8 for kernel in kernels)
    assert (output / "compress.csv").read_text().count("\n") == 6
    assert "<table>" in (output / "index.html").read_text()
    assert main(["fit", "--resume", str(output / "1_share")]) == 2
    assert "was created by `sharenets compress`" in capsys.readouterr().err
