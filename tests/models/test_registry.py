import inspect

import pytest

import keras_sharenets as ksn
from keras_sharenets.models.registry import VARIANTS


def test_names_are_sorted_and_filtered_by_shell_patterns():
    names = ksn.list_models()
    assert names == sorted(names)
    assert ksn.list_models("hscnet_m1?8_g16_r4*") == ["hscnet_m128_g16_r4_a2"]
    assert ksn.list_models("nothing*") == []


def test_overrides_reach_the_factory():
    model = ksn.create_model("hscnet_m32_g4_r2_b1_a2", num_classes=7, input_shape=(16, 8, 1), name="mine")
    assert model.name == "mine"
    assert model.input_shape == (None, 16, 8, 1)
    assert model.output_shape == (None, 7)


def test_unknown_name_suggests_similar_names():
    with pytest.raises(ValueError, match=r"`name` \(='hscnet_m128_g16_r8'\) .* 'hscnet_m128_g16_r8_a2'"):
        ksn.create_model("hscnet_m128_g16_r8")
    with pytest.raises(ValueError, match=r"Did you mean 'resnet_8'"):
        ksn.create_model("resnet8")


def test_name_without_similar_names_points_to_the_list():
    with pytest.raises(ValueError, match=r"`name` \(='zzz'\) is not a known model\. `list_models\(\)` lists all\."):
        ksn.create_model("zzz")


def test_unknown_argument():
    with pytest.raises(TypeError, match="depth"):
        ksn.create_model("hscnet_m32_g4_r2_b1_a2", depth=3)


def test_documentation_without_the_factory():
    variants = VARIANTS.values()
    assert {each.factory_name: each.factory_documentation for each in variants} == {
        each.factory_name: inspect.getdoc(each.factory) for each in variants
    }
