"""Every named network against the specified counts and the tables of `docs/networks.md`."""

import csv
import dataclasses
import fnmatch
import pathlib

import pytest
from harness import counts_only, slow_after

import keras_sharenets as ksn
from keras_sharenets import cli
from keras_sharenets.analysis import catalog
from keras_sharenets.models.counts import find_counts, stored_counts
from keras_sharenets.models.registry import FAMILIES, VARIANTS
from tools.count_networks import file_bytes, wanted

HERE = pathlib.Path(__file__).parent
PAGE = (HERE.parent / "docs" / "networks.md").read_text()
with (HERE / "data" / "model_table.csv").open() as table:
    SPECIFIED = list(csv.DictReader(table))


def key(row):
    return row["name"], tuple(map(int, row["input_shape"].split("x"))), int(row["num_classes"])


ROWS = {key(row): row for row in SPECIFIED}
# One network of most kinds. `make test-all` builds the others; the stored counts of all are compared here.
QUICK = [
    *("hscnet_m32_g4_r2_b1_a2", "se_hgcnet_42_g4"),
    *("xception_c35_d8", "igcv1_c48_d8", "igcv2_c64_d8", "plain_igcv2_ii_c100_k10"),
    *("wrn_28_10", "sharesnet_34", "vggnet", "s_vggnet_64", "sl2_vggnet_512", "sl3_resnet_64", "sl_resnet_50_256"),
    "resnet_8",
]
QUICK += [family.representative[0] for family in FAMILIES.values() if not set(family.variants) & set(QUICK)]
# The ShardNet paper divides rounded figures: these are the printed parameters of its baselines.
PRINTED_BASELINES = {"sl3_resnet_256": 1.2e6, "sl5_resnet_256": 1.9e6}


def configurations(names):
    return [(name, {}, each.input_shape, each.num_classes) for name in names for each in VARIANTS[name].configurations]


def labeled(configuration):
    name, options, shape, classes = configuration
    return name, str(dict(options)), tuple(shape), classes


ALL = {labeled(each): each for each in (*configurations(QUICK), *wanted())}


@counts_only
@pytest.mark.parametrize(
    "configuration",
    slow_after(len(configurations(QUICK)), [(each,) for each in ALL.values()]),
    ids=lambda each: "-".join(map(str, each)),
)
def test_stored_counts_are_those_of_the_networks(configuration):
    stored = find_counts(*configuration)
    assert catalog.count_network(*configuration) == dataclasses.replace(stored, int8_bytes=None)


def test_exactly_the_required_counts_are_stored():
    assert all(find_counts(*each) for each in ALL.values()), "run `python -m tools.count_networks`"
    assert len(ALL) == len(stored_counts())


def test_counts_of_the_specification():
    for entry in catalog.entries(VARIANTS):
        check_row(entry)
        check_paper(entry)


def check_row(entry):
    row = ROWS.get((entry.name, entry.input_shape, entry.num_classes))
    if row is None:
        return
    assert entry.family == row["family"]
    counts = {"trainable": entry.stored_parameters, entry.count_rule: entry.counted_parameters}
    assert counts[row["count_rule"]] == int(row["expected_parameters"])
    if row["convolutions"]:
        assert counts["conv_kernels_and_biases"] == int(row["convolutions"])
    if row["multiply_adds"]:
        assert entry.multiply_adds == int(row["multiply_adds"])


def test_every_network_is_in_the_list_as_it_is_built_by_default():
    listed = {counts.model: counts for counts in ksn.models.list_counts() if not counts.arguments}
    assert set(listed) == set(VARIANTS), "run `python -m tools.count_networks`"
    for name, counts in listed.items():
        first = VARIANTS[name].configurations[0]
        assert (counts.input_shape, counts.num_classes) == (first.input_shape, first.num_classes)
        assert 0 < counts.stored_parameters <= counts.effective_parameters


def test_files_in_the_list_have_the_bytes_of_trained_ones():
    for each in ksn.models.list_trained():
        counts = find_counts(each.model, each.options, each.input_shape, len(each.class_names))
        assert counts in ksn.models.list_counts(each.model)
        assert counts.stored_parameters == each.stored_parameters
        assert 0.9 < each.int8_bytes / counts.int8_bytes < 1.06, each.label


@pytest.mark.slow
@counts_only
@pytest.mark.parametrize("name", ["hscnet_m32_g4_r2_b1_a2", "igcv2_c64_d8", "sl3_resnet_64", "resnet_8"])
def test_files_in_the_list_are_those_of_the_exporter(name):
    (counts,) = (counts for counts in ksn.models.list_counts(name) if not counts.arguments)
    assert file_bytes(counts) == pytest.approx(counts.int8_bytes, rel=0.01)


def check_paper(entry):
    if entry.name not in PRINTED_BASELINES:
        assert abs(entry.difference or 0) <= 0.03
        return
    assert 0.03 < abs(entry.difference) < 0.05
    ratio = PRINTED_BASELINES[entry.name] / entry.counted_parameters
    assert ratio == pytest.approx(float(entry.published[2:]), rel=0.03)


def test_the_specification_names_existing_configurations():
    assert len(ROWS) == len(SPECIFIED) >= 117
    known = {
        (name, each.input_shape, each.num_classes)
        for name, variant in VARIANTS.items()
        for each in variant.configurations
    }
    assert set(ROWS) <= known
    others = set(VARIANTS) - {name for name, _, _ in ROWS}
    # Our variants and plain networks are counted block by block in tests/models, the others against the papers.
    ours = ("hscnet_m32_g4_r2_b1_a2", "hscnet_m64_g8_r4_b2_a2")
    patterns = (
        "plain_*",
        "*_one_path_*",
        "*_164_post",
        "wrn_28_[358]",
        "*vggnet_320",
        "mobilenet_v2_1_?*",
        "igcv3_d_1_?*",
    )
    printed = {name for pattern in patterns for name in fnmatch.filter(VARIANTS, pattern)}
    assert others == {*ours, *printed} - {name for name, _, _ in ROWS}


def test_tables_of_the_page_are_those_of_the_code():
    table = catalog.to_markdown(catalog.entries(VARIANTS))
    assert catalog.replace_table(PAGE, table) == PAGE, "run `sharenets table --update docs/networks.md`"


def test_a_page_is_updated_as_a_whole(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{catalog.BEGIN}\nold\n{catalog.END}\nafter\n")
    assert cli.main(["table", "sharesnet*", "--update", str(page)]) == 2
    assert "omit the pattern (='sharesnet*')" in capsys.readouterr().err
    assert cli.main(["table", "--update", str(page)]) == 0
    assert page.read_text() == "before\n" + PAGE[PAGE.index(catalog.BEGIN) : PAGE.index(catalog.END)] + (
        f"{catalog.END}\nafter\n"
    )


def test_every_family_has_a_paper():
    assert all(family.paper for family in FAMILIES.values())


def test_difference_is_that_to_the_papers_figure():
    (small,) = catalog.entries(["s_vggnet_64"])
    assert (small.published, small.counted_parameters) == ("37K", 36_928)
    assert small.difference == pytest.approx(-72 / 37_000)


def test_replacing_keeps_the_surrounding_text():
    text = f"before\n{catalog.BEGIN}\nold\n{catalog.END}\nafter\n"
    assert catalog.replace_table(text, "new\n") == text.replace("old", "new")


@pytest.mark.parametrize("text", ["", f"{catalog.BEGIN}", f"{catalog.BEGIN}{catalog.END}{catalog.END}"])
def test_text_without_markers(text):
    with pytest.raises(ValueError, match="must have the markers"):
        catalog.replace_table(text, "new\n")
