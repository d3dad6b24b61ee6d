"""Ways to run a grouped convolution whose filters repeat, and the plain 1x1 convolution.

Those ways differ in speed, never in meaning; `ops.choices` says which is fastest where. On a CPU XLA's gradient of a
native grouped convolution takes 50 to 300 times as long as it should, and Keras sends every grouped convolution through
XLA there, also in a network that is not compiled with it. TensorFlow's own is fast.
"""

from keras import ops

from keras_sharenets.ops import choices, fused, kernels


def grouped(inputs, kernel, groups, channel_repeats, strides, padding):
    """One native grouped convolution: the form that inference runtimes execute fastest, and TensorFlow without XLA.

    Args:
        inputs: tensor `(batch, height, width, groups * c)`.
        kernel: tensor `(kh, kw, c, filters)`, group-major.
        groups: int, number of groups.
        channel_repeats: int, how often the filters repeat with a period of `filters / channel_repeats`. Not used here:
            the kernel says it all.
        strides: pair of ints.
        padding: `"same"` or `"valid"`.

    Returns:
        A tensor `(batch, new height, new width, filters)`.
    """
    if choices.runtime(inputs.dtype) == "tensorflow":
        return fused.convolution(inputs, kernel, strides, padding)
    return ops.conv(inputs, kernel, strides=strides, padding=padding)


def folded(inputs, kernel, groups, channel_repeats, strides, padding):
    """One ordinary convolution with one period of the kernel, the other periods' channels folded into the batch.

    The `groups / channel_repeats` groups within a period become a block-diagonal kernel. Arguments and result as in
    [`grouped`]: without groups or without repeats this is a dense convolution.
    """
    filters = kernel.shape[-1] // channel_repeats
    period = kernels.block_diagonal(kernel[..., :filters], groups // channel_repeats)
    if channel_repeats == 1:
        return ops.conv(inputs, period, strides=strides, padding=padding)
    _, height, width, channels = ops.shape(inputs)
    images = ops.reshape(inputs, (-1, height, width, channel_repeats, channels // channel_repeats))
    images = ops.transpose(images, (0, 3, 1, 2, 4))
    images = ops.reshape(images, (-1, height, width, channels // channel_repeats))
    outputs = ops.conv(images, period, strides=strides, padding=padding)
    _, height, width, _ = ops.shape(outputs)
    outputs = ops.reshape(outputs, (-1, channel_repeats, height, width, filters))
    outputs = ops.transpose(outputs, (0, 2, 3, 1, 4))
    return ops.reshape(outputs, (-1, height, width, channel_repeats * filters))


def multiplied(inputs, kernel, groups, channel_repeats, strides, padding):
    """A 1x1 convolution as one batch of matrix products, a product for each group.

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


def pointwise(inputs, kernel):
    """An ordinary 1x1 convolution, channels last."""
    return ops.conv(inputs, kernel, padding="valid", data_format="channels_last")


def pointwise_product(inputs, kernel):
    """What [`pointwise`] is, as one matrix product: on a CPU its gradients are cheaper than a convolution's."""
    _, height, width, channels = ops.shape(inputs)
    pixels = ops.matmul(ops.reshape(inputs, (-1, channels)), kernel[0, 0])
    return ops.reshape(pixels, (-1, height, width, kernel.shape[-1]))


def output_sides(sides, kernel_size, strides, padding):
    """Height and width after a convolution; a side of `None` stays open.

    Raises:
        ValueError: without padding, the kernel is larger than the image.

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
