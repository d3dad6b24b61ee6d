"""Tables of published runs, from fake records."""

import json
import re
import shlex

import numpy as np
import PIL.Image
import pytest
from made_up_runs import DATA, SHORT, fake_run, publish, publish_runs, tables

from keras_sharenets import files
from keras_sharenets.cli.arguments import chosen_recipe
from keras_sharenets.cli.command import make_parser
from keras_sharenets.cli.results import BEGIN, END, one_of_each, to_markdown
from keras_sharenets.timing import UNSTEADY_NOTE
from keras_sharenets.training.recipes.named import find_recipe, override
from keras_sharenets.training.reports import plots
from keras_sharenets.training.reports.results import (
    Published,
    compare,
    comparisons,
    direction,
    make_rows,
    paper_result,
    read_published,
)
from keras_sharenets.training.run.command import fit_command_line
from keras_sharenets.training.run.record import write_metrics
from trainers.cli import LINE, main


@pytest.fixture
def folder(tmp_path):
    return publish_runs(tmp_path)


def print_results(folder, capsys, *more):
    assert main(["results", *map(str, sorted(folder.glob("*_seed*"))), *more]) == 0
    return capsys.readouterr().out


def test_order_of_options_does_not_matter(tmp_path):
    options = ({"width": 8, "blocks_per_stage": 1}, {"blocks_per_stage": 1, "width": 8}, {"width": 8})
    runs = [fake_run("sl3_resnet_64", seed, 0.5, options=given) for seed, given in enumerate(options)]
    rows = make_rows(Published(tmp_path / str(run.seed), run, 0.5, None) for run in runs)
    assert [list(row.accuracies) for row in rows] == [[0, 1], [2]]
    assert len(one_of_each(rows)) == 2


def test_runs_with_other_splits_are_separate_rows(tmp_path):
    """They are tested, or their epochs compared, on other images; without a drawn split, its seed has no effect."""
    drawn = "20 % of each class are the test split (seed {})"
    notes = ((0, drawn), (0, drawn), (5, drawn), (5, "test/ is the test split"))
    runs = [
        fake_run(
            "sl3_resnet_64",
            seed,
            0.5,
            source={"data": "images", "split_seed": split},
            data=DATA | {"note": note.format(split)},
        )
        for seed, (split, note) in enumerate(notes)
    ]
    rows = make_rows(Published(tmp_path / str(run.seed), run, 0.5, None) for run in runs)
    assert [list(row.accuracies) for row in rows] == [[0, 1, 3], [2]]
    text = to_markdown(rows, tmp_path)
    assert [row["recipe"] for row in tables(text)[0]] == ["fast, batch 64", "fast, batch 64, split seed 5"]
    assert all(f"test split (seed {seed})" in " ".join(text.split()) for seed in (0, 5))


def test_table_of_networks(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    networks, _ = tables(print_results(folder, capsys))
    # In the order of the papers' tables. Stored parameters and multiply-adds are from docs/networks.md, which lists
    # IGC-V2 and Xception with 100 classes: minus 90 columns of 257 and 141 weights.
    assert [list(row.values()) for row in networks] == [
        [
            *(
                "`xception_c35_d8`",
                "cifar10",
                "fast, batch 64, no flip",
                "2",
                "[0](xception_c35_d8_cifar10_seed0)",
            ),
            *(
                "71.25 %",
                "28.75 %",
                "-",
                "-",
                "-",
                f"{71430 - 90 * 141:,}",
                "9.5 M",
                "67.00 ± 0.29 % on CIFAR-100, 400 epochs (IGC-V2, table 4)",
            ),
        ],
        [
            *("`igcv2_c64_d8`", "cifar10", "fast, batch 64, no flip", "2", "[0](igcv2_c64_d8_cifar10_seed0)"),
            *("70.00 %", "30.00 %", "69.99 %", "98,765", "-", f"{75620 - 90 * 257:,}", "9.5 M"),
            "67.83 ± 0.35 % on CIFAR-100, 400 epochs (IGC-V2, table 4)",
        ],
        [
            *("`s_vggnet_32`", "cifar10", "fast, batch 64", "4"),
            ", ".join(f"[{seed}](s_vggnet_32_cifar10_seed{seed})" for seed in (0, 1, 2)),
            # (64.5 + 65.7 + 65.7) / 3
            *(
                "65.30 ± 0.69 % (64.50 to 65.70)",
                "34.70 ± 0.69 %",
                "-",
                "-",
                "-",
                "294,762",
                "26.2 M",
                "73.6 % on CIFAR-10, 200 epochs (ShardNet, table 1a)",
            ),
        ],
        [
            *("`sl_vggnet_32`", "cifar10", "fast, batch 64", "4"),
            ", ".join(f"[{seed}](sl_vggnet_32_cifar10_seed{seed})" for seed in (0, 1, 2)),
            *(
                "65.90 ± 0.46 % (65.40 to 66.30)",
                "34.10 ± 0.46 %",
                "65.90 % (seed 0; 66.00 % in Keras)",
                "1,234,567",
                "-",
                "298,858",
                "27.6 M",
            ),
            "74.7 % on CIFAR-10, 200 epochs (ShardNet, table 1a)",
        ],
    ]


def test_table_of_pairs(folder, capsys):
    _, pairs = tables(print_results(folder, capsys))
    assert [list(row.values()) for row in pairs] == [
        [
            *("`igcv2_c64_d8` - `xception_c35_d8`", "2", "-1.25", "-1.25 (seed 0)", "+0.83 on CIFAR-100"),
            "against the paper, but one seed",
        ],
        [
            *("`sl_vggnet_32` - `s_vggnet_32`", "4"),
            *("+0.60", "+1.50 (seed 0), +0.60 (seed 1), -0.30 (seed 2)"),
            *("+1.1 on CIFAR-10", "within the spread of the seeds"),
        ],
    ]


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([0.1, 2], "as in the paper"),
        ([-0.1, -2], "against the paper"),
        ([0.1, -2], "within the spread of the seeds"),
        ([0.1, 0], "within the spread of the seeds"),
        ([0, 0], "within the spread of the seeds"),
        ([3], "as in the paper, but one seed"),
        ([-3], "against the paper, but one seed"),
        ([0], "no difference, but one seed"),
        ([], "no seed in common"),
    ],
)
def test_direction(differences, words):
    assert direction(differences) == words


def test_only_comparable_runs_are_paired(tmp_path):
    """Runs with other recipes, teachers, data, or options are not paired; equal options are shown with the pair."""
    dropped = {"options": {"dropout_rate": 0.1}}
    runs = [
        fake_run("sl_vggnet_32", 0, 0.5),
        fake_run("s_vggnet_32", 1, 0.5),
        fake_run("s_vggnet_32", 0, 0.5, override(SHORT, epochs=5)),
        fake_run("s_vggnet_32", 0, 0.5, data=DATA | {"name": "digits"}),
        fake_run("s_vggnet_32", 0, 0.5, data=DATA | {"shape": [48, 48, 3]}),
        fake_run("s_vggnet_32", 0, 0.5, data=DATA | {"class_names": list("abcdefghik")}),
        fake_run("s_vggnet_32", 0, 0.5, teacher="runs/large"),
        fake_run("s_vggnet_32", 0, 0.5, **dropped),
        fake_run("sl_vggnet_32", 0, 0.6, **dropped),
    ]
    folders = [tmp_path / str(number) for number in range(len(runs))]
    for folder, run in zip(folders, runs, strict=True):
        write_metrics(run, folder / "metrics.json")
    rows = make_rows(map(read_published, folders))
    assert len(rows) == 9
    as_named, with_options = compare(rows)
    assert (as_named.second.run.seed, as_named.differences) == (1, {})
    assert (with_options.first.run.options, with_options.differences) == (dropped["options"], {0: 10.0})
    assert [row.paper is None for row in rows] == [bool(row.run.options) for row in rows]
    table = to_markdown([as_named.first, as_named.second, with_options.first, with_options.second], tmp_path)
    assert "| `sl_vggnet_32` - `s_vggnet_32` | 4 | - | - | +1.1 on CIFAR-10 | no seed in common |" in table
    assert (
        "| `sl_vggnet_32` - `s_vggnet_32` dropout_rate=0.1 | 4 | +10.00 | +10.00 (seed 0) | +1.1 on CIFAR-10 |" in table
    )


def test_runs_of_another_training_program(tmp_path, capsys):
    """Changes to the training are shown in a separate row, which is not paired with runs of the recipe."""
    trainer = {"program": "a script", "device": "H200", "precision": "bfloat16", "changes": ["non-negative scales"]}
    write_metrics(fake_run("s_vggnet_32", 0, 0.6, trainer=trainer), tmp_path / "other_seed0" / "metrics.json")
    publish(tmp_path, fake_run("s_vggnet_32", 0, 0.5))
    publish(tmp_path, fake_run("sl_vggnet_32", 0, 0.7))
    text = print_results(tmp_path, capsys)
    networks, ((_, _, points, *_), *others) = (
        list(map(lambda row: list(row.values()), table)) for table in tables(text)
    )
    assert sorted(row[2] for row in networks) == [
        "fast, batch 64",
        "fast, batch 64",
        "fast, batch 64, non-negative scales",
    ]
    assert (points, others) == ("+20.00", [])
    note = 'Networks with the recipe fast whose command ends in "# closest equivalent" were not trained by `fit` but '
    note += "by a script, on one H200, in bfloat16; "
    assert note in " ".join(text.split())
    assert text.count("--output runs/other_seed0  # closest equivalent") == 1


def test_notes(folder, capsys):
    text = " ".join(print_results(folder, capsys).split())
    assert text.count("`cifar10` is images.") == 1
    assert "after 400 (IGC-V2), 200 (ShardNet) epochs; the runs here have 2 to 4." in text


def fit_arguments(line):
    """Parses a shell command line with the parser of `sharenets`."""
    words = shlex.split(line)
    return make_parser(LINE).parse_args(words[words.index("fit") :])


def test_commands(folder, capsys):
    block = re.search(r"```\n(.*?)```", print_results(folder, capsys), re.S)[1]
    *_, with_xception, with_igcv2, with_s, with_sl = block.splitlines()
    begin = "sharenets fit --model"
    assert with_igcv2 == (
        f"{begin} igcv2_c64_d8 --data cifar10 --recipe fast --epochs 2 --batch-size 64 --no-flip --seed 0 "
        "--output runs/igcv2_c64_d8_cifar10_seed0"
    )
    assert with_xception == with_igcv2.replace("igcv2_c64_d8", "xception_c35_d8")
    assert with_sl == (
        f"for seed in 0 1 2; do {begin} sl_vggnet_32 --data cifar10 --recipe fast --epochs 4 --batch-size 64 "
        "--seed $seed --output runs/sl_vggnet_32_cifar10_seed$seed; done"
    )
    assert with_s == with_sl.replace("sl_vggnet_32", "s_vggnet_32")


def test_command_reproduces_the_record():
    """Fields of all types survive the parser of `fit`."""
    changes = {"milestones": (0.25, 0.5), "nesterov": False, "label_smoothing": 0.1, "schedule": "step", "pad": 2}
    recipe = override(find_recipe("fast"), **changes)
    options = {"width": (16, 32), "stem": "imagenet", "label": "3"}
    source = {"data": "my images", "data_dir": None, "input_shape": [8, 8, 1], "skip_unreadable": True}
    run = fake_run(
        *("hscnet_m32_g4_r2_b1_a2", 3, 0.5, recipe),
        **{"options": options, "source": source, "jit_compile": False, "deterministic": True, "backend": "jax"},
    )
    line = fit_command_line(run)
    assert line.startswith("KERAS_BACKEND=jax sharenets fit ")
    args = fit_arguments(line)
    assert chosen_recipe(args, args.model, "images") == recipe
    assert args.model_option == ["width=(16, 32)", "stem=imagenet", "label='3'"]
    given = (args.data, args.data_dir, args.input_shape, args.skip_unreadable, args.jit_compile, args.deterministic)
    assert given == ("my images", None, [8, 8, 1], True, "false", True)
    empty = fit_arguments(fit_command_line(fake_run("s_vggnet_32", 0, 0.5, override(recipe, milestones=()))))
    assert chosen_recipe(empty, "s_vggnet_32", "cifar10") == override(recipe, milestones=())


def test_update_keeps_surrounding_text(folder, capsys):
    page = folder / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert print_results(folder, capsys, "--update", str(page)) == ""
    before, after = page.read_text().split(BEGIN)
    text, after = after.split(END)
    assert (before, after) == ("before\n", "\nafter\n")
    links = re.findall(r"\]\((.*?)\)", text)
    assert len(links) == 8 + 1
    assert all((page.parent / link).resolve().exists() for link in links)
    image = PIL.Image.open(folder / "results.png")
    assert np.asarray(image).std() > 0


def test_milliseconds_of_int8_files(folder, capsys):
    """Times from `benchmark --json` appear in a column, in a separate figure, and as values."""
    measured = {
        f"runs/{model}_cifar10_seed0/export/int8.tflite": {"median_ms": median, "spread_ms": 0.1, "threads": 2}
        for model, median in (("sl_vggnet_32", 1.234), ("igcv2_c64_d8", 0.5))
    }
    machine = {"processor": "a processor", "versions": {"ai-edge-litert": "2.1"}}
    times = {"machine": machine, "files": [{"path": path, **each} for path, each in measured.items()]}
    files.write_json(folder / "times.json", times)
    text = print_results(
        folder, capsys, "--benchmark", str(folder / "times.json"), "--json", str(folder / "values.json")
    )
    networks, _ = tables(text)
    expected = {"`sl_vggnet_32`": "1.23", "`s_vggnet_32`": "-", "`igcv2_c64_d8`": "~0.500", "`xception_c35_d8`": "-"}
    assert {row["network"]: row["ms"] for row in networks} == expected
    assert f"with 2 threads (a processor, LiteRT 2.1). {UNSTEADY_NOTE}" in " ".join(text.split())
    assert "results_ms.png" in text
    values = json.loads((folder / "values.json").read_text())["networks"]
    assert [each["int8_ms"] for each in values if each["int8_ms"]] == [0.5, 1.234]
    assert np.asarray(PIL.Image.open(folder / "results_ms.png")).std() > 0
    files.write_json(folder / "times.json", {"machine": machine, "files": []})
    assert main(["results", str(folder / "s_vggnet_32_cifar10_seed0"), "--benchmark", str(folder / "times.json")]) == 2
    assert "times.json is not what `benchmark --json` writes: ValueError" in capsys.readouterr().err


def edit_record(folder, **changes):
    path = folder / "s_vggnet_32_cifar10_seed0" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: edit_record(folder, state="stopped"),
            "The run in {}/s_vggnet_32_cifar10_seed0 is not finished: it is",
        ),
        (
            lambda folder: edit_record(folder, recipe={"epoch": 1}),
            "{}/s_vggnet_32_cifar10_seed0/metrics.json is not the record",
        ),
        (
            lambda folder: (folder / "a_seed0").mkdir(),
            "There is no {}/a_seed0/metrics.json: {}/a_seed0 contains no run.",
        ),
        (
            lambda folder: edit_record(folder, seed=2),
            "{}/s_vggnet_32_cifar10_seed0 and {}/s_vggnet_32_cifar10_seed2 are the same run: s_vggnet_32 with seed 2.",
        ),
        (
            lambda folder: (folder / "sl_vggnet_32_cifar10_seed0" / "export" / "export.json").write_text("{}"),
            "{}/sl_vggnet_32_cifar10_seed0/export/export.json is not what `export` writes: KeyError",
        ),
        (lambda folder: edit_record(folder, model="vgg"), "`name` (='vgg') is not a known model."),
        (
            lambda folder: edit_record(folder, recipe=json.loads(json.dumps(vars(SHORT))) | {"name": "own"}),
            "The recipe 'own' of s_vggnet_32 is not one of `recipes`.",
        ),
        (lambda folder: (folder / "page.md").write_text("no markers"), f"The text must have the markers {BEGIN} and"),
    ],
)
def test_bad_arguments(folder, spoil, message, capsys):
    (folder / "page.md").write_text(f"{BEGIN}{END}")
    spoil(folder)
    page = (folder / "page.md").read_text()
    folders = map(str, sorted(folder.glob("*_seed*")))
    assert main(["results", *folders, "--update", str(folder / "page.md")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message.replace('{}', str(folder))}")
    assert not (folder / "results.png").exists()
    assert (folder / "page.md").read_text() == page


def test_runs_in_different_folders(folder, capsys):
    (folder / "more" / "x").mkdir(parents=True)
    assert main(["results", str(folder / "s_vggnet_32_cifar10_seed0"), str(folder / "more" / "x")]) == 2
    assert "must be in the same folder." in capsys.readouterr().err


def test_figure_shows_each_network_once():
    """It shows the run closest to the recipe with the usual 15 epochs, or else the longest, regardless of accuracy."""
    recipe = find_recipe("fast")
    runs = {
        "short": fake_run("resnet_8", 0, 0.9, override(recipe, epochs=4)),
        "changed": fake_run("resnet_8", 0, 0.9, override(recipe, flip=False, pad=1)),
        "usual": fake_run("resnet_8", 0, 0.5, recipe),
        "longer": fake_run("resnet_8", 0, 0.9, override(recipe, epochs=30)),
        "narrow": fake_run("resnet_8", 0, 0.5, override(recipe, epochs=4), options={"width": 8}),
        "narrow, longer": fake_run("resnet_8", 0, 0.5, override(recipe, epochs=6), options={"width": 8}),
        "hardly trained": fake_run("sl3_resnet_64", 0, 0.9, override(recipe, epochs=3)),
    }
    rows = make_rows(Published(name, run, run.test_accuracy, None) for name, run in runs.items())
    assert len(rows) == 7
    assert [row.published[0].folder for row in one_of_each(rows)] == ["usual", "narrow, longer"]


def test_pairs_follow_the_papers():
    for winner, other in comparisons():
        first, second = paper_result(winner, "cifar10"), paper_result(other, "cifar10")
        assert first.data != second.data or first.accuracy > second.accuracy
    # HGC prints error rates: 6.64 - 6.36 points.
    assert (
        f"{paper_result('hgcnet_42_g4', 'cifar10').accuracy - paper_result('sgcnet_42_g4', 'cifar10').accuracy:+}"
        == "+0.28"
    )
    assert paper_result("resnet_8", "cifar10") is None


def test_outlier_is_not_plotted(monkeypatch):
    said, named = [], []
    monkeypatch.setattr(plots, "caption", lambda figure, text: said.append(text))
    monkeypatch.setattr(plots, "name_points", lambda *given: named.append((*given[1].get_ylim(), given[-1])))
    monkeypatch.setattr(plots, "png", lambda figure, dpi: b"")
    points = {name: (1000, [accuracy]) for name, accuracy in (("a", 0.70), ("b", 0.71), ("c", 0.72), ("d", 0.73))}
    plots.draw_accuracies(points | {"bad": (2000, [0.1])}, "bytes")
    assert said == ["not shown: bad at 2,000 (bytes), 10.0%"]
    ((low, high, names),) = named
    assert names == list(points)
    assert 0.69 < low < 0.70 < 0.73 < high < 0.74
