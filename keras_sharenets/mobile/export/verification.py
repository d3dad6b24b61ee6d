"""Which networks can be exported, the images that an export is verified on, and whether it computes what Keras does."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from keras_sharenets._types import Shape
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
        score_variation: how far the reference's scores differ from one image to the next: the length of their
            difference from their mean, divided by their length; `None` for one image. Where it is not above
            `score_error`, agreement says little.
    """

    largest_difference: float
    score_error: float
    top1_agreement: float | None
    score_variation: float | None

    @property
    def tells(self) -> bool:
        """Whether the images are told apart at all, so that the agreement is worth something."""
        return self.score_variation is None or self.score_variation > self.score_error


def compare(
    head: Head, outputs: np.ndarray, scores: np.ndarray, reference_outputs: np.ndarray, reference_scores: np.ndarray
) -> Agreement:
    """The `Agreement` of two runs of a network with a head; the other arguments are arrays `(n, units)`."""
    difference = np.linalg.norm(scores - reference_scores)
    length = max(np.linalg.norm(reference_scores), np.finfo(np.float32).tiny)
    variation = np.linalg.norm(reference_scores - reference_scores.mean(axis=0)) / length
    return Agreement(
        largest_difference=float(np.abs(outputs - reference_outputs).max()),
        score_error=float(difference / length),
        top1_agreement=head.agreement(outputs, reference_outputs),
        score_variation=float(variation) if len(scores) > 1 else None,
    )


def run_keras(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """As [`run_model`], of a model with one input and one output."""
    (outputs,) = run_model(model, (images,))
    return outputs


def run_model(model: keras.Model, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Each output of a Keras model on an array `(n, ...)` for each of its inputs, in inference mode.

    Raises:
        ValueError: they are not all finite.
    """
    size, count = model.inputs[0].shape[0] or _BATCH, len(inputs[0])
    if model.inputs[0].shape[0]:  # It takes so many examples and no fewer: the last one is repeated.
        inputs = [np.concatenate([array, np.repeat(array[-1:], -count % size, axis=0)]) for array in inputs]
    inputs = [array.astype(np.float32) for array in inputs]
    batches = [[array[start : start + size] for array in inputs] for start in range(0, count, size)]
    results = [keras.tree.flatten(model(_packed(model, batch), training=False)) for batch in batches]
    outputs = tuple(np.concatenate(list(map(np.asarray, parts)))[:count] for parts in zip(*results, strict=True))
    if not all(np.isfinite(output).all() for output in outputs):
        raise ValueError("`model` gives numbers that are not finite: it cannot be verified.")
    return outputs


def _packed(model, arrays):
    """Arrays as the model takes its inputs: alone, or in the lists and dicts that it was made with."""
    sequential = isinstance(model, keras.Sequential)
    return arrays[0] if sequential else keras.tree.pack_sequence_as(model.input, list(arrays))


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
    images, results = check_model(model)
    if len(images) != 1 or len(results) != 1:
        raise ValueError(f"`model` must have one input and one output, has {len(images)} and {len(results)}.")
    (image,), (result,) = images, results
    if len(image) != 3:
        raise ValueError(f"The input of `model` must be images `(batch, height, width, channels)`, is {image}.")
    if len(result) != 1:
        raise ValueError(f"`model` must give one vector an image, `(batch, classes)`, but gives {result}.")
    return image, result[0]


def check_model(model: keras.Model) -> tuple[list[Shape], list[Shape]]:
    """The shapes of one example, of each input and of each output, of a network that can be exported.

    Raises:
        ValueError: the model is not functional or sequential, or has open sides beside the batch, or computes in half
            precision.
    """
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not isinstance(model, keras.Model) or not inputs or not outputs:
        raise ValueError(f"`model` (={model!r}) must be a functional or sequential Keras model with a known input.")
    given, results = ([tuple(tensor.shape[1:]) for tensor in tensors] for tensors in (inputs, outputs))
    for shape in given:
        if None in shape:
            raise ValueError(
                f"Export needs a fixed image size, and the model takes {shape}: build it with a fixed `input_shape` "
                f"and load the weights into it."
            )
    for shape in results:
        if None in shape:
            raise ValueError(f"`model` must give results of a fixed size, but gives {shape}.")
    for layer in model.layers:
        if layer.compute_dtype in ("float16", "bfloat16"):
            raise ValueError(
                f"Layer '{layer.name}' of `model` computes in {layer.compute_dtype}, which runtimes on a CPU do not: "
                f"build the network under the dtype policy 'float32' and load the weights into it."
            )
    return given, results


def verification_images(data: np.ndarray | None, shape: tuple[int, int, int]) -> tuple[np.ndarray, str]:
    """As [`verification_inputs`], for one input of images."""
    (images,), description = verification_inputs(None if data is None else (data,), [shape])
    return images, description


def verification_inputs(
    data: Sequence[np.ndarray] | None, shapes: Sequence[Shape]
) -> tuple[tuple[np.ndarray, ...], str]:
    """The examples that an export is verified on, evenly spread over `data`, and what to call them.

    Returns:
        `(inputs, description)`, an array `(n, ...)` for each input; synthetic ones if `data` is `None`.
    """
    kind = "image" if all(len(shape) == 3 for shape in shapes) else "example"
    if data is None:
        inputs = synthetic_inputs(shapes, count=SYNTHETIC_IMAGES)
        return inputs, f"{len(inputs[0])} synthetic {kind}s"
    inputs = tuple(spread(array, VERIFICATION_IMAGES) for array in data)
    count = len(inputs[0])
    return inputs, f"{count} given {kind}{'s' if count > 1 else ''}"


def spread(images: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of the images, evenly spread from the first to the last."""
    return images[np.linspace(0, len(images) - 1, min(count, len(images))).round().astype(int)]


def synthetic_inputs(shapes: Sequence[Shape], *, count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Seeded examples for each input: [`synthetic_images`], and of other shapes numbers of the same range."""
    arrays = []
    for place, shape in enumerate(shapes):
        if len(shape) == 3:
            arrays.append(synthetic_images(shape, count=count, seed=seed + 100 * place))
        else:
            random = np.random.default_rng(seed + 100 * place)
            arrays.append(random.integers(0, 256, (count, *shape)).astype("uint8"))
    return tuple(arrays)


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
