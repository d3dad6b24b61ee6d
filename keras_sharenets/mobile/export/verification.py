"""Which networks can be exported, the images that an export is verified on, and whether it computes what Keras does."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from keras_sharenets.analysis.graph import calls
from keras_sharenets.heads import Head
from keras_sharenets.layers.quantized_kernels import inner

# Enough to see a wrong file, few enough to run one by one in a moment.
VERIFICATION_IMAGES = 64
SYNTHETIC_IMAGES = 16
_BATCH = 32


class ExportMismatchError(RuntimeError):
    """An exported file does not compute what its Keras model computes. No file is left."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far two runs of a classifier on the same images agree.

    Attributes:
        largest_difference: the largest difference between two outputs.
        score_error: the length of the difference of all scores divided by the length of the reference's scores. The
            scores are the numbers before a final softmax or sigmoid, else the outputs.
        top1_agreement: share of the images of which both say the same: the class that comes first, the side of 0.5 of
            one sigmoid, all labels of several; `None` for one number that is no probability.
    """

    largest_difference: float
    score_error: float
    top1_agreement: float | None


def compare(
    head: Head, outputs: np.ndarray, scores: np.ndarray, reference_outputs: np.ndarray, reference_scores: np.ndarray
) -> Agreement:
    """The `Agreement` of two runs of a network with a head; the other arguments are arrays `(n, units)`."""
    difference = np.linalg.norm(scores - reference_scores)
    return Agreement(
        largest_difference=float(np.abs(outputs - reference_outputs).max()),
        score_error=float(difference / max(np.linalg.norm(reference_scores), np.finfo(np.float32).tiny)),
        top1_agreement=head.agreement(outputs, reference_outputs),
    )


def run_keras(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Outputs of a Keras model on an array of images, in inference mode.

    Raises:
        ValueError: they are not all finite.
    """
    size = model.inputs[0].shape[0] or _BATCH
    batches = [images[start : start + size].astype(np.float32) for start in range(0, len(images), size)]
    if model.inputs[0].shape[0]:  # It takes so many images and no fewer: the last one is repeated.
        batches[-1] = np.concatenate([batches[-1], np.repeat(batches[-1][-1:], size - len(batches[-1]), axis=0)])
    outputs = np.concatenate([np.asarray(model(batch, training=False)) for batch in batches])[: len(images)]
    if not np.isfinite(outputs).all():
        raise ValueError("`model` gives numbers that are not finite: it cannot be verified.")
    return outputs


def inference_model(model: keras.Model) -> keras.Model:
    """A copy of a network in which every layer that can choose runs the way that inference runtimes run fastest.

    Training folds repeated filters into the batch, because that is fast under XLA. Inference runtimes run native
    grouped convolutions faster, and their files show the groups. A layer's `inference_implementation` names its choice.

    Args:
        model: functional or sequential `keras.Model`, built. It is not changed.

    Returns:
        A new model with copies of the weights, layers shared as before, and the same outputs.

    Raises:
        ValueError: the model is neither functional nor sequential.

    >>> import keras_sharenets as ksn
    >>> model = ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(16, 16, 3))
    >>> inference_model(model).get_layer("stage1_module1_convolution").spatial.implementation
    'grouped'
    """
    calls(model)  # Raises an error for what cannot be copied call by call.
    copies = {}

    def copy_of(layer):
        """One copy of a layer, however often and wherever it is used."""
        if id(layer) not in copies:
            copies[id(layer)] = layer, layer.__class__.from_config(layer.get_config())
        return copies[id(layer)][1]

    copy = keras.models.clone_model(model, clone_function=copy_of, recursive=True)
    for layer, its_copy in copies.values():
        its_copy.set_weights(layer.get_weights())
    for call in calls(copy):
        layer = inner(call.operation)
        if hasattr(layer, "inference_implementation"):
            layer.implementation = layer.inference_implementation
    return copy


def check_classifier(model: keras.Model) -> tuple[tuple[int, int, int], int]:
    """The shape of one image and the number of classes of a classifier that can be exported.

    Raises:
        ValueError: the model is not functional or sequential, or does not take one batch of images of a fixed size, or
            does not give one vector of a fixed length for each, or computes in half precision.
    """
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not isinstance(model, keras.Model) or not inputs or not outputs:
        raise ValueError(f"`model` (={model!r}) must be a functional or sequential Keras model with a known input.")
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"`model` must have one input and one output, has {len(inputs)} and {len(outputs)}.")
    image, result = tuple(inputs[0].shape[1:]), tuple(outputs[0].shape[1:])
    if len(image) != 3:
        raise ValueError(f"The input of `model` must be images `(batch, height, width, channels)`, is {image}.")
    if None in image:
        raise ValueError(
            f"Export needs a fixed image size, and the model takes {image}: build it with a fixed `input_shape` "
            f"and load the weights into it."
        )
    if len(result) != 1 or result[0] is None:
        raise ValueError(f"`model` must give one vector an image, `(batch, classes)`, but gives {result}.")
    for layer in model.layers:
        if layer.compute_dtype in ("float16", "bfloat16"):
            raise ValueError(
                f"Layer '{layer.name}' of `model` computes in {layer.compute_dtype}, which runtimes on a CPU do not: "
                f"build the network under the dtype policy 'float32' and load the weights into it."
            )
    return image, result[0]


def verification_images(data: np.ndarray | None, shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """The images that an export is verified on, evenly spread over `data`, and what to call them.

    Returns:
        `(images, description)`; synthetic images if `data` is `None`.
    """
    if data is None:
        images = synthetic_images(shape)
        return images, f"{len(images)} synthetic images"
    images = spread(data, VERIFICATION_IMAGES)
    return images, f"{len(images)} given image{'s' if len(images) > 1 else ''}"


def spread(images: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of the images, evenly spread from the first to the last."""
    return images[np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]


def synthetic_images(shape: tuple[int, int, int], *, count: int = SYNTHETIC_IMAGES, seed: int = 0) -> np.ndarray:
    """Seeded images for where no real ones are given: smooth blobs with noise, whole pixel values from 0 to 255.

    Smooth, because a network's scores hardly differ from one image of plain noise to the next.
    """
    height, width, channels = shape
    random = np.random.default_rng(seed)
    rows, columns = np.linspace(0, 1, height)[:, None, None], np.linspace(0, 1, width)[None, :, None]
    images = []
    for _ in range(count):
        row_waves, column_waves, phases = random.uniform(-2, 2, (3, channels))
        waves = np.sin(2 * np.pi * (row_waves * rows + column_waves * columns + phases))
        noise = random.normal(0, 16, shape)
        images.append(np.clip(127.5 + 100 * waves + noise, 0, 255).round())
    return np.stack(images).astype(np.uint8)
