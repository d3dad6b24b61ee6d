"""What goes into an export: checks of the network, and pictures to calibrate and verify with."""

import keras
import numpy as np

# Enough to see a wrong file, few enough to run one by one in a moment.
VERIFICATION_PICTURES = 64
SYNTHETIC_PICTURES = 16


def check_backend():
    """Raises a `RuntimeError` on another backend than TensorFlow: only that one exports."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise RuntimeError(
            f"Export needs the TensorFlow backend, and Keras runs on {backend!r}. Save the model as a `.keras` file, "
            f"set the environment variable KERAS_BACKEND=tensorflow in a new process and load and export it there."
        )


def check_classifier(model):
    """The shape of one picture and the number of classes of a classifier that can be exported.

    Raises:
        ValueError: the model is not functional or sequential, or does not take one batch of pictures of a fixed size,
            or does not give one vector of a fixed length for each, or computes in half precision.
    """
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not isinstance(model, keras.Model) or not inputs or not outputs:
        raise ValueError(f"`model` (={model!r}) must be a functional or sequential Keras model with a known input.")
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"`model` must have one input and one output, has {len(inputs)} and {len(outputs)}.")
    picture, result = tuple(inputs[0].shape[1:]), tuple(outputs[0].shape[1:])
    if len(picture) != 3:
        raise ValueError(f"The input of `model` must be pictures `(batch, height, width, channels)`, is {picture}.")
    if None in picture:
        raise ValueError(
            f"Export needs a fixed picture size, and the model takes {picture}: build it with a fixed `input_shape` "
            f"and load the weights into it."
        )
    if len(result) != 1 or result[0] is None:
        raise ValueError(f"`model` must give one vector a picture, `(batch, classes)`, but gives {result}.")
    for layer in model.layers:
        if layer.compute_dtype in ("float16", "bfloat16"):
            raise ValueError(
                f"Layer '{layer.name}' of `model` computes in {layer.compute_dtype}, which runtimes on a CPU do not: "
                f"build the network under the dtype policy 'float32' and load the weights into it."
            )
    return picture, result[0]


def gather_pictures(name, data, shape):
    """Pictures from an array, or from an iterable of pictures or batches, as one array of numbers.

    Args:
        name: name of the argument, for messages.
        data: array `(n, height, width, channels)`, or an iterable of such arrays or of single pictures.
        shape: `(height, width, channels)` that each must have.

    Returns:
        An array `(n, height, width, channels)`.

    Raises:
        ValueError: there is nothing in it, or something that is no picture of that shape and made of finite numbers.
    """
    if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
        raise ValueError(f"`{name}` (={data!r}) must be an array of pictures or an iterable of such arrays.")
    parts = [_batch(name, part, shape) for part in data]
    if not sum(map(len, parts)):
        raise ValueError(f"`{name}` holds no pictures.")
    return np.concatenate(parts)


def _batch(name, part, shape):
    expected = ", ".join(map(str, shape))
    if isinstance(part, (tuple, list, dict)):
        raise ValueError(f"`{name}` must give arrays ({expected}) or (n, {expected}), gave a {type(part).__name__}.")
    values = np.asarray(part)
    if values.dtype.kind not in "uif":
        raise ValueError(f"`{name}` must hold numbers, holds {values.dtype}.")
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1:] != tuple(shape):
        raise ValueError(f"`{name}` must hold pictures of shape ({expected}), holds an array of shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"`{name}` holds numbers that are not finite.")
    return values


def synthetic_pictures(shape, count=SYNTHETIC_PICTURES):
    """Seeded pictures for where no real ones are given: smooth blobs with noise, whole pixel values from 0 to 255.

    Smooth, because a network's scores hardly differ from one picture of plain noise to the next.
    """
    height, width, channels = shape
    random = np.random.default_rng(0)
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    pictures = []
    for _ in range(count):
        row_waves, column_waves, phases = random.uniform(-2, 2, (3, channels))
        waves = np.sin(2 * np.pi * (row_waves * rows + column_waves * columns + phases))
        noise = random.normal(0, 16, shape)
        pictures.append(np.clip(127.5 + 100 * waves + noise, 0, 255).round())
    return np.stack(pictures).astype(np.uint8)


def verification_pictures(data, shape):
    """The pictures that an export is verified on, evenly spread over `data`, and what to call them.

    Returns:
        `(pictures, description)`; synthetic pictures if `data` is `None`.
    """
    if data is None:
        pictures = synthetic_pictures(shape)
        return pictures, f"{len(pictures)} synthetic pictures"
    count = min(len(data), VERIFICATION_PICTURES)
    pictures = data[np.linspace(0, len(data) - 1, count).round().astype(int)]
    return pictures, f"{count} given picture{'s' if count > 1 else ''}"
