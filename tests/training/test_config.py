"""Configuration files of `fit`, written by a run or by hand."""

import dataclasses
import json
import shlex

import pytest
from tiny_network import MODEL

from keras_sharenets.cli import LINE, fit
from keras_sharenets.cli.arguments import chosen_recipe
from keras_sharenets.cli.command import make_parser
from keras_sharenets.training.recipes.named import find_recipe, override
from keras_sharenets.training.recipes.recipe import Recipe
from keras_sharenets.training.run.config import read_config, write_config
from keras_sharenets.training.run.record import Run
from trainers.cli import main

# The second word is not UTF-8.
SOURCE = {"data": "my im\udce4ges", "data_dir": "/there", "input_shape": [8, 8, 1], "skip_unreadable": True}
SOURCE |= {"validation": "0.2", "split_seed": 3}


def parsed(*words):
    """The validated arguments of `sharenets fit`."""
    words = ["fit", *map(str, words)]
    arguments = make_parser(LINE, ("fit",)).parse_args(words)
    arguments.command_line = shlex.join(["sharenets", *words])
    fit.check(arguments)
    return arguments


def fake_run(recipe, **more):
    options = {"width": (16, 32), "stem": "imagenet", "label": "3"}
    facts = {"data": {"name": "x"}, "backend": "tensorflow", "versions": {}, "source": SOURCE, "seed": 5}
    return Run(**facts | {"model": MODEL, "options": options, "recipe": recipe} | more)


@pytest.mark.parametrize(
    "recipe",
    [
        override(find_recipe("fast"), optimizer="AdamW", flip=False, weight_decay=1e-05),
        override(find_recipe("fast"), schedule="step", milestones=(0.25, 0.5), momentum=0.5),
        Recipe(3, 0.5, 0.0, "plateau", nesterov=False, watch="test"),
    ],
)
def test_written_config_reproduces_the_run(recipe, tmp_path):
    teacher = tmp_path / "other run"
    teacher.mkdir()
    run = fake_run(recipe, deterministic=True, jit_compile=False, precision="bfloat16", teacher=str(teacher))
    write_config(run, tmp_path / "run.yaml")
    found = parsed("--config", tmp_path / "run.yaml", "--output", "there")
    values = vars(found)
    assert {name: values[name] for name in SOURCE} == SOURCE
    assert (found.model, found.seed, found.deterministic, found.jit_compile) == (MODEL, 5, True, "false")
    assert (found.precision, found.teacher, found.output) == ("bfloat16", str(teacher), "there")
    assert found.model_option == ["width=(16, 32)", "stem=imagenet", "label='3'"]
    # The name of a modified recipe is not restored.
    assert dataclasses.replace(chosen_recipe(found, MODEL, "x"), name=recipe.name) == recipe


def test_fields_without_effect_are_not_written(tmp_path):
    changes = {"milestones": (0.5,), "patience": 3, "momentum": 0.5, "pad": 2, "rise": 0.1}
    write_config(
        fake_run(override(find_recipe("fast"), optimizer="Adam", crop="area", **changes)), tmp_path / "run.yaml"
    )
    assert read_config(tmp_path / "run.yaml").keys() & changes.keys() == {"rise"}


def test_command_line_overrides_config(tmp_path):
    write_config(fake_run(override(find_recipe("fast"), epochs=3, flip=False)), tmp_path / "run.yaml")
    typed = ["--epochs", "7", "--flip", "--model-option", "stem=cifar", "--data-dir", "/here", "--seed", "0"]
    typed += ["--learning", "0.5"]  # An option may be abbreviated.
    found = parsed("--config", tmp_path / "run.yaml", "--output", "there", *typed)
    assert (found.data_dir, found.seed, found.data) == ("/here", 0, SOURCE["data"])
    assert dict(each.split("=") for each in found.model_option)["stem"] == "cifar"
    assert chosen_recipe(found, MODEL, "x") == override(find_recipe("fast"), epochs=7, flip=True, learning_rate=0.5)


def test_recipe_on_command_line_replaces_recipe_in_config(tmp_path):
    """Recipe fields of the file are ignored; other options of the file remain."""
    changed = override(find_recipe("fast"), epochs=3, flip=False, learning_rate=0.3)
    write_config(fake_run(changed, precision="bfloat16"), tmp_path / "run.yaml")
    found = parsed("--config", tmp_path / "run.yaml", "--output", "there", "--recipe", "digits", "--epochs", "7")
    assert chosen_recipe(found, MODEL, "x") == override(find_recipe("digits"), epochs=7)
    assert (found.model, found.seed, found.precision, found.data) == (MODEL, 5, "bfloat16", SOURCE["data"])


def test_config_written_by_hand(tmp_path):
    path = tmp_path / "mine.yaml"
    lines = [
        "# mine",
        "---",
        "model: resnet_8   # the reference",
        'data: "C# and others"',
        "learning-rate: 1e-2",
        "",
        "milestones: [0.3, 0.6]",
        "flip: false",
        "deterministic: True",
        'model_option: {"width": 8}',
    ]
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")  # With a byte order mark, as some editors write it.
    expected = {"model": "resnet_8", "data": "C# and others", "learning_rate": 0.01, "milestones": [0.3, 0.6]}
    assert read_config(path) == expected | {"flip": False, "deterministic": True, "model_option": {"width": 8}}
    found = parsed("--config", path, "--output", "there")
    assert (found.learning_rate, found.milestones, found.flip) == (0.01, [0.3, 0.6], False)
    assert found.deterministic is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizzer: SGD", "error: `optimizzer` in mine.yaml is not an option of `fit`. Did you mean 'optimizer'?"),
        ("resume: there", "error: `resume` in mine.yaml is not an option of `fit`."),
        ("epochs: many", "error: mine.yaml: argument --epochs: invalid int value: 'many'"),
        ("flip: yes", "error: Line 1 of mine.yaml (='flip: yes') must be `name: value`, with a JSON value or a word."),
        ("freeze: 1", "error: mine.yaml: `freeze` (=1) must be true or false."),
        ("a\nb: 1", "error: Line 1 of mine.yaml (='a') must be `name: value`"),
        ("seed: 1\n seed: 2", "error: Line 2 of mine.yaml (=' seed: 2') must be"),
        ("seed: 1\nseed: 2", "error: Line 2 of mine.yaml repeats `seed`."),
        ("milestones: [0.1,", "error: Line 1 of mine.yaml"),
        ("model_option: 3", "error: mine.yaml: `model_option` (=3) must be a mapping"),
        ("precision: half", "error: mine.yaml: argument --precision: invalid choice: 'half'"),
        ("recipe: fst", "error: `recipe` (='fst') is not a known recipe. Did you mean 'fast'"),
    ],
)
def test_bad_config_files(text, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["fit", "--config", "mine.yaml", "--model", MODEL, "--data", "digits", "--output", "run"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_missing_config_and_config_with_resume(capsys):
    assert main(["fit", "--config", "none.yaml"]) == 2
    assert "error: There is no file none.yaml." in capsys.readouterr().err
    assert main(["fit", "--config", "none.yaml", "--resume", "there"]) == 2
    assert "error: `--config` is for a new run;" in capsys.readouterr().err


@pytest.mark.slow
def test_rerun_from_written_config(tmp_path):
    typed = "--data digits --recipe fast --epochs 2 --batch-size 256 --mixup 0.2 --optimizer AdamW --learning-rate 0.01"
    options = "--model-option width=(16,) --model-option arrangements=1 --jit-compile false --seed 3"
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(["fit", "--model", MODEL, *typed.split(), *options.split(), "--output", str(first)]) == 0
    assert main(["fit", "--config", str(first / "run.yaml"), "--output", str(second)]) == 0
    one, other = (json.loads((folder / "metrics.json").read_text()) for folder in (first, second))
    assert one["recipe"] == other["recipe"]
    for name in ("loss", "test_accuracy"):
        assert one["epochs"][-1][name] == pytest.approx(other["epochs"][-1][name], abs=0.02)
    assert (first / "run.yaml").read_text() == (second / "run.yaml").read_text()
