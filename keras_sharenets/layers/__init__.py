"""Layers that reuse their weights, and the small ones without weights that their networks need."""

from keras_sharenets.layers.channel_padding import ChannelPadding
from keras_sharenets.layers.channel_shuffle import ChannelShuffle
from keras_sharenets.layers.highly_shared_conv2d import HighlySharedConv2D
from keras_sharenets.layers.padded_max_pooling2d import PaddedMaxPooling2D

__all__ = ["ChannelPadding", "ChannelShuffle", "HighlySharedConv2D", "PaddedMaxPooling2D"]
