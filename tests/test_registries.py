"""What a named network and a family must have, told by name where something is missing."""

import pytest
from harness import without_weights

import keras_sharenets as ksn
from keras_sharenets.models.registry import VARIANTS

WITH_BASELINE = {name: variant.unshared for name, variant in VARIANTS.items() if variant.unshared}


def _key(variant, **overrides):
    return variant.factory, sorted({**variant.arguments, **overrides}.items(), key=str)


def test_variants_name_the_network_that_shares_nothing_as_their_unshared_baseline():
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
