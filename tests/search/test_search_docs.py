"""The examples of docs/search.md."""

import ast
import json
import pathlib
import re
import shlex

from keras_sharenets import cli as sharenets
from keras_sharenets.cli.command import make_parser

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "search.md").read_text()


def test_python_examples_give_documented_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 2
    for block in blocks:
        names = {}
        exec(block, names)
        expression, promise = block.splitlines()[-1].split("  # ")
        assert eval(expression, names) == ast.literal_eval(promise)


def test_commands_are_valid():
    commands = [
        shlex.split(line.rstrip(" &"))
        for block in re.findall(r"```shell\n(.*?)```", PAGE, re.S)
        for line in block.splitlines()
    ]
    parsed = 0
    for words in commands:
        words = [word for word in words if not word.startswith("KERASTUNER_")]
        if words[0] == "sharenets":
            make_parser(sharenets.LINE).parse_args(words[1:])
            parsed += 1
    assert parsed == 9
    assert "sharenets create --from-trial runs/search/07 --output net.keras" in PAGE
    assert sharenets.main(["create", "--from-trial", "nowhere", "--output", "net.keras"]) == 2


def test_page_of_cifar10_search_matches_report():
    page, folder = (DOCS / "search_cifar10.md").read_text(), DOCS / "search_cifar10"
    report = json.loads((folder / "report.json").read_text())
    command = next(line for line in page.splitlines() if line.startswith("sharenets search"))
    asked, settings = vars(make_parser(sharenets.LINE).parse_args(shlex.split(command)[1:])), report["settings"]
    kept = ("space", "tuner", "trials", "seed", "validation", "max_parameters", "max_multiply_adds")
    assert {name: asked[name] for name in kept} == {name: settings[name] for name in kept}
    recipe = {name: settings["recipe"][name] for name in ("epochs", "batch_size")}
    assert {name: asked[name] for name in recipe} == recipe
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    for trial in report["trials"]:
        counts = (f"{trial[name]:,}" for name in ("parameters", "multiply_adds", "float32_bytes", "int8_bytes"))
        cells = [f"{trial['accuracy']:.4f}", str(trial["epochs"]), *counts, f"{trial['latency_ms']:.3g}"]
        assert " | ".join(cells) in lines[trial["id"]]
    winner = report["conclusion"]
    files = {entry["name"]: entry for entry in report["references"]} | {f"winner, trial {winner['winner']}": winner}
    for name, costs in files.items():
        assert f"| {costs['int8_bytes']:,} | {costs['latency_ms']:.3g} |" in lines[name]
    assert f"test accuracy {winner['test_accuracy']:.4f}" in page
    assert "JPEG" in settings["data"]["note"]
    assert settings["data"]["note"] in page
    assert all((DOCS / path).is_file() for path in re.findall(r"!\[.*?\]\((.*?)\)", page))
