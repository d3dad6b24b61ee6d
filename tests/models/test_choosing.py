"""Networks proposed for a task and a budget."""

import json
import shlex

import numpy as np
import pytest

from keras_sharenets import profile
from keras_sharenets.cli import LINE, main
from keras_sharenets.cli.command import make_parser
from keras_sharenets.models import choosing, create_model, list_trained
from keras_sharenets.models.choosing import choose
from keras_sharenets.timing import UNSTEADY_NOTE, Timing


def test_pretrained_networks_come_first_with_their_recorded_values():
    within = [each for each in list_trained() if each.int8_bytes <= 90_000]
    found = choose(10, (32, 32, 3), max_bytes=90_000, limit=len(within) + 2)
    expected = sorted(within, key=lambda each: -each.test_accuracy)
    assert [each.label for each in found[: len(expected)]] == [each.label for each in expected]
    for proposal, record in zip(found, expected, strict=False):
        assert (proposal.int8_bytes, proposal.test_accuracy) == (record.int8_bytes, record.test_accuracy)
        assert not proposal.estimated
        assert shlex.split(proposal.command)[2:4] == ["--from", record.label]
    rest = found[len(expected) :]
    assert len(rest) == 2
    assert all(each.estimated and each.test_accuracy is None and each.int8_bytes <= 90_000 for each in rest)
    sizes = [each.int8_bytes for each in rest]
    assert sizes == sorted(sizes, reverse=True)
    for each in found:
        assert make_parser(LINE, ("fit",)).parse_args(shlex.split(each.command)[1:]).data == "FOLDER"
    assert len({shlex.split(each.command)[-1] for each in found}) == len(found), "a folder for each"


def test_other_classes_and_images_are_counted():
    (found,) = choose(np.int64(3), (24, 24, 3), max_bytes=85_000, limit=1)
    record = next(each for each in list_trained() if each.label == found.label)
    counts = profile(create_model(found.model, num_classes=3, input_shape=(24, 24, 3), **found.options))
    assert (found.stored_parameters, found.multiply_adds) == (counts.stored_parameters, counts.multiply_adds)
    assert found.int8_bytes == record.int8_bytes - record.stored_parameters + counts.stored_parameters
    assert found.estimated


def test_a_small_budget_for_large_images_leaves_networks_for_small_ones():
    (found,) = choose(2, (96, 96, 3), max_bytes=48_000, limit=1)
    assert (found.label, found.trained_on) == ("xception_c35_d8 width=28 shortcut=pairs", "cifar10")
    assert found.int8_bytes <= 48_000


def test_the_command_answers_as_a_table_and_as_data(capsys):
    assert main(["choose", "--classes", "10", "--max-bytes", "90000", "--limit", "2", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert main(["choose", "--classes", "10", "--max-bytes", "90000", "--limit", "2"]) == 0
    out = capsys.readouterr().out
    assert [each["command"] for each in data] == out.splitlines()[-2:]
    assert all(f"{each['int8_bytes']:,}" in out for each in data)
    assert [each["milliseconds"] for each in data] == [None, None]


def test_an_unsteady_time_is_marked(capsys, monkeypatch):
    monkeypatch.setattr(choosing, "_measure", lambda *given: (50_000, Timing(1.0, 0.2)))
    assert main(["choose", "--classes", "10", "--max-ms", "2", "--limit", "1"]) == 0
    out = capsys.readouterr().out
    assert "  ~1.00  " in out
    assert UNSTEADY_NOTE in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--classes", "1"], "`num_classes` (=1) must be an integer of at least 2."),
        (["--classes", "0"], "`num_classes` (=0) must be an integer of at least 2."),
        (["--classes", "3", "--max-bytes", "2000"], "No named network fits `--max-bytes` (=2000)"),
        (["--classes", "3", "--max-ms", "0"], "`max-ms` (=0.0) must be a number above 0."),
        (
            ["--classes", "3", "--input-shape", "32", "32", "2"],
            "must be `(height, width, channels)` with 1 or 3",
        ),
    ],
)
def test_errors_are_one_line(words, message, capsys):
    assert main(["choose", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.slow
def test_milliseconds_are_measured():
    (found,) = choose(10, (32, 32, 3), max_milliseconds=1000.0, limit=1)
    assert 0 < (found.milliseconds or 0) < 1000
    assert not found.estimated
