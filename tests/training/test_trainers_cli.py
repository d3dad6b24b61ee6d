import json

import pytest

import keras_sharenets as ksn
from keras_sharenets import files
from keras_sharenets.cli.command import make_parser
from keras_sharenets.training.recipes.named import find_recipe
from keras_sharenets.training.recipes.recipe import OPTIONS
from trainers.cli import COMMANDS, LINE, main

TRACED = True  # These tests cover options of the compiler.
MODEL = "hscnet_m32_g4_r2_b1_a2"
TINY = ["--model-option", "width=(16,)", "--model-option", "arrangements=1", "--jit-compile", "false"]


@pytest.fixture(scope="module")
def run(quick_network, tmp_path_factory):
    """A run of the command with changes to recipe fields of every type."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    changes = (
        "--epochs 1 --batch-size 128 --weight-decay 0.001 --milestones 0.25 0.5 --schedule step --no-nesterov --flip"
    )
    assert main(["fit", "--model", MODEL, "--data", "digits", "--output", str(folder), *TINY, *changes.split()]) == 0
    return folder


def test_options_set_recipe_and_network(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["recipe"] == {
        "epochs": 1,
        "batch_size": 128,
        "weight_decay": 0.001,
        "milestones": [0.25, 0.5],
        "schedule": "step",
        "rise": 0.3,
        "nesterov": False,
        "flip": True,
        # From the recipe for digits.
        "learning_rate": 0.1,
        "momentum": 0.9,
        "decay_factor": 0.1,
        "warmup_epochs": 0,
        "label_smoothing": 0.0,
        "pad": 1,
        "patience": 10,
        "watch": "train",
        "dropout": 0.0,
        "crop": "shift",
        "crop_size": 0,
        "border": "mean",
        "jitter": 0.0,
        "lighting": 0.0,
        "normalization": "channels",
        "initialization": "network",
        "optimizer": "SGD",
        "decoupled_decay": False,
        "decay_scales": True,
        "clip_norm": 0.0,
        "accumulate": 1,
        "ema": 0.0,
        "early_stopping": 0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "rand_augment": 0.0,
        "random_erasing": 0.0,
        "teacher_weight": 0.5,
        "temperature": 4.0,
        "name": "digits",
        "source": find_recipe("digits").source,
    }
    changed = ["epochs", "weight_decay", "schedule", "milestones", "batch_size", "nesterov", "flip"]
    assert metrics["recipe_changes"] == changed
    assert metrics["options"] == {"width": [16], "arrangements": 1}
    assert (metrics["jit_compile"], metrics["state"], metrics["seed"]) == (False, "finished", 0)


def test_evaluate_prints_the_accuracy_of_the_run(run, capsys):
    accuracy = json.loads((run / "metrics.json").read_text())["test_accuracy"]
    assert main(["evaluate", str(run)]) == 0
    expected = f"accuracy {accuracy:.4f} ({round(accuracy * 359)} of 359 test images) on 1,797 handwritten digits"
    assert capsys.readouterr().out.startswith(expected)


def test_analyze_finds_the_data_of_a_file_of_a_run(run, tmp_path):
    words = ["--activations", "--limit-images", "20", "--output", str(tmp_path / "out")]
    assert main(["analyze", str(run / "last.keras"), *words]) == 0
    assert "activations" in json.loads((tmp_path / "out" / "analysis.json").read_text())


def test_evaluate_supports_tflite_files(run, capsys, tmp_path):
    accuracy = json.loads((run / "metrics.json").read_text())["test_accuracy"]
    ksn.mobile.export_tflite(files.load_model(run / "last.keras"), tmp_path / "last.tflite")
    assert main(["evaluate", str(tmp_path / "last.tflite")]) == 2
    message = f"error: `--data` is required: {tmp_path}/last.tflite belongs to no run and to no search."
    assert message in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "last.tflite"), "--data", "digits"]) == 0
    assert f"({round(accuracy * 359)} of 359 test images)" in capsys.readouterr().out


def test_help_contains_an_example_and_every_recipe_field(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        text = capsys.readouterr().out
        assert f"example:\n  python -m trainers {command} " in text
        example = text.partition("example:\n")[2].split()[3:]
        assert make_parser(LINE).parse_args(example).command == command
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in OPTIONS:
        assert f"--{field.name.replace('_', '-')}" in text


def _broken_image(folder):
    for name in ("ant", "bee"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            (folder / name / f"{number}.png").write_text("no image")


FIT = ["fit", "--model", MODEL, "--data", "digits", "--output", "run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [*FIT, "--model", "hscnet_m32"],
            "error: `name` (='hscnet_m32') is not a known model. Did you mean 'hscnet_m32_g4",
        ),
        ([*FIT, "--data", "nowhere"], "error: `data` (='nowhere') must be one of 'digits', 'cifar10', "),
        (
            [*FIT, "--data", "empty"],
            "error: empty contains no class folders. Expected one folder of images per class",
        ),
        ([*FIT, "--data", "broken"], "error: broken/ant/"),
        ([*FIT, "--data", "broken", "--output", "broken/run"], "error: `output` (='broken/run') must not be among the"),
        (
            [*FIT, "--data", "cifar10", "--data-dir", "empty"],
            "error: There is no CIFAR-10 in the data directory empty:",
        ),
        ([*FIT, "--output", "full"], "error: The output directory full exists and is not an empty folder."),
        ([*FIT, "--output", "full", "--model", "x"], "error: `name` (='x') is not a known model."),
        ([*FIT, "--model-option", "width"], "error: `--model-option` (='width') must be KEY=VALUE."),
        ([*FIT, "--model-option", "depth=3"], f"error: {MODEL} has no option `depth`. Did you mean"),
        ([*FIT, "--epochs", "0"], "error: `epochs` (=0) must be a positive integer."),
        (
            [*FIT, "--milestones", "60", "120"],
            "error: `milestones` (=(60.0, 120.0)) must be increasing fractions of all epochs",
        ),
        (
            [*FIT, "--milestones", "0.5", "--recipe", "fast"],
            "error: `--milestones` (=[0.5]) has no effect with the schedule 'one_cycle': also give `--schedule step`.",
        ),
        (
            [*FIT, "--decay-factor", "0.2"],
            "error: `--decay-factor` (=0.2) has no effect with the schedule 'cosine': also give `--schedule step or ",
        ),
        ([*FIT, "--momentum", "0.5", "--optimizer", "AdamW"], "error: `--momentum` (=0.5) has no effect with the opt"),
        ([*FIT, "--pad", "2", "--crop", "area"], "error: `--pad` (=2) has no effect with the crop 'area': also give"),
        ([*FIT, "--recipe", "digit"], "error: `recipe` (='digit') is not a known recipe. Did you mean 'digits'"),
        ([*FIT, "--recipe", "fast", "--epochs", "0"], "error: `epochs` (=0) must be a positive integer."),
        ([*FIT, "--jitter", "0.5"], "error: `jitter` (=0.5) needs color images, but digits is gray."),
        ([*FIT, "--tensorboard", "images"], "error: `tensorboard` (='images') must be one of 'graph', 'histograms'."),
        ([*FIT, "--optimizer", "Adan"], "error: `optimizer` (='Adan') is not in keras.optimizers. Did you mean 'Adam'"),
        ([*FIT, "--mixup", "2"], "error: `mixup` (=2.0) must be at least 0 and at most 1."),
        ([*FIT, "--accumulate", "0"], "error: `accumulate` (=0) must be a positive integer."),
        (
            [*FIT, "--mixup", "0.2", "--jit-compile", "true"],
            "error: `mixup` (=0.2) cannot be compiled by XLA on TensorFlow: `jit_compile` (=True) must be 'auto' or",
        ),
        ([*FIT, "--ema", "0.9", "--strategy", "mirrored"], "error: `ema` (=0.9) needs one device, but `strategy` is"),
        ([*FIT, "--teacher", "none.keras"], "error: There is no file none.keras."),
        ([*FIT, "--teacher", "full"], "error: There is no full/metrics.json: full contains no run."),
        (
            [*FIT, "--teacher", "full/thesis.txt"],
            "error: full/thesis.txt is not a Keras file: a `.keras` file",
        ),
        ([*FIT, "--from", "none.keras"], "error: There is no file none.keras."),
        (
            [*FIT, "--from", "resnet_9"],
            "error: `from` (='resnet_9') must be the folder of a run, a .keras file, or one pretrained network",
        ),
        ([*FIT, "--seed", "-1"], "error: `seed` (=-1) must be a non-negative integer below 2**32."),
        (["evaluate", "none.keras", "--data", "digits"], "error: There is no file none.keras."),
        (
            ["evaluate", "full/thesis.txt", "--data", "digits"],
            "error: full/thesis.txt is neither a .keras nor a .tflite",
        ),
    ],
)
def test_bad_arguments(arguments, message, capsys, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("42")
    _broken_image(tmp_path / "broken")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(arguments) == 2
    output, errors = capsys.readouterr()
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert output == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_existing_run_is_not_overwritten(run, capsys):
    before = (run / "metrics.json").read_bytes()
    assert main([*FIT, "--output", str(run)]) == 2
    assert f"error: The output directory {run} already contains a run." in capsys.readouterr().err
    assert (run / "metrics.json").read_bytes() == before


def test_missing_command_prints_the_list_of_commands(capsys):
    assert main([]) == 2
    assert {"fit", "export", "report"} <= set(capsys.readouterr().err.split())
