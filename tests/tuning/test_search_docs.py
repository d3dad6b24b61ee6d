"""The examples of docs/search.md."""

import ast
import pathlib
import re
import shlex

from keras_sharenets import cli as sharenets
from trainers.cli import make_parser as trainers_parser
from tuning.cli import make_parser

PAGE = (pathlib.Path(__file__).parent.parent.parent / "docs" / "search.md").read_text()


def test_python_runs_and_gives_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    names = {}
    exec(block, names)
    expression, promise = re.search(r"^(hypermodel\.point.*?)  # (.*)$", block, re.M).groups()
    assert eval(expression, names) == ast.literal_eval(promise)


def test_commands_parse():
    commands = [
        shlex.split(line.rstrip(" &"))
        for block in re.findall(r"```shell\n(.*?)```", PAGE, re.S)
        for line in block.splitlines()
    ]
    parsed = 0
    for words in commands:
        words = [word for word in words if not word.startswith("KERASTUNER_")]
        if words[:3] == ["python", "-m", "tuning"]:
            make_parser().parse_args(words[3:])
        elif words[:3] == ["python", "-m", "trainers"]:
            trainers_parser().parse_args(words[3:])
        else:
            continue
        parsed += 1
    assert parsed == 7
    assert "sharenets create --from-trial runs/search/07 --output net.keras" in PAGE
    assert sharenets.main(["create", "--from-trial", "nowhere", "--output", "net.keras"]) == 2
