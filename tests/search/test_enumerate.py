import itertools
import json
import random
import re
import time

import pytest

import keras_sharenets as ksn
from keras_sharenets.cli.command import make_parser
from keras_sharenets.search import enumeration
from keras_sharenets.search.spaces import NAMES, find_space
from keras_sharenets.search.spaces.space import count, points
from tuning.cli import COMMANDS, LINE, main

DIGITS = ["--input-shape", "8", "8", "1"]


def _run(capsys, *arguments):
    assert main(["enumerate", *arguments]) == 0
    *blocks, summary = capsys.readouterr().out.strip().split("\n\n")
    return [re.split(" {2,}", line.strip()) for line in (blocks[0] if blocks else "").splitlines()], summary


def _number(text):
    return int(text.replace(",", ""))


def test_networks_within_the_budget_are_listed(capsys):
    space = find_space("sharesnet")
    counts = [count(space, point, input_shape=(8, 8, 1)) for point in points(space, (8, 8, 1))]
    # A limit that a network meets exactly.
    limit = sorted(entry.stored_parameters for entry in counts)[len(counts) // 2]
    within = [entry.stored_parameters for entry in counts if entry.stored_parameters <= limit]
    words = ("--space", "sharesnet", "--max-parameters", str(limit), "--limit", "all", *DIGITS)
    (head, *rows), summary = _run(capsys, *words)
    assert head[0] == "parameters"
    assert [_number(row[0]) for row in rows] == sorted(within, reverse=True)
    assert summary == f"{len(counts)} networks considered, {len(within)} within the budget"


def test_networks_are_sorted_by_size_with_column_notes(capsys):
    assert main(["enumerate", "--space", "sharesnet", "--max-parameters", "100000", *DIGITS]) == 0
    table, notes, summary = capsys.readouterr().out.strip().split("\n\n")
    head, *rows = (re.split(" {2,}", line.strip()) for line in table.splitlines())
    stored = [_number(row[0]) for row in rows]
    assert len(stored) == 20
    assert stored == sorted(stored, reverse=True)
    every = [
        count(find_space("sharesnet"), point, input_shape=(8, 8, 1))
        for point in points(find_space("sharesnet"), (8, 8, 1))
    ]
    assert stored[0] == max(each.stored_parameters for each in every if each.stored_parameters <= 100_000)
    assert [line.partition(":")[0] for line in notes.splitlines() if not line.startswith("  ")] == head
    assert summary.endswith("the first 20 listed")


@pytest.mark.parametrize("name", NAMES)
def test_every_column_is_explained(name):
    space = find_space(name)
    head = re.split(" {2,}", enumeration.table(space, []).strip())
    notes = enumeration.column_notes(space)
    assert [note.partition(":")[0] for note in notes] == head
    for note in notes:
        assert note.count("(") == note.count(")"), note


def test_argument_with_different_meanings_per_network():
    depth = next(note for note in enumeration.column_notes(find_space("sharesnet")) if note.startswith("depth:"))
    assert re.findall(r"^  in (\w+): int", depth, re.M) == ["preact_resnet", "wide_resnet", "resnet"]


def test_two_limits(tmp_path):
    arguments = ["--max-parameters", "20000", "--max-multiply-adds", "300000", "--json", str(tmp_path / "found.json")]
    assert main(["enumerate", "--space", "shardnet", "--classes", "100", *arguments, *DIGITS]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    pairs = [(network["stored_parameters"], network["multiply_adds"]) for network in found["networks"]]
    space, sizes = find_space("shardnet"), {"input_shape": (8, 8, 1), "num_classes": 100}
    every = [count(space, point, **sizes) for point in points(space, (8, 8, 1))]
    within = [entry for entry in every if entry.stored_parameters <= 20_000 and entry.multiply_adds <= 300_000]
    assert sorted(pairs) == sorted((entry.stored_parameters, entry.multiply_adds) for entry in within)
    assert (found["considered"], found["within_budget"]) == (len(every), len(within))
    assert (found["num_classes"], found["input_shape"]) == (100, [8, 8, 1])
    network = found["networks"][0]
    model = ksn.create_model(network["name"], num_classes=100, input_shape=(8, 8, 1), **network["arguments"])
    assert ksn.profile(model).stored_parameters == network["stored_parameters"]


@pytest.mark.slow
def test_10000_networks_in_30_seconds(capsys):
    started = time.perf_counter()
    rows, summary = _run(capsys, "--space", "igcv2", "--max-parameters", "200000", "--limit", "7")
    assert time.perf_counter() - started < 30
    considered, within = (_number(summary.split(text)[0].split()[-1]) for text in (" networks", " within"))
    assert considered > 10_000
    assert 7 < within < considered
    assert len(rows) == 8
    assert summary.endswith("the first 7 listed")


@pytest.mark.slow
def test_counts_match_50_built_networks(tmp_path):
    path = tmp_path / "found.json"
    assert main(["enumerate", "--space", "igcv2", "--max-parameters", "200000", "--json", str(path)]) == 0
    for network in random.Random(0).sample(json.loads(path.read_text())["networks"], 50):
        profile = ksn.profile(ksn.create_model(network["name"], num_classes=10, **network["arguments"]))
        counted = network["stored_parameters"], network["multiply_adds"]
        assert counted == (profile.stored_parameters, profile.multiply_adds), network


def test_sorting_by_several_columns():
    space = find_space("igcv2")
    some = itertools.islice(points(space, (32, 32, 3)), 0, 40_000, 100)
    found = [(point, count(space, point, input_shape=(32, 32, 3), num_classes=10)) for point in some]
    listed = enumeration.ordered(space, found, ["-density", "multiply_adds", "-width"])
    keys = [(-counts.density, counts.multiply_adds, -point["width"]) for point, counts in listed]
    assert keys == sorted(keys)
    assert len(keys) == len(found) == 400
    assert all(len(set(column)) > 1 for column in zip(*keys, strict=True))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "shardnet" else pytest.mark.slow) for name in NAMES]
)
def test_every_argument_is_a_column(name, capsys):
    columns = list(dict.fromkeys(choice.argument for choice in find_space(name).choices))
    (head, *rows), _ = _run(capsys, "--space", name, "--sort", ",".join(columns), "--limit", "3", *DIGITS)
    titles = [title.strip() for title in head if title]
    assert titles[-len(columns) :] == columns
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "hsc"], "`space` (='hsc') must be one of 'hscnet'"),
        (["--space", "hscnet", "--sort", "density"], "`sort` (='density') must be one of 'stored_parameters'"),
        (["--space", "hscnet", "--max-parameters", "0"], "`max_parameters` (=0) must be a positive integer"),
        (["--space", "hscnet", "--limit", "0"], "`limit` (=0) must be"),
        (["--space", "hscnet", "--classes", "0"], "`classes` (=0) must be"),
        (["--space", "hscnet", "--input-shape", "2", "8", "1"], "`input_shape` (=(2, 8, 1)) must be"),
        (["--space", "hscnet", "--max-parameters", "1", "--json", "/dev/null/found.json"], "/dev/null"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    assert main(["enumerate", *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert message in output.err
    assert output.err.count("\n") == 1


def test_nothing_within_the_budget(capsys):
    rows, summary = _run(capsys, "--space", "shardnet", "--max-parameters", "10")
    assert rows == []
    assert summary.endswith("networks considered, 0 within the budget")


@pytest.mark.parametrize("command", COMMANDS)
def test_example_in_help_is_valid(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    example = capsys.readouterr().out.partition("example:\n  python -m tuning ")[2]
    assert make_parser(LINE).parse_args(example.split()).command == command
