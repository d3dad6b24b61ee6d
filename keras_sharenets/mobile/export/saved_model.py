"""From a trained classifier to a SavedModel that a server loads."""

from __future__ import annotations

import collections
import dataclasses
import functools
import io
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import PIL.Image
import tensorflow as tf

from keras_sharenets import _checks, files
from keras_sharenets.analysis.graph import calls, copy_network, in_full_precision
from keras_sharenets.heads import SIGMOID, THRESHOLD, Head, final_activation, head_of, head_of_end
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.mobile.export import calibration_check, verification
from keras_sharenets.mobile.export.conversion import output_name
from keras_sharenets.mobile.export.decoding import decode
from keras_sharenets.mobile.export.reference import ExportMismatchError, run_keras
from keras_sharenets.mobile.export.representative_data import gather_images, verification_inputs

# A server runs the graph that Keras runs; only the order of some additions may differ.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class SavedModelReport:
    """What `export_saved_model` wrote, and how it was verified.

    Attributes:
        path: the folder.
        total_bytes: size of all files in it.
        largest_difference: the largest difference between an output of Keras and one of either signature.
        verified_on: number and kind of the images compared.
        class_names: what the signatures call the classes.
    """

    path: str
    total_bytes: int
    largest_difference: float
    verified_on: str
    class_names: tuple[str, ...]


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    *,
    class_names: Sequence[str] | None = None,
    representative_data: Iterable[Any] | None = None,
    sample: Iterable[Any] | None = None,
) -> SavedModelReport:
    """Writes a classifier as a SavedModel for TensorFlow Serving, after running it and comparing it with Keras.

    It has two signatures:

    * `serving_default` takes `images`, float32 `(batch, height, width, channels)`, pixel values from 0 to 255;
    * `serve_encoded` takes `encoded`, a vector of strings, each the bytes of an image file. They are read as
      `keras_sharenets.images.read_image` reads them, to one step of 255: upright, resized, gray ones for networks for
      RGB and the other way round. A request with a file that the graph cannot read so fails; the message has its index
      and what it is: see `decoding.decode`. Prefer JPEG and PNG, which every server reads in all their modes.

    What takes no name of a signature, as TensorFlow's converter and `keras.layers.TFSMLayer`, gets the first one.

    Both return `probabilities` `(batch, units)`, called `scores` if the network does not end in a softmax or sigmoid.
    Where there are classes, they return `class_names` `(batch, classes)` too, the same in every row, and `class_name`
    `(batch,)`, the class that comes first. Of one sigmoid, which gives the probability of the second of two classes,
    that is the second above 0.5. Of several, each class is there by itself or not: instead of `class_name` there is
    `present` `(batch, classes)`, booleans. One number that is no probability has no classes.

    The folder gets its name only after both signatures, loaded again, have given what Keras gives, to 1e-4 of the
    largest output, and the variables in it have been found equal to the model's.

    Args:
        model: functional or sequential `keras.Model` for images of a fixed size, with 1 or 3 channels.
        path: folder to write; must not exist.
        class_names: sequence of strings, one a class; `None` for "0", "1" and so on. One sigmoid unit has two.
        representative_data: array `(n, height, width, channels)` of pixel values to compare on, or an iterable of such
            arrays; at most 64 of them are used. `None` for 16 synthetic images. A `UserWarning` tells if they are not
            such as the network was trained on.
        sample: former name of `representative_data`.

    Returns:
        A `SavedModelReport`.

    Raises:
        ValueError: an argument breaks a rule above; nothing has been done then.
        RuntimeError: Keras does not run on TensorFlow.
        ExportMismatchError: the SavedModel does not compute what Keras computes; it is not written.
    """
    _checks.tensorflow_backend("Export", "load and export it there")
    shape, _ = verification.check_classifier(model)
    model = in_full_precision(model)
    if shape[-1] not in (1, 3):
        raise ValueError(f"`model` must take images of 1 or 3 channels, to be given encoded ones; takes {shape}.")
    head = head_of(model)
    names = tuple(map(str, range(head.classes))) if class_names is None else head.check_names(class_names)
    path = pathlib.Path(path)
    if path.exists():
        raise ValueError(f"`path` (={str(path)!r}) exists. Give a folder that does not, so that nothing is mixed up.")
    if sample is not None:
        if representative_data is not None:
            raise ValueError("`sample` is the former name of `representative_data`: give one of them.")
        warnings.warn("`sample` is called `representative_data` now.", DeprecationWarning, stacklevel=2)
        representative_data = sample
    if representative_data is not None:
        representative_data = gather_images("representative_data", representative_data, shape)
        calibration_check.check_images(model, representative_data, quantization=None)
    given = None if representative_data is None else (representative_data,)
    (images,), verified_on = verification_inputs(given, [shape])
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent) / "model"
        _write(model, head, folder, names, shape)
        difference = _verify(model, head, folder, names, images)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        files.replace_folder(folder, path)
    return SavedModelReport(str(path), size, difference, verified_on, names)


def _write(model, head, folder, names, shape):
    output = output_name(final_activation(model))

    @functools.partial(tf.function, input_signature=[tf.TensorSpec((None, *shape), tf.float32, name="images")])
    def classify(images):
        # The model as it is, not its inference model: on a CPU Keras gives native grouped convolutions to XLA, which a
        # server may lack.
        results = model(images, training=False)
        answer = {output: tf.cast(results, tf.float32)}
        if names:
            # In every row, because a server gives back one row for each image of a request.
            answer["class_names"] = tf.tile(tf.constant([names]), tf.stack([tf.shape(results)[0], 1]))
        if head.kind == "multilabel":
            answer["present"] = results > THRESHOLD
        elif names:
            first = (
                tf.argmax(results, axis=-1)
                if head.kind == "multiclass"
                else tf.cast(results[:, 0] > THRESHOLD, "int64")
            )
            answer["class_name"] = tf.gather(tf.constant(names), first)
        return answer

    @functools.partial(tf.function, input_signature=[tf.TensorSpec((None,), tf.string, name="encoded")])
    def classify_encoded(encoded):
        # A call of the other function, so that the network is in the file once.
        files, specification = (encoded, tf.range(tf.size(encoded))), tf.TensorSpec(shape, tf.float32)
        return classify(
            tf.map_fn(lambda file: decode(file[0], shape, file[1]), files, fn_output_signature=specification)
        )

    # Not with `keras.export.ExportArchive`: it writes every variable twice, once as Keras' and once as TensorFlow's.
    module: Any = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    signatures = {"serving_default": classify, "serve_encoded": classify_encoded}
    # TensorFlow's converter and `keras.layers.TFSMLayer` take what is called `serve` where no signature is named.
    for name, function in {**signatures, "serve": classify}.items():
        setattr(module, name, function)
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _verify(model, head, folder, names, images):
    """Loads the folder and runs both signatures; the largest difference, or an `ExportMismatchError`."""
    loaded = tf.saved_model.load(str(folder))
    saved = collections.Counter(variable.numpy().tobytes() for variable in loaded.weights)
    if collections.Counter(np.asarray(weight).tobytes() for weight in model.weights) - saved:
        raise ExportMismatchError("The SavedModel does not hold the weights of the model, and was not written.")
    pixels = np.clip(np.round(images), 0, 255).astype(np.uint8)
    runs = {
        "serving_default": ({"images": tf.constant(images, tf.float32)}, images),
        "serve_encoded": ({"encoded": tf.constant([_png(image) for image in pixels])}, pixels),
    }
    differences = []
    for signature, (inputs, given) in runs.items():
        expected = run_keras(model, given)
        limit = _TOLERANCE * max(1, np.abs(expected).max())
        results = loaded.signatures[signature](**inputs)
        outputs = results[output_name(final_activation(model))].numpy()
        differences.append(float(np.abs(outputs - expected).max()))
        # Written so that a difference that is no number fails.
        if not differences[-1] <= limit or not _says(results, head, names, outputs):
            raise ExportMismatchError(
                f"The signature {signature!r} does not compute what Keras computes on {len(images)} images, and the"
                f" SavedModel was not written: largest difference {differences[-1]:.2g} (at most {limit:.2g} is right)."
            )
    return max(differences)


def _says(results, head, names, outputs):
    """Whether a signature says of its outputs what they mean."""
    decisions = head.decide(outputs)
    if decisions is None:
        return set(results) == {"scores"}
    if head.kind == "multilabel":
        return np.array_equal(results["present"].numpy(), decisions)
    return results["class_name"].numpy().tolist() == [names[index].encode() for index in decisions]


@dataclasses.dataclass(frozen=True)
class ServedClassifier:
    """A SavedModel that was read.

    Attributes:
        shape: `(height, width, channels)` of an image.
        classify: function from images, `(n, *shape)`, to `(class names or None, Head, outputs (n, units))`.
    """

    shape: tuple[int, int, int]
    classify: Callable[[np.ndarray], tuple[tuple[str, ...] | None, Head, np.ndarray]]


def open_saved_model(path: str | os.PathLike) -> ServedClassifier:
    """Reads a folder that [`export_saved_model`] has written.

    Raises:
        ValueError: there is no SavedModel with its signature.
    """
    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
        shape = tuple(signature.structured_input_signature[1]["images"].shape[1:])
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise ValueError(
            f"{path} is no SavedModel with a signature 'serving_default' that takes 'images': {error}"
        ) from error

    def classify(images):
        # The loaded object is kept: its variables live as long as it does.
        results = loaded.signatures["serving_default"](images=tf.constant(images, tf.float32))
        names = results.get("class_names")
        outputs = results["probabilities" if "probabilities" in results else "scores"].numpy()
        end = SIGMOID if "present" in results or (outputs.shape[-1] == 1 and "class_name" in results) else None
        names = None if names is None else tuple(name.decode() for name in names.numpy()[0])
        return names, head_of_end(end, outputs.shape[-1]), outputs

    return ServedClassifier(shape, classify)


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
    copy = copy_network(model)
    for call in calls(copy):
        layer = inner(call.operation)
        if hasattr(layer, "inference_implementation"):
            layer.implementation = layer.inference_implementation
    return copy


def _png(image):
    encoded = io.BytesIO()
    PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(encoded, "PNG")
    return encoded.getvalue()
