"""The measured networks and their contenders: baselines, reference implementations, and networks of other papers."""

from __future__ import annotations

import collections
import dataclasses
from typing import Any

import keras
import numpy as np

import keras_sharenets as ksn
from benchmarks.arguments import APPLICATIONS
from keras_sharenets.analysis.graph import calls, rebuild, trace
from keras_sharenets.analysis.randomization import random_images, randomize_batchnorm
from keras_sharenets.dtype_policies import in_policy
from keras_sharenets.layers import BatchNormalization, HighlySharedConv2D
from keras_sharenets.mobile.export.representative_data import synthetic_images
from keras_sharenets.models import find_variant
from keras_sharenets.models.registry import find_family
from keras_sharenets.ops import convolution

# For a 32x32 image, the last feature map of the named variant is 4x4; with later strides, it is 8x8, at four times the
# arithmetic.
LATER_STRIDES = {
    "mobilenet_v2_1_0": (1, 1, 1, 1, 2, 1, 2, 1),
    "igcv3_d_1_0": (1, 1, 1, 1, 2, 1, 2, 1),
    "shufflenet_v2_2_0": (1, 1, 1, 2, 2),
}
# Step time of the peer relative to HSC-Net-M96, in training on GPUs and in testing on a CPU (HSC-Net, table 2).
PAPER = {"mobilenet_v2_1_0": (1.79, 1.84), "igcv3_d_1_0": (3.24, 3.60), "shufflenet_v2_2_0": (1.57, 1.65)}
PAPER_NETWORK = "hscnet_m96_g8_r4_a2"
# The other network of the table, which is no peer: its test time relative to HSC-Net-M96.
PAPER_WIDER = {"hscnet_m128_g16_r8_a2": 1.21}
# Networks from the same table of a paper that have neither the same layers nor the same size.
NAMED = {
    "hgcnet_42_g2": ("sgcnet_42_g2",),
    "hgcnet_42_g4": ("sgcnet_42_g4",),
    "hgcnet_42_g6": ("sgcnet_42_g6",),
    "igcv2_c64_d8": ("xception_c35_d8", "igcv1_c48_d8"),
    "igcv2_c64_d20": ("xception_c35_d20", "igcv1_c48_d20"),
    "igcv2_c64_d26": ("xception_c35_d26", "igcv1_c48_d26"),
    "igcv2_star_c216_d20": ("xception_c58_d20", "igcv1_c96_d20"),
    "igcv2_star_c304_d20": ("xception_c71_d20", "igcv1_c126_d20"),
    "igcv2_star_c416_d20": ("xception_c83_d20", "igcv1_c150_d20"),
}


# The smallest image sides of Keras networks that do not take 32x32 pixels.
LARGER_SIDES = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}


class NativeConv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` that runs groups natively in TensorFlow where it has gradients of them.

    On a CPU, Keras runs them through XLA, where a step of a network with group convolutions takes 20 times as long.
    """

    def convolution_op(self, inputs, kernel):
        kernel = keras.ops.convert_to_tensor(kernel)
        return convolution.grouped(inputs, kernel, self.groups, 1, self.strides, self.padding)


def unshared(model: keras.Model) -> keras.Model:
    """The network with equal computation and no sharing: every call has its own layer with a full kernel.

    Kernels keep their groups, without repeats or arrangements. The weights are new.

    >>> model = ksn.create_model("hscnet_m32_g4_r2_b1_a2")
    >>> unshared(model).count_params() > model.count_params()
    True
    """
    name = _Names()

    def call(layer, *args, **kwargs):
        return _copied(layer, name(layer))(*args, **kwargs)

    # A plain model over the same graph: `clone_model` would compile the copy of a compiled model.
    plain = keras.Model(model.input, model.output, name=model.name)
    return keras.models.clone_model(plain, clone_function=lambda layer: layer, call_function=call)


def reference(model: keras.Model) -> keras.Model:
    """Like `unshared` for an HSC-Net, with Keras layers, for TensorFlow: convolutions are `NativeConv2D`.

    Other layers of the library are unchanged.
    """
    name = _Names()

    def call(each, layer, *args, **kwargs):
        if isinstance(layer, HighlySharedConv2D):
            # Its strides are set at construction, not in each call.
            return _native(layer, each.kwargs.get("strides") or layer.strides, name(layer))(*args)
        if isinstance(layer, BatchNormalization):
            return keras.layers.BatchNormalization.from_config(layer.get_config())(*args, **kwargs)
        return _copied(layer, name(layer))(*args, **kwargs)

    return rebuild(model, trace(model), call)


class _Names:
    """Gives every layer, and every call of a layer, a unique name."""

    def __init__(self):
        self.uses = collections.Counter()

    def __call__(self, layer) -> str:
        self.uses[layer.name] += 1
        return layer.name if self.uses[layer.name] == 1 else f"{layer.name}_call{self.uses[layer.name]}"


def _copied(layer, name: str):
    """A copy of a layer without its sharing; a function such as `keras.ops.add` is returned unchanged."""
    if not isinstance(layer, keras.Layer):
        return layer
    copy = type(layer).from_config(_whole(layer.get_config()))
    copy.name = name
    return copy


def _whole(config: Any) -> Any:
    """The configuration of a layer, and of nested layers, without repeated and arranged filters."""
    if not isinstance(config, dict):
        return config
    once = {"channel_repeats": 1, "arrangements": 1}
    # With it, a nested layer would be built twice.
    return {key: once.get(key, _whole(value)) for key, value in config.items() if key != "build_config"}


def _native(layer: HighlySharedConv2D, strides: Any, name: str) -> NativeConv2D:
    return NativeConv2D(
        layer.filters,
        layer.kernel_size,
        strides,
        padding=layer.padding,
        groups=layer.groups,
        use_bias=layer.use_bias,
        activation=layer.activation,
        dtype=layer.dtype_policy,
        name=name,
    )


MAKES = {
    "": ksn.create_model,
    "8x8": lambda name, **sizes: ksn.create_model(name, strides=LATER_STRIDES[name], **sizes),
    "unshared": lambda name, **sizes: unshared(ksn.create_model(name, **sizes)),
    "reference": lambda name, **sizes: reference(ksn.create_model(name, **sizes)),
}


def build(name: str, *, make: str = "", negative_share: float = 0.0, **sizes: Any) -> keras.Model:
    """A named network, made by one of `MAKES`, with the speed and file size of a trained one.

    A Keras network has a name such as `"keras.applications.MobileNetV2"`, takes the smallest images that it accepts,
    and includes its preprocessing.
    """
    keras.utils.set_random_seed(0)
    if name.startswith(APPLICATIONS):
        short = name.removeprefix(APPLICATIONS)
        side = LARGER_SIDES.get(short, 32)
        shape, classes = sizes.get("input_shape", (side, side, 3)), sizes.get("num_classes", 10)
        model = getattr(keras.applications, short)(input_shape=shape, weights=None, classes=classes)
    else:
        model = MAKES[make](name, include_preprocessing=False, **sizes)
    randomize_batchnorm(model, negative_share=negative_share, images=images(name, model))
    return model


def images(name: str, model: keras.Model) -> np.ndarray:
    """Images for the named network: pixels for a Keras network, and otherwise normalized ones."""
    if name.startswith(APPLICATIONS):
        return synthetic_images(model.input_shape[1:], count=16).astype("float32")
    return random_images(model)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A network that is trained.

    Attributes:
        name: one of `keras_sharenets.list_models()`.
        make: a key of `MAKES`.
        role: `"network"`, or its relation to the network: `"baseline"`, `"reference"`, or `"peer"`.
    """

    name: str
    make: str = ""
    role: str = "peer"

    @property
    def label(self) -> str:
        """Its name in the table: only the make for the same network."""
        if self.role in ("reference", "baseline") and self.make:
            return self.make
        return f"{self.name}, {self.make}" if self.make else self.name

    def build(self, policy: str = "float32") -> keras.Model:
        """An untrained model of the first size of the named network, under a dtype policy."""
        keras.utils.set_random_seed(0)
        return in_policy(policy, lambda: MAKES[self.make](self.name))


def shares_layers(model: keras.Model) -> bool:
    """Whether layers with weights are called in several places."""
    uses = collections.Counter(id(call.operation) for call in calls(model) if getattr(call.operation, "weights", ()))
    return max(uses.values()) > 1


def beside(name: str, *, shared: bool, references: bool) -> tuple[Contender, ...]:
    """A named network and its contenders.

    Args:
        shared: whether its layers are called in several places; if so, its unshared baseline is included.
        references: whether the reference implementation of an HSC-Net is included.

    >>> [contender.label for contender in beside("sharesnet_164", shared=True, references=True)]
    ['sharesnet_164', 'resnet_164']
    >>> [contender.label for contender in beside("sl3_resnet_64", shared=True, references=True)]
    ['sl3_resnet_64', 'unshared']
    """
    found = [Contender(name, role="network")]
    if find_family(name) == "hscnet" and references:
        found.append(Contender(name, "reference", "reference"))
    if shared:
        baseline = find_variant(name).unshared
        found.append(Contender(baseline, role="baseline") if baseline else Contender(name, "unshared", "baseline"))
    if name == PAPER_NETWORK:
        found += [Contender(peer, make) for peer in PAPER for make in ("", "8x8")]
    return (*found, *(Contender(peer) for peer in NAMED.get(name, ())))
