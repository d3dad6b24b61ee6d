"""Every named network against the counts of the specification, and the README's tables against the networks."""

import csv
import pathlib

import pytest
from harness import without_weights

from keras_sharenets.analysis import catalogue
from keras_sharenets.models.registry import FAMILIES, PAPERS, VARIANTS

HERE = pathlib.Path(__file__).parent
README = (HERE.parent / "README.md").read_text()
with (HERE / "data" / "model_table.csv").open() as table:
    SPECIFIED = list(csv.DictReader(table))


def key(row):
    return row["name"], tuple(map(int, row["input_shape"].split("x"))), int(row["num_classes"])


@pytest.fixture(scope="module")
def built():
    """Every form of every named network, counted: `{(name, input_shape, num_classes): Entry}`."""
    with without_weights():
        listed = list(catalogue.entries(VARIANTS))
    return {(entry.name, entry.input_shape, entry.num_classes): entry for entry in listed}


@pytest.mark.parametrize("row", SPECIFIED, ids=lambda row: "-".join(map(str, key(row))).replace(" ", ""))
def test_count_of_the_specification(built, row):
    entry = built[key(row)]
    assert entry.family == row["family"]
    counts = {"trainable": entry.stored_parameters, entry.count_rule: entry.counted_parameters}
    assert counts[row["count_rule"]] == int(row["expected_parameters"])


# The ShardNet paper divides rounded figures: these are the printed parameters of the networks that it compares with.
PRINTED_BASELINES = {"sl3_resnet_256": 1.2e6, "sl5_resnet_256": 1.9e6}


def test_figures_and_ratios_of_the_papers(built):
    far = {entry.name: entry for entry in built.values() if abs(entry.difference or 0) > 0.03}
    assert set(far) == set(PRINTED_BASELINES)
    for name, baseline in PRINTED_BASELINES.items():
        assert abs(far[name].difference) < 0.05
        assert baseline / far[name].counted_parameters == pytest.approx(float(far[name].paper_figure[2:]), rel=0.03)


def test_tables_of_the_readme_are_those_of_the_code(built):
    table = catalogue.to_markdown(built.values())
    assert catalogue.replace_table(README, table) == README, "run `sharenets table --update README.md`"


def test_every_family_has_a_paper():
    assert list(PAPERS) == list(FAMILIES)


def test_difference_is_that_to_the_papers_figure():
    (small, _) = catalogue.entries(["hscnet_m192_g16_r8_a2_star"])
    assert (small.paper_figure, small.counted_parameters) == ("3.2M", 3_200_298)
    assert small.difference == pytest.approx(298 / 3_200_000)


def test_replacing_keeps_what_stands_around():
    text = f"before\n{catalogue.BEGIN}\nold\n{catalogue.END}\nafter\n"
    assert catalogue.replace_table(text, "new\n") == text.replace("old", "new")


@pytest.mark.parametrize("text", ["", f"{catalogue.BEGIN}", f"{catalogue.BEGIN}{catalogue.END}{catalogue.END}"])
def test_text_without_markers(text):
    with pytest.raises(ValueError, match="must have the markers"):
        catalogue.replace_table(text, "new\n")
