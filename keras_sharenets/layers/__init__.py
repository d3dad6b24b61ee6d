"""Layers that reuse their weights, and the auxiliary layers that their networks need."""

from keras_sharenets.layers.batch_normalization import BatchNormalization
from keras_sharenets.layers.channel_padding import ChannelPadding
from keras_sharenets.layers.channel_shuffle import ChannelShuffle
from keras_sharenets.layers.channel_slice import ChannelSlice
from keras_sharenets.layers.depthwise_conv2d import DepthwiseConv2D
from keras_sharenets.layers.fake_quantize import FakeQuantize
from keras_sharenets.layers.hierarchical_group_conv2d import HierarchicalGroupConv2D
from keras_sharenets.layers.highly_shared_conv2d import HighlySharedConv2D
from keras_sharenets.layers.interleaved_group_conv2d import InterleavedGroupConv2D
from keras_sharenets.layers.padded_max_pooling2d import PaddedMaxPooling2D
from keras_sharenets.layers.parallel_conv2d import ParallelConv2D
from keras_sharenets.layers.quantized_kernels import QuantizedKernels
from keras_sharenets.layers.split_group_conv2d import SplitGroupConv2D
from keras_sharenets.layers.squeeze_excite import SqueezeExcite
from keras_sharenets.layers.strided_channel_shuffle import StridedChannelShuffle
from keras_sharenets.layers.whitening import Whitening

__all__ = [
    "BatchNormalization",
    "ChannelPadding",
    "ChannelShuffle",
    "ChannelSlice",
    "DepthwiseConv2D",
    "FakeQuantize",
    "HierarchicalGroupConv2D",
    "HighlySharedConv2D",
    "InterleavedGroupConv2D",
    "PaddedMaxPooling2D",
    "ParallelConv2D",
    "QuantizedKernels",
    "SplitGroupConv2D",
    "SqueezeExcite",
    "StridedChannelShuffle",
    "Whitening",
]


def __dir__() -> list[str]:
    return __all__
