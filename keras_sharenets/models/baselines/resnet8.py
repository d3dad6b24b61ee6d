"""ResNet-8 of MLPerf Tiny, the baseline for small files and small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import keras

from keras_sharenets import _checks
from keras_sharenets._types import Tensor
from keras_sharenets.layers import BatchNormalization
from keras_sharenets.models import base
from keras_sharenets.models.arguments import checked

if TYPE_CHECKING:
    from typing_extensions import Unpack


def _conv2d(x: Tensor, filters: int, kernel_size: int, strides: int, name: str) -> Tensor:
    # With a bias, and padded at the bottom and right for stride 2, as in the reference implementation.
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
    """ResNet-8 of MLPerf Tiny: a stem and one residual block of two 3x3 convolutions per stage.

    Every stage after the first halves the height and width. The network has the layers of MLPerf Tiny's reference
    implementation for image classification and its 78,666 parameters: 78,186 trainable ones (weights, biases, scales
    and offsets) and 480 moving statistics.

    Args:
        width: sequence of ints, number of channels of each stage; the stem has as many as the first stage.
        **common: `keras_sharenets.models.CommonArguments`; by default, 32x32x3 images and 10 classes.

    >>> ResNet8(input_shape=(32, 32, 3), num_classes=10).count_params()
    78666

    Reference: Banbury et al., "MLPerf Tiny Benchmark", NeurIPS 2021, Datasets and Benchmarks, section 4. The network
    follows its repository, after He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    _checks.sizes("width", width)
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
