"""Implementations of a grouped convolution with repeated filters, and the plain 1x1 convolution.

The implementations differ only in speed; `ops.choices` selects the fastest. On a CPU, XLA's gradient of a native
grouped convolution takes 50 to 300 times as long as necessary. Keras runs every grouped convolution through XLA there,
even in a network that is not compiled with XLA. TensorFlow's own implementation is fast.
"""

import functools

from keras import ops

from keras_sharenets._types import Shape, Tensor
from keras_sharenets.ops import choices, fused, kernels, precision


def grouped(
    inputs: Tensor, kernel: Tensor, groups: int, channel_repeats: int, strides: tuple[int, int], padding: str
) -> Tensor:
    """One native grouped convolution: the fastest form for inference runtimes, and for TensorFlow without XLA.

    Args:
        inputs: tensor `(batch, height, width, groups * c)`.
        kernel: tensor `(kh, kw, c, filters)`, group-major.
        groups: int, number of groups.
        channel_repeats: int, number of repeats of the filters, with a period of `filters / channel_repeats`. Not used
            here, since the kernel contains the repeats.
        strides: pair of ints.
        padding: `"same"` or `"valid"`.

    Returns:
        A tensor `(batch, new height, new width, filters)`.
    """
    if choices.runtime(inputs.dtype) == "tensorflow":
        return fused.convolution(inputs, kernel, strides, padding)
    return ops.conv(inputs, kernel, strides=strides, padding=padding, data_format="channels_last")


def folded(
    inputs: Tensor, kernel: Tensor, groups: int, channel_repeats: int, strides: tuple[int, int], padding: str
) -> Tensor:
    """One ordinary convolution with one period of the kernel; the channels of all periods are folded into the batch.

    The `groups / channel_repeats` groups within a period form a block-diagonal kernel. Arguments and result as in
    [`grouped`]. Without groups or without repeats, this is a dense convolution.
    """
    filters = kernel.shape[-1] // channel_repeats
    period = kernels.block_diagonal(kernel[..., :filters], groups // channel_repeats)
    if channel_repeats == 1:
        return _convolve(inputs, period, strides, padding)
    _, height, width, channels = ops.shape(inputs)
    periods = ops.reshape(inputs, (-1, height, width, channel_repeats, channels // channel_repeats))
    periods = ops.transpose(periods, (0, 3, 1, 2, 4))
    periods = ops.reshape(periods, (-1, height, width, channels // channel_repeats))
    outputs = _convolve(periods, period, strides, padding)
    _, height, width, _ = ops.shape(outputs)
    outputs = ops.reshape(outputs, (-1, channel_repeats, height, width, filters))
    outputs = ops.transpose(outputs, (0, 2, 3, 1, 4))
    return ops.reshape(outputs, (-1, height, width, channel_repeats * filters))


def multiplied(
    inputs: Tensor, kernel: Tensor, groups: int, channel_repeats: int, strides: tuple[int, int], padding: str
) -> Tensor:
    """A 1x1 convolution as a batch of matrix products, one for each group.

    Arguments and result as in [`grouped`], with a kernel `(1, 1, c, filters)`.
    """
    if strides != (1, 1):
        inputs = inputs[:, :: strides[0], :: strides[1]]
    if groups == 1:
        return pointwise_product(inputs, kernel)
    _, height, width, channels = ops.shape(inputs)
    filters = kernel.shape[-1]
    pixels = ops.transpose(ops.reshape(inputs, (-1, groups, channels // groups)), (1, 0, 2))
    matrices = ops.transpose(ops.reshape(kernel, (channels // groups, groups, filters // groups)), (1, 0, 2))
    pixels = ops.transpose(ops.matmul(pixels, matrices), (1, 0, 2))
    return ops.reshape(pixels, (-1, height, width, filters))


def _convolve(inputs: Tensor, kernel: Tensor, strides: tuple[int, int], padding: str) -> Tensor:
    """An ordinary convolution, channels last, in float32 where half precision would be slow and inaccurate."""
    run = functools.partial(ops.conv, strides=strides, padding=padding, data_format="channels_last")
    return precision.in_full(run, inputs, kernel) if choices.emulated(inputs.dtype) else run(inputs, kernel)


def pointwise(inputs: Tensor, kernel: Tensor) -> Tensor:
    """An ordinary 1x1 convolution, channels last."""
    return _convolve(inputs, kernel, (1, 1), "valid")


def pointwise_product(inputs: Tensor, kernel: Tensor) -> Tensor:
    """[`pointwise`] as one matrix product, whose gradients are cheaper on a CPU than those of a convolution."""
    _, height, width, channels = ops.shape(inputs)
    pixels = ops.matmul(ops.reshape(inputs, (-1, channels)), kernel[0, 0])
    return ops.reshape(pixels, (-1, height, width, kernel.shape[-1]))


def depthwise_by_places(inputs: Tensor, kernel: Tensor, strides: tuple[int, int], padding: str) -> Tensor:
    """A depthwise convolution as a sum over the positions of the kernel of elementwise products with the shifted image.

    XLA fuses it into one loop, and its gradients have the same form. The gradient of a native depthwise convolution,
    compiled by XLA for a CPU, takes 5 to 30 times as long.

    Args:
        inputs: tensor `(batch, height, width, channels)`, height and width known.
        kernel: tensor `(kh, kw, channels, 1)`.
        strides: pair of ints.
        padding: `"same"` or `"valid"`.

    Returns:
        A tensor `(batch, new height, new width, channels)`.
    """
    (kernel_height, kernel_width), sides = kernel.shape[:2], inputs.shape[1:3]
    if padding == "same":
        borders = [same_padding(*numbers) for numbers in zip(sides, kernel.shape[:2], strides, strict=True)]
        inputs = ops.pad(inputs, ((0, 0), *borders, (0, 0)))
        sides = inputs.shape[1:3]
    lengths = [side - size for side, size in zip(sides, kernel.shape[:2], strict=True)]
    outputs: Tensor = 0
    for row in range(kernel_height):
        for column in range(kernel_width):
            rows = slice(row, row + lengths[0] + 1, strides[0])
            columns = slice(column, column + lengths[1] + 1, strides[1])
            outputs = outputs + inputs[:, rows, columns] * kernel[row, column, :, 0]
    return outputs


def same_padding(side: int, size: int, stride: int) -> tuple[int, int]:
    """Zero padding before and after a dimension for an output of `ceil(side / stride)`; an odd zero goes after."""
    both = max((-(-side // stride) - 1) * stride + size - side, 0)
    return both // 2, both - both // 2


def output_sides(sides: Shape, kernel_size: tuple[int, int], strides: tuple[int, int], padding: str) -> Shape:
    """Height and width after a convolution; `None` stays unknown.

    Raises:
        ValueError: there is no padding and the kernel is larger than the image.

    >>> output_sides((8, None), (3, 3), (2, 2), "valid")
    (3, None)
    """
    results = []
    for side, size, stride in zip(sides, kernel_size, strides, strict=True):
        places = side if side is None or padding == "same" else side - size + 1
        if places is not None and places < 1:
            raise ValueError(f"`kernel_size` (={kernel_size}) must fit into the image (={tuple(sides)}).")
        results.append(None if places is None else -(-places // stride))
    return tuple(results)


IMPLEMENTATIONS = {"folded": folded, "grouped": grouped, "multiplied": multiplied}
