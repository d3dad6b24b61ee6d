"""The model card of a finished run: Markdown with a metadata header for model hubs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets.models.variant import network_label
from keras_sharenets.models.weights import list_trained
from keras_sharenets.rendering.tables import markdown_table
from keras_sharenets.training.recipes.recipe import OPTIONS, PARTS, Recipe, unused_fields
from keras_sharenets.training.run.config import to_yaml

if TYPE_CHECKING:
    from keras_sharenets.analysis.profile import Profile
    from keras_sharenets.models.counts import NetworkCounts
    from keras_sharenets.training.reports.results import Published
    from keras_sharenets.training.run.record import Run

CARD = "README.md"
_LINE_LENGTH = 120  # Of code, as formatted in this project.


def describe_trainer(trainer: Mapping[str, Any]) -> str:
    """One phrase about the program, other than `fit`, that trained a network."""
    return f"{trainer['program']}, on one {trainer['device']}, in {trainer['precision']}"


def model_card(published: Published, counts: Profile | NetworkCounts, *, address: str = "") -> str:
    """The card of a run, with results of its int8 file if there is one.

    Args:
        published: the run.
        counts: counts of its network.
        address: argument for `keras.saving.load_model`; by default the file in the folder of the run.

    Returns:
        Markdown.
    """
    run, int8 = published.run, published.int8
    data = run.data
    title = network_label(run.model, run.options)
    head = [
        *("---", "license: apache-2.0", "library_name: keras", "pipeline_tag: image-classification"),
        *("datasets:", f"- {to_yaml(data['name'])}", "metrics:", "- accuracy", "---"),
    ]
    shape = "of varying size" if None in data["shape"] else "x".join(map(str, data["shape"]))
    side = run.recipe.crop_size
    crops = f" Its input is the center crop, {side}x{side}, of images whose short side is 8/7 of that." if side else ""
    normalized = f"normalizes them with mean {_numbers(data['mean'])} and variance {_numbers(data['variance'])}"
    splits = {"training": "train", "validation": "validation", "test": "test"}
    counts_told = [f"{data[name]:,} {split} images" for split, name in splits.items() if data.get(name)]
    images = (
        f"{data['name']}: {data['note']}. {', '.join(counts_told)}, {shape}, "
        f"{len(data['class_names'])} classes: {', '.join(data['class_names'])}. The input is raw pixels from 0 to 255; "
        f"the network {normalized if run.recipe.normalization == 'channels' else 'whitens them'}.{crops}"
    )
    figures = [
        ("metric", "value"),
        ("test accuracy, Keras in float32", f"{published.accuracy:.2%}"),
        *(() if int8 is None else _int8_figures(int8)),
        ("stored parameters", f"{counts.stored_parameters:,}"),
        ("parameters without sharing", f"{counts.effective_parameters:,}"),
        ("moving statistics", f"{counts.non_trainable_parameters:,}"),
        ("multiply-adds per image", f"{counts.multiply_adds:,}"),
    ]
    command = "export --formats hub" if address else "results --cards"
    made = f"This card is generated from `metrics.json` and `export/export.json` by `sharenets {command}`."
    sections = {
        f"{title} on {data['name']}": f"```python\n{_usage(published, address)}\n```\n\n{made}",
        "Data": images,
        "Training": "\n".join(f"- {line}" for line in _training(run)),
        "Results": markdown_table(figures),
        "Limitations": "\n".join(f"- {line}" for line in _limits(run)),
        "License": "Apache-2.0, like the package. The images have separate terms: see their source.",
    }
    body = [f"{'#' if number == 0 else '##'} {name}\n\n{text}" for number, (name, text) in enumerate(sections.items())]
    return "\n".join(head) + "\n\n" + "\n\n".join(body) + "\n"


def _int8_figures(int8: Mapping[str, Any]) -> list[tuple[str, str]]:
    accuracy = f"{int8['test_accuracy']:.2%}" if "test_accuracy" in int8 else "not measured"
    return [("test accuracy, int8 file", accuracy), ("int8 file", f"{int8['bytes']:,} bytes")]


def _usage(published: Published, address: str) -> str:
    for each in () if address else list_trained():
        if each.run == published.folder.name:
            named = {**each.options, "weights": each.weights}.items()
            arguments = ", ".join([f'"{each.model}"', *(f"{key}={_in_code(value)}" for key, value in named)])
            create = f"model = ksn.create_model({arguments})"
            if len(create) > _LINE_LENGTH:
                create = f"model = ksn.create_model(\n    {arguments}\n)"
            return f"import keras_sharenets as ksn\n\n{create}"
    load = f'model = keras.saving.load_model("{address or "last.keras"}")'
    return f"import keras\nimport keras_sharenets  # registers the layers with Keras\n\n{load}"


def _in_code(value: object) -> str:
    """An argument as formatted code: strings in double quotes."""
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _numbers(values: list[float]) -> str:
    return f"({', '.join(f'{value:.2f}' for value in values)})"


def _training(run: Run) -> list[str]:
    recipe = dataclasses.asdict(run.recipe)
    if run.dropout_rate is not None:  # The recipe has 0 if the network defines its own dropout.
        recipe["dropout"] = run.dropout_rate
    unused = set(unused_fields(run.recipe))
    unused |= {name for name in PARTS if recipe[name] == getattr(Recipe, name)}
    unused |= set() if run.teacher else {"teacher_weight", "temperature"}
    used = [f"{field.name} {recipe[field.name]}" for field in OPTIONS if field.name not in unused]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    lines = [f"recipe `{run.recipe.name}`: {', '.join(used)}", f"seed {run.seed}, backend {run.backend}; {versions}"]
    if run.trainer is None:
        return [*lines, f"by `fit` of keras_sharenets, in {run.seconds / 60:.0f} minutes"]
    lines.append(f"by {describe_trainer(run.trainer)}")
    if "test_accuracy" in run.trainer:
        lines.append(f"test accuracy in that program and precision: {run.trainer['test_accuracy']:.2%}")
    return [*lines, *run.trainer["changes"], *run.trainer["notes"]]


def _limits(run: Run) -> list[str]:
    return [
        f"The network predicts one of the {len(run.data['class_names'])} classes above for any image.",
        "The test split also served as validation data; there was no third split."
        if run.split == "test"
        else "Epochs were compared on a validation split; the test split was used once, at the end.",
        "Latency depends on the machine and is not recorded: `sharenets benchmark export/int8.tflite` measures it.",
        "The results are for one seed. Predictions of the int8 file may differ from Keras for individual images.",
        "The network is an example for small devices and a starting point for other images. It is not intended for "
        "decisions about people.",
    ]
