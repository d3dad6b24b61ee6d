"""Export of a trained classifier to a SavedModel for servers."""

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
from keras_sharenets.analysis.copying import copy_network, in_full_precision
from keras_sharenets.analysis.graph import calls
from keras_sharenets.heads import SIGMOID, THRESHOLD, Head, final_activation, head_of, head_of_end
from keras_sharenets.layers.quantized_kernels import inner
from keras_sharenets.mobile.export import calibration_check, verification
from keras_sharenets.mobile.export.conversion import output_name
from keras_sharenets.mobile.export.decoding import decode
from keras_sharenets.mobile.export.reference import ExportMismatchError, packed, run_keras
from keras_sharenets.mobile.export.representative_data import gather_images, verification_inputs

# A server runs the same graph as Keras; only the order of some additions may differ.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class SavedModelReport:
    """Result of `export_saved_model` and of the verification.

    Attributes:
        path: path of the folder.
        total_bytes: total size of its files.
        largest_difference: largest difference between the outputs of Keras and of either signature.
        verified_on: number and kind of the compared images.
        class_names: class names that the signatures return.
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
    """Exports a classifier to a SavedModel for TensorFlow Serving and verifies it against Keras.

    The SavedModel has two signatures:

    * `serving_default` takes `images`, float32 `(batch, height, width, channels)`, pixel values from 0 to 255.
    * `serve_encoded` takes `encoded`, a vector of strings, each with the bytes of an image file. Decoding matches
      `keras_sharenets.images.read_image` to within one step of 255: images are turned upright, resized, and converted
      between grayscale and RGB as the network requires. A request that contains an unreadable file fails; the message
      names its index and kind (see `decoding.decode`). Prefer JPEG and PNG, which every server reads in all modes.

    Programs that do not select a signature, such as TensorFlow's converter and `keras.layers.TFSMLayer`, get the first
    one.

    Both signatures return `probabilities` `(batch, units)`, called `scores` if the network does not end in a softmax or
    sigmoid. For classes they also return `class_names` `(batch, classes)`, the same in every row, and `class_name`
    `(batch,)`, the top class. A single sigmoid gives the probability of the second of two classes, so `class_name` is
    the second class above 0.5. With several sigmoids the classes are independent: `present` `(batch, classes)`,
    booleans, replaces `class_name`. A single number that is not a probability has no classes.

    The folder is put in place only after both signatures have been loaded again and have matched Keras to 1e-4 of the
    largest output, and the saved variables have been found equal to the model's.

    Args:
        model: functional or sequential `keras.Model` for images of a fixed size, with 1 or 3 channels.
        path: output folder; must not exist.
        class_names: sequence of strings, one per class; `None` for "0", "1" and so on. A single sigmoid unit has two.
        representative_data: array `(n, height, width, channels)` of pixel values for the comparison, or an iterable of
            such arrays; at most 64 images are used. `None` for 16 synthetic images. A `UserWarning` is issued if the
            images do not look like the training images.
        sample: former name of `representative_data`.

    Returns:
        A `SavedModelReport`.

    Raises:
        ValueError: an argument breaks a rule above; nothing is written.
        RuntimeError: the Keras backend is not TensorFlow.
        ExportMismatchError: the SavedModel does not compute what Keras computes; it is not written.
    """
    _checks.tensorflow_backend("Export", "load and export it there")
    shape, _ = verification.check_classifier(model)
    model = in_full_precision(model)
    if shape[-1] not in (1, 3):
        raise ValueError(
            f"`model` must take images of 1 or 3 channels so that it can take encoded ones; takes {shape}."
        )
    head = head_of(model)
    names = tuple(map(str, range(head.classes))) if class_names is None else head.check_names(class_names)
    path = pathlib.Path(path)
    if path.exists():
        raise ValueError(f"`path` (={str(path)!r}) exists. Choose a new folder so that no files are mixed up.")
    files.check_writable(path)
    if sample is not None:
        if representative_data is not None:
            raise ValueError("`sample` is the former name of `representative_data`: give one of them.")
        warnings.warn("`sample` is now called `representative_data`.", DeprecationWarning, stacklevel=2)
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
        size = files.folder_bytes(folder)
        files.replace_folder(folder, path)
    return SavedModelReport(str(path), size, difference, verified_on, names)


def _write(model, head, folder, names, shape):
    output = output_name(final_activation(model))

    @functools.partial(tf.function, input_signature=[tf.TensorSpec((None, *shape), tf.float32, name="images")])
    def classify(images):
        # The model itself, not its inference model: on a CPU Keras compiles native grouped convolutions with XLA, which
        # a server may lack.
        (results,) = keras.tree.flatten(model(packed(model, [images]), training=False))
        answer = {output: tf.cast(results, tf.float32)}
        if names:
            # In every row, because a server returns one row for each image of a request.
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
        # Calls the other function, so that the network is stored once.
        files, specification = (encoded, tf.range(tf.size(encoded))), tf.TensorSpec(shape, tf.float32)
        return classify(
            tf.map_fn(lambda file: decode(file[0], shape, file[1]), files, fn_output_signature=specification)
        )

    # `keras.export.ExportArchive` would write every variable twice, once as Keras' and once as TensorFlow's.
    module: Any = tf.Module()
    module.weights = [weight.value for weight in model.weights]
    signatures = {"serving_default": classify, "serve_encoded": classify_encoded}
    # TensorFlow's converter and `keras.layers.TFSMLayer` use the endpoint `serve` by default.
    for name, function in {**signatures, "serve": classify}.items():
        setattr(module, name, function)
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _verify(model, head, folder, names, images):
    """Loads the folder and runs both signatures; returns the largest difference or raises `ExportMismatchError`."""
    loaded = tf.saved_model.load(str(folder))
    saved = collections.Counter(variable.numpy().tobytes() for variable in loaded.weights)
    if collections.Counter(np.asarray(weight).tobytes() for weight in model.weights) - saved:
        raise ExportMismatchError("The SavedModel does not contain the weights of the model, and was not written.")
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
        # Written so that NaN fails.
        if not differences[-1] <= limit or not _meanings_match(results, head, names, outputs):
            raise ExportMismatchError(
                f"The signature {signature!r} does not compute what Keras computes on {len(images)} images, and the"
                f" SavedModel was not written: largest difference {differences[-1]:.2g} (limit {limit:.2g})."
            )
    return max(differences)


def _meanings_match(results, head, names, outputs):
    """Whether a signature returns the right class names or decisions with its outputs."""
    decisions = head.decide(outputs)
    if decisions is None:
        return set(results) == {"scores"}
    if head.kind == "multilabel":
        return np.array_equal(results["present"].numpy(), decisions)
    return results["class_name"].numpy().tolist() == [names[index].encode() for index in decisions]


@dataclasses.dataclass(frozen=True)
class ServedClassifier:
    """A loaded SavedModel.

    Attributes:
        shape: `(height, width, channels)` of an image.
        classify: function from images `(n, *shape)` to `(class names or None, Head, outputs (n, units))`.
    """

    shape: tuple[int, int, int]
    classify: Callable[[np.ndarray], tuple[tuple[str, ...] | None, Head, np.ndarray]]


def open_saved_model(path: str | os.PathLike) -> ServedClassifier:
    """Loads a folder written by [`export_saved_model`].

    Raises:
        ValueError: the folder has no SavedModel with the expected signature and outputs.
    """
    try:
        loaded = tf.saved_model.load(str(path))
        signature = loaded.signatures["serving_default"]
        shape = tuple(signature.structured_input_signature[1]["images"].shape[1:])
    except (OSError, KeyError, tf.errors.OpError) as error:
        raise ValueError(
            f"{path} is not a SavedModel with a signature 'serving_default' that takes 'images': {error}"
        ) from error
    if not {"probabilities", "scores"} & set(signature.structured_outputs):
        returned = ", ".join(map(repr, sorted(signature.structured_outputs)))
        raise ValueError(
            f"{path} was not written by `export_saved_model`: it returns {returned} instead of 'probabilities' or"
            " 'scores'."
        )

    def classify(images):
        # Keeps a reference to the loaded object: its variables live as long as it does.
        results = loaded.signatures["serving_default"](images=tf.constant(images, tf.float32))
        names = results.get("class_names")
        outputs = results["probabilities" if "probabilities" in results else "scores"].numpy()
        end = SIGMOID if "present" in results or (outputs.shape[-1] == 1 and "class_name" in results) else None
        names = None if names is None else tuple(name.decode() for name in names.numpy()[0])
        return names, head_of_end(end, outputs.shape[-1]), outputs

    return ServedClassifier(shape, classify)


def inference_model(model: keras.Model) -> keras.Model:
    """Copies a network and switches its layers to the implementation that is fastest in inference runtimes.

    Training folds repeated filters into the batch, which is fast under XLA. Inference runtimes run native grouped
    convolutions faster, and their files show the groups. A layer's `inference_implementation` names its choice.

    Args:
        model: built functional or sequential `keras.Model`. It is not changed.

    Returns:
        A new model with copies of the weights, the same sharing of layers, and the same outputs.

    Raises:
        ValueError: the model is neither functional nor sequential.

    >>> import keras_sharenets as ksn
    >>> model = ksn.create_model("hscnet_m32_g4_r2_b1_a2", input_shape=(16, 16, 3))
    >>> inference_model(model).get_layer("stage1_module1_convolution").spatial.implementation
    'grouped'
    """
    calls(model)  # Raises an error for models that cannot be copied call by call.
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
