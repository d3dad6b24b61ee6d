"""Required parts of a family, layer, search space and recipe; failures name the missing parts."""

import csv
import pathlib
import re

import pytest
from harness import without_weights

import keras_sharenets as ksn
from keras_sharenets.mobile.graph.rules import RULES
from keras_sharenets.models.registry import FAMILIES, VARIANTS, own_arguments
from keras_sharenets.models.variant import OPTIONAL, Family, Variant
from keras_sharenets.search.spaces import NAMES, find_space
from keras_sharenets.training.recipes.named import DEFAULTS, RECIPES

ROOT = pathlib.Path(__file__).parent.parent
NETWORKS = (ROOT / "docs" / "networks.md").read_text()
with (ROOT / "tests" / "data" / "model_table.csv").open() as table:
    SPECIFIED = {row["name"] for row in csv.DictReader(table)}
# The first two are removed from the graph before lowering; a whitened network raises an error.
WITHOUT_A_RULE = {"QuantizedKernels", "FakeQuantize", "Whitening"}
SEARCHED = {network for space in map(find_space, NAMES) for network in space.networks.values()}
WITH_BASELINE = {name: variant.unshared for name, variant in VARIANTS.items() if variant.unshared}


def _key(variant, **overrides):
    return variant.factory, sorted({**variant.arguments, **overrides}.items(), key=str)


def test_variants_name_their_unshared_baseline():
    unshared = {str(_key(variant)): name for name, variant in VARIANTS.items()}
    lacking = {
        name: unshared[str(_key(variant, share="none"))]
        for name, variant in VARIANTS.items()
        if variant.arguments.get("share", "none") != "none" and str(_key(variant, share="none")) in unshared
    }
    assert lacking == WITH_BASELINE


@pytest.mark.parametrize("name", ["sharesnet_50", "s_vggnet_32"])
def test_unshared_baseline_computes_as_much_and_stores_all_of_it(name):
    with without_weights():
        shared, baseline = (ksn.profile(ksn.create_model(each)) for each in (name, VARIANTS[name].unshared))
    assert baseline.stored_parameters == baseline.effective_parameters > shared.stored_parameters


def _missing_parts_of_family(key):
    """The missing parts of a family, with their locations."""
    family = FAMILIES[key]
    name, smaller = family.representative
    test = ROOT / "tests" / "models" / f"test_{key}.py"
    if not test.is_file():
        yield f"{test.relative_to(ROOT)}"
    elif "check_model(" not in test.read_text():
        yield f"a call of `check_model` in {test.relative_to(ROOT)}"
    if name not in family.variants:
        yield f"a representative among its variants in keras_sharenets/models/registry.py ('{name}' is none)"
    elif not set(smaller) <= set(own_arguments(name)):
        yield f"the arguments {sorted(smaller)} of its representative in its factory"
    for factory_name in dict.fromkeys(variant.factory_name for variant in family.variants.values()):
        factory = getattr(ksn.models, factory_name, None)
        if factory_name not in ksn.models.__all__ or factory is None:
            yield f"`{factory_name}` in keras_sharenets/models/__init__.py"
        if "Reference: " not in (getattr(factory, "__doc__", None) or ""):
            yield f"the paper (`Reference: `) in the docstring of `{factory_name}`"
    for variant in family.variants:
        if f"\n| `{variant}` |" not in NETWORKS:
            yield f"'{variant}' in docs/networks.md: run `sharenets table --update docs/networks.md`"
        if not ksn.models.list_counts(variant):
            yield f"'{variant}' in keras_sharenets/models/counts.csv: run `python -m tools.count_networks`"
    if not set(family.variants) & SPECIFIED:
        yield "counts in tests/data/model_table.csv"
    has = {
        "recipe": any(pattern.startswith(f"{key}/") for pattern, _ in DEFAULTS),
        "search space": bool(SEARCHED & set(family.variants)),
        "unshared baseline": any(variant.unshared for variant in family.variants.values()),
    }
    for what in OPTIONAL:
        if not has[what] and not family.without.get(what):
            yield f"{what}, or the reason in `without` of its `Family`"
        if has[what] and what in family.without:
            yield f"truth in `without`: there is a {what}"
    for what in set(family.without) - set(OPTIONAL):
        yield f"'{what}' in OPTIONAL of keras_sharenets/models/variant.py"


@pytest.mark.parametrize("key", FAMILIES)
def test_family_is_complete(key):
    lacks = list(_missing_parts_of_family(key))
    assert not lacks, f"the family '{key}' lacks: {'; '.join(lacks)}"


def test_missing_parts_of_a_family_are_named(monkeypatch):
    monkeypatch.setattr(ksn.models, "_factory", _factory, raising=False)
    monkeypatch.setitem(FAMILIES, "made_up", Family("Paper", {"made_up_8": Variant("_factory", {})}, ("made_up", {})))
    assert list(_missing_parts_of_family("made_up")) == [
        "tests/models/test_made_up.py",
        "a representative among its variants in keras_sharenets/models/registry.py ('made_up' is none)",
        "`_factory` in keras_sharenets/models/__init__.py",
        "the paper (`Reference: `) in the docstring of `_factory`",
        "'made_up_8' in docs/networks.md: run `sharenets table --update docs/networks.md`",
        "'made_up_8' in keras_sharenets/models/counts.csv: run `python -m tools.count_networks`",
        "counts in tests/data/model_table.csv",
        *(f"{what}, or the reason in `without` of its `Family`" for what in OPTIONAL),
    ]


def _factory(**common):
    """A factory without a reference to a paper."""


def _missing_parts_of_layer(name):
    layer = getattr(ksn.layers, name)
    if not any(re.search(rf"\b{name}\(|\b{name},", path.read_text()) for path in (ROOT / "tests").rglob("test_*.py")):
        yield "a test under tests/layers"
    for words, pattern in (("shapes of inputs and outputs", "[Ss]hapes?\\b"), ("an example", ">>> ")):
        if not re.search(pattern, layer.__doc__ or ""):
            yield f"{words} in its docstring"
    lowered = hasattr(layer, "effective_kernel") or hasattr(layer, "reference_model") or set(RULES) & set(layer.__mro__)
    if not lowered and name not in WITHOUT_A_RULE:
        yield "a rule in keras_sharenets/mobile/graph/sharing_rules.py"


@pytest.mark.parametrize("name", ksn.layers.__all__)
def test_layer_is_complete(name):
    lacks = list(_missing_parts_of_layer(name))
    assert not lacks, f"the layer {name} lacks: {'; '.join(lacks)}"


@pytest.mark.parametrize("name", NAMES)
def test_space_is_complete(name):
    space = find_space(name)
    lacks = [f"the network '{model}' by name" for model in space.networks.values() if model not in VARIANTS]
    if f"`{name}`" not in (ROOT / "docs" / "search.md").read_text():
        lacks.append(f"`{name}` in docs/search.md")
    if f"def _{name}_shapes(" not in (ROOT / "tests" / "search" / "test_spaces.py").read_text():
        lacks.append(f"`_{name}_shapes` in tests/search/test_spaces.py")
    assert space.name == name
    assert not lacks, f"the space '{name}' lacks: {'; '.join(lacks)}"


def test_recipes_are_complete():
    page = (ROOT / "docs" / "training.md").read_text()
    used = {recipe for _, recipe in DEFAULTS}
    lacks = [
        f"{name}: a line in DEFAULTS of keras_sharenets/training/recipes/named.py, or a word in docs/training.md"
        for name in RECIPES
        if name not in used and name not in page
    ]
    lacks += [f"{recipe.name}: its source" for recipe in RECIPES.values() if not recipe.source]
    families = {pattern.partition("/")[0] for pattern, _ in DEFAULTS if "/" in pattern}
    lacks += [f"the family '{family}' of DEFAULTS" for family in families - set(FAMILIES)]
    assert not lacks
