"""The measured layers: shapes used by named networks, and their reference implementations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

import keras_sharenets as ksn
from keras_sharenets.analysis.graph import Call, calls
from keras_sharenets.layers import HierarchicalGroupConv2D, HighlySharedConv2D, InterleavedGroupConv2D, SplitGroupConv2D
from keras_sharenets.layers.bases import ComposedPointwise
from keras_sharenets.ops import choices, convolution, hierarchical, permutations

# The widest layer of each kind and stride at each image size; for the wide IGC-V2, only the first stage.
NETWORKS = {
    "hscnet_m96_g8_r4_a2": None,
    "hscnet_m128_g16_r8_a2": None,
    "hgcnet_42_g4": None,
    "hgcnet_42_g6": None,
    "sgcnet_42_g4": None,
    "sgcnet_42_g6": None,
    "igcv2_star_c216_d20": None,
    "igcv2_star_c304_d20": 32,
    "igcv2_star_c416_d20": 32,
    "igcv2_c64_d8": None,
    "igcv3_d_1_0": None,
}
# The image includes padding: 10 is 8 plus a border.
QUICK = {"hscnet_m32_g4_r2_b1_a2": 10, "hgcnet_42_g4": 8, "sgcnet_42_g4": 8, "igcv2_c64_d8": 8}
LAYERS = (HighlySharedConv2D, HierarchicalGroupConv2D, SplitGroupConv2D, InterleavedGroupConv2D)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A layer as used by a network.

    Attributes:
        network: its name.
        layer: the layer; it is not modified.
        input_shape: `(height, width, channels)`.
        kind: one of those in `ops.choices`.
        strides: along height and width.
    """

    network: str
    layer: keras.Layer
    input_shape: tuple[int, int, int]
    kind: str
    strides: tuple[int, int]

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the output."""
        return self.build("auto").output_shape[1:3]

    @property
    def name(self) -> str:
        """Its label in the table."""
        height, width, channels = self.input_shape
        size = "x".join(map(str, kernel_size(self.layer))) + (f"/{self.strides[0]}" if self.strides != (1, 1) else "")
        if isinstance(self.layer, HighlySharedConv2D):
            layer = self.layer
            division = f"G={layer.groups} R={layer.channel_repeats} T={layer.arrangements}"
        elif isinstance(self.layer, InterleavedGroupConv2D):
            division = f"K={','.join(map(str, self.layer.branch_channels))}"
        else:
            division = f"G={self.layer.groups}"
        return f"{self.kind} {size}, {height}x{width}x{channels} to {self.layer.filters}, {division}"

    @property
    def implementations(self) -> tuple[str, ...]:
        """The implementations that the layer has for this shape."""
        if not isinstance(self.layer, HighlySharedConv2D):
            return tuple(name for name in ComposedPointwise.implementations if name != "auto")
        return tuple(
            name
            for name in convolution.IMPLEMENTATIONS
            if (name != "multiplied" or kernel_size(self.layer) == (1, 1))
            and (name != "grouped" or self.layer.groups > 1)
        )

    def build(self, implementation: str) -> keras.Model:
        """A model with only the layer."""
        inputs = keras.Input(self.input_shape)
        layer = type(self.layer).from_config({**self.layer.get_config(), "implementation": implementation})
        strides = {"strides": self.strides} if isinstance(layer, HighlySharedConv2D) else {}
        return keras.Model(inputs, layer(inputs, **strides))

    def build_dense(self) -> keras.Model:
        """A model of `keras.layers.Conv2D` with the same inputs, outputs and kernel size, without groups."""
        inputs = keras.Input(self.input_shape)
        padding = getattr(self.layer, "padding", "same")
        layer = keras.layers.Conv2D(
            self.layer.filters, kernel_size(self.layer), self.strides, padding=padding, use_bias=False
        )
        return keras.Model(inputs, layer(inputs))

    def build_reference(self) -> keras.Model:
        """A model of Keras layers that follows the paper's figure: splits, convolutions, gathers, concatenations.

        Its weights have the same shapes and order as those of the layer.
        """
        inputs = keras.Input(self.input_shape)
        implement = {
            HighlySharedConv2D: _shared_reference,
            HierarchicalGroupConv2D: _chain_reference,
            SplitGroupConv2D: _split_reference,
            InterleavedGroupConv2D: _interleaved_reference,
        }[type(self.layer)]
        return keras.Model(inputs, implement(inputs, self))


def kernel_size(layer: keras.Layer) -> tuple[int, int]:
    """Height and width of its kernel."""
    return getattr(layer, "kernel_size", (1, 1))


def collect(networks: Mapping[str, int | None], *, widest: bool = True) -> tuple[Shape, ...]:
    """The distinct layers of named networks.

    Args:
        networks: name to the only image side to include, or `None` for all.
        widest: whether to keep only the layer with the most outputs and inputs of each kind, stride and side.
    """
    found = {}
    for network, side in networks.items():
        for call in calls(ksn.create_model(network)):
            if isinstance(call.operation, LAYERS) and side in (None, call.input_shapes[0][1]):
                shape = _shape(network, call)
                if shape.kind is not None:
                    outputs = call.output_shapes[0]
                    place = (network, shape.kind, shape.strides, outputs[1]) if widest else shape.name
                    size = (outputs[-1], shape.input_shape[-1])
                    if place not in found or found[place][0] < size:
                        found[place] = size, shape
    # Several networks may use the same layer.
    return tuple({shape.name: shape for _, shape in found.values()}.values())


def unshared() -> tuple[Shape, ...]:
    """Three layers that no named network has: the repeated filters of HSC-Net-M128 without repeats."""
    sizes = {32: 64, 16: 128, 8: 256}
    layers = [(HighlySharedConv2D(width, 3, groups=16), (side, side, width)) for side, width in sizes.items()]
    return tuple(Shape("none", layer, input_shape, "grouped", (1, 1)) for layer, input_shape in layers)


def _shape(network: str, call: Call) -> Shape:
    layer = call.operation
    kind, strides = getattr(layer, "kind", None), (1, 1)
    if isinstance(layer, HighlySharedConv2D):
        strides = call.kwargs.get("strides") or layer.strides
        strides = (strides, strides) if isinstance(strides, int) else tuple(strides)
        kind = choices.convolution_kind(layer.kernel_size, layer.groups, layer.channel_repeats, strides)
    return Shape(network, layer, call.input_shapes[0][1:], kind, strides)


def _conv2d(filters: int, size=1, **arguments) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(filters, size, use_bias=False, **arguments)


def _shared_reference(inputs, shape: Shape):
    layer, channels = shape.layer, shape.input_shape[-1]
    banks = layer.groups // layer.channel_repeats
    filters = layer.filters // (layer.channel_repeats * layer.arrangements)
    shared = _conv2d(filters, layer.kernel_size, strides=shape.strides, padding=layer.padding, groups=banks)
    planes = channels // layer.groups
    orders = layer.orders(planes)
    outputs = []
    for part in _split(inputs, [channels // layer.channel_repeats] * layer.channel_repeats):
        copies = [shared(part)]
        for order in orders[1:]:
            shuffled = np.concatenate([np.argsort(order) + bank * planes for bank in range(banks)])
            copies.append(shared(ops.take(part, shuffled, axis=-1)))
        outputs += [copies[0]] if len(copies) == 1 else [_regroup(copies, banks)]
    return outputs[0] if len(outputs) == 1 else ops.concatenate(outputs, axis=-1)


def _regroup(copies: Sequence, banks: int):
    """All copies of the first group's filters, then all of the second's."""
    parts = [_split(copy, [copy.shape[-1] // banks] * banks) for copy in copies]
    return ops.concatenate([part for group in zip(*parts, strict=True) for part in group], axis=-1)


def _split(inputs, sizes: Sequence[int]) -> list:
    return [inputs] if len(sizes) == 1 else ops.split(inputs, np.cumsum(sizes)[:-1].tolist(), axis=-1)


def _chain_reference(inputs, shape: Shape):
    sizes = hierarchical.split_sizes(shape.input_shape[-1], shape.layer.groups)
    outputs = []
    for part in _split(inputs, sizes):
        read = ops.concatenate([part, outputs[-1]], axis=-1) if outputs else part
        outputs.append(_conv2d(shape.layer.filters // len(sizes))(read))
    return ops.concatenate(outputs, axis=-1)


def _split_reference(inputs, shape: Shape):
    sizes = hierarchical.split_sizes(shape.input_shape[-1], shape.layer.groups)
    parts = [_conv2d(shape.layer.filters // len(sizes))(part) for part in _split(inputs, sizes)]
    return ops.concatenate(parts, axis=-1)


def _interleaved_reference(inputs, shape: Shape):
    layer, channels, x = shape.layer, shape.input_shape[-1], inputs
    shuffles = permutations.interleaving(channels, layer.branch_channels, layer.filters)
    for place, (size, strided_shuffles) in enumerate(zip(layer.branch_channels, shuffles, strict=True), start=1):
        filters = layer.filters if place == len(layer.branch_channels) else channels
        x = _conv2d(filters, groups=channels // size)(x)
        for groups in strided_shuffles:
            x = ops.take(x, np.arange(filters).reshape(-1, groups).T.ravel(), axis=-1)
    return x
