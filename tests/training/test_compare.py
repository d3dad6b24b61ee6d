"""`sharenets compare` with fake records of runs."""

import csv
import json

import pytest
from made_up_runs import publish_runs, tables

from keras_sharenets.cli.compare import TIMES
from keras_sharenets.mobile.inspect import benchmark
from keras_sharenets.timing import UNSTEADY_NOTE, Timing
from keras_sharenets.training.reports import plots
from trainers.cli import main


@pytest.fixture
def folder(tmp_path):
    return publish_runs(tmp_path)


def test_comparison(folder, tmp_path, capsys, monkeypatch):
    """Sizes, and differences of the recipes; the cell of a missing int8 file is empty in every format."""
    names = ["sl_vggnet_32_cifar10_seed0", "xception_c35_d8_cifar10_seed0"]
    record = folder / names[1] / "metrics.json"
    older = json.loads(record.read_text())
    for field in ("clip_norm", "ema"):
        del older["recipe"][field]
    del older["data"]["note"], older["version"]
    older["teacher"] = "runs/large"
    record.write_text(json.dumps(older))
    drawn = []
    monkeypatch.setattr(plots, "draw_accuracies", lambda *given: drawn.append(given) or b"sizes")
    monkeypatch.setattr(plots, "draw_comparison", lambda runs: b"epochs")  # Other tests draw the plots.
    monkeypatch.setattr(plots, "draw_comparison_parts", lambda runs: [b"loss", b"accuracy"])
    output = tmp_path / "compared"
    assert main(["compare", *(str(folder / name) for name in names), "--output", str(output)]) == 0
    assert capsys.readouterr().out.count(names[0]) == 3
    # The recipes differ in the number of epochs and in flipping.
    fields = {"epochs": ["4", "2"], "flip": ["True", "False"]}
    sizes, training, recipes = tables((output / "compare.md").read_text())
    assert [(row.pop("recipe field"), list(row.values())) for row in recipes] == list(fields.items())
    assert [row["int8 bytes"] for row in sizes] == ["1,234,567", ""]
    assert [row["run"] for row in training] == names
    assert [row["recipe"] for row in training] == ["fast (changed)", "fast (changed), teacher runs/large"]
    with (output / "compare.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {key: [line[f"recipe.{key}"] for line in lines] for key in fields} == fields
    assert sum(key.startswith("recipe.") for key in lines[0]) == len(fields)
    assert [line["int8_bytes"] for line in lines] == ["1234567", ""]
    assert [line["other_changes"] for line in lines] == ["", "teacher runs/large"]
    # From docs/networks.md, where xception has 100 classes instead of 10; it shares nothing.
    stored = 71430 - 90 * 141
    assert [line["parameters"] for line in lines] == ["298858", str(stored)]
    assert [row["effective parameters"] for row in sizes] == ["409,834", f"{stored:,}"]
    assert [f"{int(line['multiply_adds']) / 1e6:.1f}" for line in lines] == ["27.6", "9.5"]
    # One run has no int8 file, so the plot uses parameters.
    points = {names[0]: (298858, [0.66]), names[1]: (stored, [0.7125])}
    assert drawn == [(points, "stored parameters")]
    # A phone stacks the figures of the page; it would have to move a wide one sideways.
    page = (output / "index.html").read_text()
    assert page.count('<img alt="Epoch by epoch"') == 2
    assert '<div class="scroll"><img' not in page


def test_comparison_with_times(folder, tmp_path, capsys, monkeypatch):
    """Existing int8 files are measured; unsteady times are marked."""
    names = ["sl_vggnet_32_cifar10_seed0", "xception_c35_d8_cifar10_seed0"]
    for name in ("draw_accuracies", "draw_comparison"):
        monkeypatch.setattr(plots, name, lambda *given: b"drawn")
    monkeypatch.setattr(plots, "draw_comparison_parts", lambda runs: [])
    times = {str(folder / names[0] / "export" / "int8.tflite"): Timing(1.5, 0.2)}
    monkeypatch.setattr(benchmark, "compare_tflite", lambda paths: [times[str(path)] for path in paths])
    output = tmp_path / "compared"
    assert main(["compare", *(str(folder / name) for name in names), "--times", "--output", str(output)]) == 0
    sizes = tables((output / "compare.md").read_text())[0]
    assert [row["ms"] for row in sizes] == ["~1.50", ""]
    told = capsys.readouterr().out
    for text in (told, (output / "compare.md").read_text()):
        assert f"{TIMES} {UNSTEADY_NOTE}" in text
    place = folder / names[1]
    assert f"not measured, no int8 file: {place} (`sharenets export {place}` writes one)" in told
    runs = json.loads((output / "compare.json").read_text())["runs"]
    assert [(run["milliseconds"], run["unsteady"]) for run in runs] == [(1.5, True), (None, None)]


def test_runs_differ(tmp_path, capsys):
    assert main(["compare", str(tmp_path), f"{tmp_path}/", "--output", str(tmp_path / "new")]) == 2
    assert "must be different folders." in capsys.readouterr().err
