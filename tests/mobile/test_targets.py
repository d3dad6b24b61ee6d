"""Defaults of export targets, and explicit arguments that override them."""

import math
import re

import keras
import pytest
from mobile_networks import NAMES, convert

import keras_sharenets as ksn
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.mobile import describe_tflite, export_tflite
from keras_sharenets.mobile.export.conversion import npu_bytes
from keras_sharenets.mobile.export.representative_data import synthetic_images
from keras_sharenets.mobile.inspect import file
from keras_sharenets.mobile.inspect.arena import read_plan
from keras_sharenets.targets import TARGETS, choose

UNSAID = dict.fromkeys(("quantization", "prefer", "input_type", "output_type"))
# As observed: MediaPipe and LiteRT.js do not accept int8; Vela and microcontrollers accept nothing else.
TAKEN = {
    "phone": ("uint8", "uint8"),
    "browser": ("uint8", "float32"),
    "microcontroller": ("int8", "int8"),
    "npu": ("int8", "int8"),
    "gpu": ("float32", "float32"),
}


@pytest.mark.parametrize("target", TAKEN)
def test_file(target, trained, digits, tmp_path):
    path, images = tmp_path / "net.tflite", digits[0][:32].astype("float32")
    report = export_tflite(trained, path, representative_data=images, class_names=NAMES, target=target)
    description = describe_tflite(path)
    ends = description["inputs"][0]["dtype"], description["outputs"][0]["dtype"]
    assert ends == TAKEN[target] == (report.input_type, report.output_type)
    assert report.prefer == TARGETS[target].prefer
    assert ("float16" in file.constant_bytes(file.parse(path.read_bytes()))) == (target == "gpu")
    assert bool(read_plan(file.parse(path.read_bytes()))) == (target == "microcontroller")


def test_explicit_arguments_take_precedence():
    said = {"quantization": "int8", "prefer": "speed", "input_type": "float32", "output_type": "uint8"}
    assert choose("microcontroller", **said) == said
    assert choose(None, **UNSAID) == UNSAID
    for target in (None, "phone"):
        assert choose(target, **UNSAID | {"quantization": "float32"})["quantization"] is None
    layers = {"stem": "float32", "*": "dynamic_int8"}
    assert choose(None, **UNSAID | {"quantization": layers})["quantization"] == {"stem": None, "*": "dynamic_int8"}
    # Float files have float inputs and outputs for every target.
    ends = choose("phone", **UNSAID | {"quantization": "float16"})
    assert (ends["input_type"], ends["output_type"]) == (None, None)


# As observed with tflite-micro 0.dev20261023, Vela 5.2, and LiteRT.js 2.5.3; see docs/clients.md.
@pytest.mark.parametrize(
    ("target", "name", "value", "program"),
    [
        ("microcontroller", "quantization", "float16", "LiteRT for Microcontrollers"),
        ("microcontroller", "quantization", "dynamic_int8", "LiteRT for Microcontrollers"),
        ("microcontroller", "quantization", {"stem": None, "*": "dynamic_int8"}, "LiteRT for Microcontrollers"),
        ("npu", "quantization", "float16", "Vela"),
        ("browser", "input_type", "int8", "LiteRT.js"),
    ],
)
def test_arguments_unsupported_by_the_target(target, name, value, program):
    message = (
        rf"`{name}` \(={re.escape(repr(value))}\) does not work with `target` \(='{target}'\): {program} rejects"
        " such files"
    )
    with pytest.raises(ValueError, match=message):
        choose(target, **UNSAID | {name: value})


def test_unknown_target(trained, tmp_path):
    with pytest.raises(ValueError, match=r"`target` \(='toaster'\) must be one of .*'microcontroller'"):
        export_tflite(trained, tmp_path / "net.tflite", target="toaster")


# The file that was smaller after Vela 5.2 for ethos-u55-128; its bytes, and those of the other file.
SMALLER = [
    ("hscnet_m32_g4_r2_b1_a2", "speed"),  # 91,264 and 103,824
    ("igcv2_c64_d8", "speed"),  # 140,880 and 219,248
    ("hgcnet_42_g4", "size"),  # 463,184 and 566,208
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "smaller"), SMALLER)
def test_smaller_file_after_vela(name, smaller):
    keras.utils.set_random_seed(0)
    shape = (32, 32, 3)
    model, images = ksn.create_model(name, input_shape=shape, num_classes=10), synthetic_images(shape)
    randomize_batchnorm(model)
    data = {
        prefer: convert(model, images[:2], quantization="int8", prefer=prefer) for prefer in ("size", "speed", "npu")
    }
    assert data["npu"] == data[smaller]
    assert data["size"] != data["speed"]


def test_npu_bytes_estimate():
    """Constants, and a fixed cost per operator and per group of a convolution."""
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(8, 3, groups=2)(inputs)
    model = keras.Model(inputs, keras.layers.Flatten()(keras.layers.Conv2D(2, 1)(x)))
    parsed = file.parse(convert(model))
    constants = 4 * (math.prod((3, 3, 2, 8)) + 8 + math.prod((8, 2)) + 2) + 4 * 2
    assert sum(file.constant_bytes(parsed).values()) == constants
    operators = len(file.operators(parsed))
    assert npu_bytes(parsed) == constants + 700 * (operators + 3)
