"""Compare the accuracy of networks after sharing: transferred or untrained weights, with the original as teacher.

python -m benchmarks sharing_accuracy --share 50% channels:arrangements=2 --epochs 3 --update docs/share.md
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import keras_sharenets as ksn
from benchmarks.arguments import RunOptions, add_run_arguments, progress, run_options
from benchmarks.table import Row
from keras_sharenets import _checks, files
from keras_sharenets.analysis.catalog import replace_table
from keras_sharenets.analysis.copying import copy_network
from keras_sharenets.cli.command import Answer
from keras_sharenets.dtype_policies import POLICIES
from keras_sharenets.machine import describe_machine
from keras_sharenets.rendering.tables import markdown_table, short_names
from keras_sharenets.training.compress.steps import share_arguments
from keras_sharenets.training.data.augmentation import Augmentation, augment, draw_changes
from keras_sharenets.training.data.dataset import Arrays
from keras_sharenets.training.run.start import locate_network

DATA = "cifar10"
BEGIN, END = "<!-- sharing accuracy: begin -->", "<!-- sharing accuracy: end -->"
# To half and to a quarter, or as close as the scheme gets.
SHARES = ("50%", "channels:arrangements=2", "max_parameters=22000", "channels:arrangements=4")
IMAGES = 256  # Training images given to `share`.
READ_AFTER = (1, 3)  # Epochs after which the accuracy is measured, in addition to 0 and the last.
_TESTED = 1000  # Batch size for testing.
SAME = 0.002  # Difference between accuracies of one network on two machines; networks of two seeds differ by more.
# An epoch of resnet_8 took 47 s of processor time in bfloat16 on a CPU with AMX (66 s in float32), and 197 s on JAX; on
# a CPU without AVX-512, a step took 8 times as long in bfloat16 as in float32.
PRECISION = "bfloat16"


@dataclasses.dataclass(frozen=True)
class Training:
    """Whether weights are transferred, whether the original is the teacher, and the peak learning rate."""

    taken_over: bool
    teacher: bool
    rate: float


TRAININGS = {
    "taken+teacher": Training(True, True, 0.1),
    "taken": Training(True, False, 0.1),
    "untrained+teacher": Training(False, True, 0.3),
    "untrained": Training(False, False, 0.3),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(
        parser,
        repetitions=(1, 1),
        batch_size=(256, 8),
        quick="one epoch of 16 random images",
    )
    originals_help = "a run, a .keras file, or a pretrained network, on CIFAR-10 (default: resnet_8)"
    parser.add_argument("--originals", nargs="+", default=("resnet_8",), metavar="RUN|FILE|NAME", help=originals_help)
    parser.add_argument("--share", nargs="+", default=SHARES, metavar="HOW", help="as for `sharenets compress`")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="epochs of fine-tuning (default: 10)")
    precision_help = f"precision of training (default: {PRECISION}; slow on a CPU without it)"
    parser.add_argument("--precision", choices=POLICIES, default=PRECISION, help=precision_help)
    parser.add_argument("--trainings", nargs="+", default=tuple(TRAININGS), choices=TRAININGS, help="default: all")
    update_help = (
        f"add the rows to PAGE_accuracy.json next to this page and to its table, between {BEGIN} and {END}; existing "
        "rows are not trained again"
    )
    parser.add_argument("--update", metavar="PAGE.md", help=update_help)


def run(arguments: argparse.Namespace) -> Answer:
    """Rewrites the table after every training run; each repetition has its own seed.

    Raises:
        ValueError: an argument is invalid, or `--update` finds another network of the same name on the page.
    """
    options, rows = run_options(arguments), []
    _checks.positive("epochs", arguments.epochs)
    page = pathlib.Path(arguments.update) if arguments.update else None
    if page and options.quick:
        raise ValueError("`--update` excludes `--quick`: results for random images do not belong on a page.")
    on_page: dict[str, Any] = read_page(page) if page else {"rows": [], "originals": []}
    named = zip(short_names(arguments.originals), arguments.originals, strict=True)
    paths = {name: locate_network(source).path for name, source in named}
    train, test, note = _random_images() if options.quick else _cifar10()
    epochs = 1 if options.quick else arguments.epochs
    policy = POLICIES[arguments.precision]
    originals, answer = [], Answer("", {})
    for network, path in paths.items():
        original = files.load_model(path)
        teacher = copy_in_policy(original, policy, weights=True)
        parameters = ksn.profile(original).stored_parameters
        found = accuracy(original, test)
        originals.append({"network": network, "parameters": parameters, "accuracy": found})
        check_original(originals[-1], on_page["originals"])
        for how in arguments.share:
            progress(f"{network}: sharing, {how}")
            given = share_arguments(how, parameters)
            where = "*" if "scheme" in given else None
            shared = ksn.share(original, **given, where=where, sample_images=train.images[:IMAGES].astype("float32"))
            for seed in range(options.repetitions):
                for name in arguments.trainings:
                    training = TRAININGS[name]
                    row = {"network": network, "share": how, "parameters": shared.parameters}
                    row |= dataclasses.asdict(training) | {"precision": arguments.precision}
                    row |= {"batch_size": options.batch_size, "epochs": epochs, "seed": seed}
                    read = next((other["accuracy"] for other in on_page["rows"] if _is_of(other, row)), None)
                    if read is None:
                        how_long = {"options": options, "epochs": epochs, "seed": seed}
                        read = fine_tune(shared.model, teacher, training, train, test, policy=policy, **how_long)
                        progress(f"{network}, {how}, {name}, seed {seed}: {read}")
                    rows.append(row | {"accuracy": read})
                    answer = _write(rows, originals, note, options)
                    if page:
                        update_page(page, rows, originals)
    return answer


def check_original(original: Row, known: Sequence[Row]) -> None:
    """Checks that a network is the one of this name on a page, whose rows are then not trained again.

    Raises:
        ValueError: it has other parameters or another accuracy.

    >>> check_original({"network": "a", "parameters": 9, "accuracy": 0.8}, [])
    """
    for other in known:
        same = original["parameters"] == other["parameters"] and abs(original["accuracy"] - other["accuracy"]) <= SAME
        if original["network"] == other["network"] and not same:
            has, had = (f"{each['parameters']:,} parameters and {each['accuracy']:.2%}" for each in (original, other))
            raise ValueError(
                f"`originals` (={original['network']!r}) must be the network of that name on the page, "
                f"which has {had}, but it has {has}: rename its file or folder."
            )


def _cifar10() -> tuple[Arrays, Arrays, str]:
    from keras_sharenets.training.data.sources import load

    dataset = load(DATA)
    if not (isinstance(dataset.train, Arrays) and isinstance(dataset.test, Arrays)):
        raise ValueError(f"The images of {DATA} must be in memory.")
    return dataset.train, dataset.test, dataset.note


def _random_images() -> tuple[Arrays, Arrays, str]:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (24, 32, 32, 3), "uint8")
    labels = random.integers(0, 10, 24)
    return (
        Arrays(images[:16], labels[:16]),
        Arrays(images[16:], labels[16:]),
        "Random images: accuracies are meaningless",
    )


def copy_in_policy(model: keras.Model, policy: str, *, weights: bool) -> keras.Model:
    """The same network under another dtype policy, except for the preprocessing of pixels and the last layer.

    Args:
        model: functional.
        policy: such as `"mixed_bfloat16"`.
        weights: whether to copy the weights of `model`; otherwise they come from the initializers.
    """
    left = {model.layers[-1].name}

    def copy(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer.name not in left and not isinstance(layer, (keras.layers.InputLayer, keras.layers.Normalization)):
            config["dtype"] = policy
        return type(layer).from_config(config)

    def takes_over(layer: keras.layers.Layer) -> bool:
        # Pixel statistics are weights too, but not trained.
        return weights or isinstance(layer, keras.layers.Normalization)

    return copy_network(model, copy, takes_over)


def accuracy(model: keras.Model, images: Arrays) -> float:
    """Fraction of correctly classified images."""
    scores = model.predict(images.images.astype("float32"), batch_size=_TESTED, verbose=0)
    return float(np.mean(scores.argmax(axis=-1) == images.labels))


def fine_tune(
    shared: keras.Model,
    teacher: keras.Model,
    training: Training,
    train: Arrays,
    test: Arrays,
    *,
    policy: str,
    options: RunOptions,
    epochs: int,
    seed: int,
) -> dict[str, float]:
    """Trains a copy and returns its accuracies by number of epochs.

    SGD with Nesterov momentum 0.9; warm-up over a tenth of the steps, then cosine decay to 0. Images are shifted by up
    to 4 pixels, with mirrored borders, and half of them are mirrored at random. There is neither weight decay nor label
    smoothing. The teacher has the default weight of `keras_sharenets.distill`.
    """
    keras.utils.set_random_seed(seed)
    random = np.random.default_rng(seed)
    network = copy_in_policy(shared, policy, weights=training.taken_over)
    student = ksn.distill(network, teacher) if training.teacher else network
    steps = epochs * -(-len(train) // options.batch_size)
    rising, peak = steps // 10, training.rate
    rate = keras.optimizers.schedules.CosineDecay(peak / 20, int(0.9 * steps), warmup_target=peak, warmup_steps=rising)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True)
    # XLA makes convolutions on a CPU slower.
    student.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=keras.backend.backend() == "jax")
    changes = Augmentation(pad=4, flip=True, fill=(), border="reflect")
    read = {"0": accuracy(network, test)}
    for epoch in range(1, epochs + 1):
        images = augment(train.images, changes, draw_changes(changes, len(train), random))
        student.fit(images, train.labels, batch_size=options.batch_size, verbose=0)
        if epoch in (*READ_AFTER, epochs):
            read[str(epoch)] = accuracy(network, test)
    return read


def _write(rows: Sequence[Row], originals: Sequence[Row], note: str, options: RunOptions) -> Answer:
    data = {"note": note, "command": options.command, **describe_machine(), "originals": originals, "rows": rows}
    before = "; ".join(f"{each['network']}: {each['parameters']:,}, {each['accuracy']:.2%}" for each in originals)
    text = f"{note}. Parameters and accuracy before: {before}.\n\n{table(rows)}\n"
    files.write_json(options.folder / "sharing_accuracy.json", data)
    files.write_text(options.folder / "sharing_accuracy.md", text)
    return Answer(text, data)


def _is_of(row: Row, other: Row) -> bool:
    """Whether two rows belong to the same training run, regardless of accuracy."""
    return {**row, "accuracy": None} == {**other, "accuracy": None}


def _data_of(page: pathlib.Path) -> pathlib.Path:
    return page.with_name(f"{page.stem}_accuracy.json")


def read_page(page: pathlib.Path) -> dict[str, Any]:
    """The data of a page: its `rows`, the `originals`, and a `note`.

    Raises:
        ValueError: the page does not have both markers exactly once.
        OSError: there is no such page.
    """
    replace_table(page.read_text(encoding="utf-8"), "", begin=BEGIN, end=END)
    data = _data_of(page)
    return files.read_json(data) if data.is_file() else {"originals": [], "rows": []}


def update_page(page: pathlib.Path, rows: Sequence[Row], originals: Sequence[Row]) -> None:
    """Adds rows to those of a page, each training run once and grouped by sharing, and rewrites its table."""
    data = read_page(page)
    for network in originals:
        if network["network"] not in [known["network"] for known in data["originals"]]:
            data["originals"].append(network)
    data["rows"] += [row for row in rows if not any(_is_of(known, row) for known in data["rows"])]
    for key in ("share", "network"):
        firsts = list(dict.fromkeys(row[key] for row in data["rows"]))
        data["rows"].sort(key=lambda row, key=key, firsts=firsts: firsts.index(row[key]))
    files.write_json(_data_of(page), data)
    text = replace_table(page.read_text(encoding="utf-8"), f"{table(data['rows'])}\n", begin=BEGIN, end=END)
    files.write_text(page, text)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown, with accuracies in percent by number of epochs.

    >>> row = {"network": "resnet_8", "share": "50%", "parameters": 36554, "taken_over": True, "teacher": True}
    >>> row |= {"rate": 0.1, "precision": "float32", "batch_size": 256, "epochs": 3, "seed": 0}
    >>> print(table([row | {"accuracy": {"0": 0.5, "3": 0.75}}]))
    | network | shared | parameters | weights | teacher | precision | batch | epochs | rate | seed | after 0 | after 3 |
    | --- | --- | ---: | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
    | `resnet_8` | `50%` | 36,554 | transferred | yes | float32 | 256 | 3 | 0.1 | 0 | 50.0 | 75.0 |
    """
    epochs = sorted({int(epoch) for row in rows for epoch in row["accuracy"]})
    head = [
        "network",
        "shared",
        "parameters",
        "weights",
        "teacher",
        "precision",
        "batch",
        "epochs",
        "rate",
        "seed",
        *(f"after {n}" for n in epochs),
    ]
    cells = [
        [
            f"`{row['network']}`",
            f"`{row['share']}`",
            f"{row['parameters']:,}",
            "transferred" if row["taken_over"] else "untrained",
            "yes" if row["teacher"] else "no",
            *(str(row[name]) for name in ("precision", "batch_size", "epochs", "rate", "seed")),
            *(f"{100 * row['accuracy'][str(n)]:.1f}" if str(n) in row["accuracy"] else "" for n in epochs),
        ]
        for row in rows
    ]
    return markdown_table([head, *cells], align="llrlllrrrr" + "r" * len(epochs))
