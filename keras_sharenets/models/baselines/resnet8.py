"""ResNet-8 of MLPerf Tiny: what a small file for small images is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets._types import Tensor
from keras_sharenets.layers import BatchNormalization
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _conv2d(x: Tensor, filters: int, kernel_size: int, strides: int, name: str) -> Tensor:
    # With a bias, and padded on the far side where the stride is 2, as the reference has it.
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides,
        "same",
        data_format="channels_last",
        kernel_initializer="he_normal",
        name=name,
    )(x)


def _norm(x: Tensor, name: str) -> Tensor:
    return BatchNormalization(name=f"{name}_norm")(x)


def _relu(x: Tensor, name: str) -> Tensor:
    return keras.layers.ReLU(name=f"{name}_relu")(x)


@checked
def ResNet8(*, width: Sequence[int] = (16, 32, 64), **common: Unpack[base.CommonArguments]) -> keras.Model:
    """A stem and one residual block a stage: two 3x3 convolutions each, which read half the sides from the second on.

    It has the layers of MLPerf Tiny's reference for image classification, and its 78,666 numbers: weights, biases,
    scales and offsets (78,186), and moving statistics (480).

    Args:
        width: sequence of ints: channels of each stage, the stem's in the first.
        **common: `keras_sharenets.models.CommonArguments`; images are 32x32x3 and classes 10 by default.

    >>> ResNet8(input_shape=(32, 32, 3), num_classes=10).count_params()
    78666

    Reference: Banbury et al., "MLPerf Tiny Benchmark", NeurIPS 2021, Datasets and Benchmarks, section 4; the network is
    that of its repository, after He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    frame = base.frame("resnet8", common)
    images = frame.images(total_stride=2 ** (len(width) - 1))
    x = _relu(_norm(_conv2d(images, width[0], 3, 1, "stem"), "stem"), "stem")
    for stage, filters in enumerate(width, start=1):
        name, strides = f"stage{stage}", 1 if stage == 1 else 2
        y = _conv2d(x, filters, 3, strides, f"{name}_conv1")
        y = _relu(_norm(y, f"{name}_conv1"), f"{name}_conv1")
        y = _norm(_conv2d(y, filters, 3, 1, f"{name}_conv2"), f"{name}_conv2")
        if strides > 1:
            x = _conv2d(x, filters, 1, strides, f"{name}_shortcut")
        x = _relu(keras.layers.Add(name=f"{name}_add")([x, y]), name)
    return frame.network(images, frame.head(x))
