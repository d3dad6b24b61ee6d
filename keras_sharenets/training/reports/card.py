"""The model card of a finished run, from its record: Markdown with a head that model hubs read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets.models.weights import list_trained
from keras_sharenets.rendering.tables import markdown_table
from keras_sharenets.training.recipes.recipe import OPTIONS, PARTS, Recipe

if TYPE_CHECKING:
    from keras_sharenets.analysis.profile import Profile
    from keras_sharenets.models.counts import NetworkCounts
    from keras_sharenets.training.reports.results import Published
    from keras_sharenets.training.run.record import Run

CARD = "README.md"
# What a schedule uses; what belongs to others is left out of the card.
_OF_SCHEDULE = {
    "step": ("milestones", "decay_factor", "warmup_epochs"),
    "cosine": ("warmup_epochs",),
    "one_cycle": ("rise",),
    "plateau": ("decay_factor", "patience", "watch"),
}


def describe_trainer(trainer: Mapping[str, Any]) -> str:
    """The program that trained a network in place of `fit`, in one phrase."""
    return f"{trainer['program']}, on one {trainer['device']}, in {trainer['precision']}"


def model_card(published: Published, counts: Profile | NetworkCounts, *, address: str = "") -> str:
    """The card of a run, with figures of its int8 file where there is one.

    Args:
        published: the run.
        counts: those of its network.
        address: what `keras.saving.load_model` is to be given, where that is not the file in the folder of the run.

    Returns:
        Markdown.
    """
    run, int8 = published.run, published.int8
    data = run.data
    title = " ".join([run.model, *(f"{key}={value}" for key, value in run.options.items())])
    head = [
        *("---", "license: apache-2.0", "library_name: keras", "pipeline_tag: image-classification"),
        *("datasets:", f"- {data['name']}", "metrics:", "- accuracy", "---"),
    ]
    shape = "x".join(map(str, data["shape"]))
    normalized = f"normalizes them with mean {_numbers(data['mean'])} and variance {_numbers(data['variance'])}"
    images = (
        f"{data['name']}: {data['note']}. {data['train']:,} images to train, {data['test']:,} to test, {shape}, "
        f"{len(data['class_names'])} classes: {', '.join(data['class_names'])}. Pixels go in as they come, 0 to 255; "
        f"the network {normalized if run.recipe.normalization == 'channels' else 'whitens them'}."
    )
    figures = [
        ("what", "value"),
        ("test accuracy, Keras in float32", f"{published.accuracy:.2%}"),
        *(() if int8 is None else _int8_figures(int8)),
        ("stored parameters", f"{counts.stored_parameters:,}"),
        ("the same without sharing", f"{counts.effective_parameters:,}"),
        ("moving statistics", f"{counts.non_trainable_parameters:,}"),
        ("multiply-adds an image", f"{counts.multiply_adds:,}"),
    ]
    command = "export --formats hub" if address else "results --cards"
    made = f"This card is made from `metrics.json` and `export/export.json` by `sharenets {command}`."
    sections = {
        f"{title} on {data['name']}": f"```python\n{_usage(published, address)}\n```\n\n{made}",
        "Data": images,
        "Training": "\n".join(f"- {line}" for line in _training(run)),
        "Figures": markdown_table(figures),
        "Limits": "\n".join(f"- {line}" for line in _limits(run)),
        "License": "Apache-2.0, as the package. The images have terms of their own: see their source.",
    }
    body = [f"{'#' if number == 0 else '##'} {name}\n\n{text}" for number, (name, text) in enumerate(sections.items())]
    return "\n".join(head) + "\n\n" + "\n\n".join(body) + "\n"


def _int8_figures(int8: Mapping[str, Any]) -> list[tuple[str, str]]:
    accuracy = f"{int8['test_accuracy']:.2%}" if "test_accuracy" in int8 else "not measured"
    return [("test accuracy, int8 file", accuracy), ("int8 file", f"{int8['bytes']:,} bytes")]


def _usage(published: Published, address: str) -> str:
    for each in () if address else list_trained():
        if each.run == published.folder.name:
            arguments = "".join(f", {key}={value!r}" for key, value in each.options.items())
            create = f'model = ksn.create_model("{each.model}"{arguments}, weights="{each.weights}")'
            return f"import keras_sharenets as ksn\n\n{create}"
    load = f'model = keras.saving.load_model("{address or "last.keras"}")'
    return f"import keras\nimport keras_sharenets  # Keras does not know the layers without it\n\n{load}"


def _numbers(values: list[float]) -> str:
    return f"({', '.join(f'{value:.2f}' for value in values)})"


def _training(run: Run) -> list[str]:
    recipe = dataclasses.asdict(run.recipe)
    if run.dropout_rate is not None:  # That of the recipe is 0 where the network has one of its own.
        recipe["dropout"] = run.dropout_rate
    unused = {name for names in _OF_SCHEDULE.values() for name in names} - set(_OF_SCHEDULE[run.recipe.schedule])
    unused |= {name for name in PARTS if recipe[name] == getattr(Recipe, name)}
    unused |= set() if run.teacher else {"teacher_weight", "temperature"}
    used = [f"{field.name} {recipe[field.name]}" for field in OPTIONS if field.name not in unused]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    lines = [f"recipe `{run.recipe.name}`: {', '.join(used)}", f"seed {run.seed}, backend {run.backend}; {versions}"]
    if run.trainer is None:
        return [*lines, f"by `fit` of keras_sharenets, in {run.seconds / 60:.0f} minutes"]
    lines.append(f"by {describe_trainer(run.trainer)}")
    if "test_accuracy" in run.trainer:
        lines.append(f"test accuracy there, in that precision: {run.trainer['test_accuracy']:.2%}")
    return [*lines, *run.trainer["changes"], *run.trainer["notes"]]


def _limits(run: Run) -> list[str]:
    return [
        f"It knows the {len(run.data['class_names'])} classes above and answers with one of them, whatever the image.",
        "The test split was the validation data too; there was no third split."
        if run.split == "test"
        else "Epochs were compared on a validation split; the test split was gone through once, at the end.",
        "Latency is that of a machine and is not recorded: `sharenets benchmark export/int8.tflite` measures it.",
        "The figures are of one seed. The int8 file may differ from Keras about single images.",
        "It is an example for small devices and a start for other images, not made for decisions about people.",
    ]
