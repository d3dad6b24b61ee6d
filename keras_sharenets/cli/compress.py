"""Make a trained network smaller: share, prune, cluster, and quantize; each step is fine-tuned and measured.

sharenets compress runs/digits --share 50% --prune 0.6 --cluster 16 --quantization-aware --epochs 5 --output runs/small
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from keras_sharenets import _checks
from keras_sharenets.cli.arguments import (
    add_data_arguments,
    add_recipe_arguments,
    data_source,
    fine_tuning_recipe,
    load_data,
    named_recipe,
)
from keras_sharenets.cli.command import Answer, say, say_over
from keras_sharenets.extras import require
from keras_sharenets.files import check_paths
from keras_sharenets.rendering.tables import csv_table, text_table
from keras_sharenets.timing import UNSTEADY_NOTE, in_milliseconds
from keras_sharenets.training.compress.steps import BUDGETS, SCHEMES, SHARE, Step, make_steps
from keras_sharenets.training.run.start import locate_network

if TYPE_CHECKING:
    from keras_sharenets.training.compress.compress import Plan, Row

HEADER = ("step", "at once", "fine-tuned", "int8", "stored", "not 0", "float bytes", "gzip", "int8 bytes", "gzip", "ms")
NOTE = (
    "Accuracies are for the test split: at once, before fine-tuning; fine-tuned, with fake quantization after "
    "quantization-aware training; and for the int8 file. Stored counts trainable parameters, shared ones once; 'not 0' "
    "refers to kernels. Milliseconds are for one image with the int8 file in LiteRT, one thread, on this machine."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    target_help = "a run, a .keras file, or a pretrained network (`list --trained`)"
    parser.add_argument("target", nargs="?", metavar="RUN|FILE|NAME", help=target_help)
    share_help = (
        f"{', '.join(SCHEMES)}, with fields as in 'depth:policy=stage,blending=True'; or N%% of the parameters; or "
        f"{' or '.join(f'{name}=N' for name in BUDGETS)}; repeatable, with fine-tuning after each"
    )
    parser.add_argument("--share", action="append", default=[], metavar="HOW", help=share_help)
    where_help = (
        "names or patterns of the convolutions to share, quoted ('*': all; default: least loss per weight saved)"
    )
    parser.add_argument("--where", nargs="+", metavar="NAME", help=where_help)
    parser.add_argument("--prune", type=float, metavar="S", help="set this fraction of the kernel weights to 0")
    parser.add_argument(
        "--cluster", type=int, metavar="N", help="cluster the weights of each kernel into N distinct values"
    )
    aware_help = "train with the rounding of the int8 file"
    parser.add_argument("--quantization-aware", action="store_true", help=aware_help)
    parser.add_argument("--output", metavar="DIR", help="folder for all files; must be empty or new")
    resume_help = "resume the compression in this folder, with its original arguments"
    parser.add_argument("--resume", metavar="DIR", help=resume_help)
    images_help = "number of training images for sharing and calibration (default: 200)"
    parser.add_argument("--images", type=int, default=200, metavar="N", help=images_help)
    parser.add_argument("--seed", type=int, default=0, help="random seed for shuffling and augmentation (default: 0)")
    add_data_arguments(parser, required=False)
    add_recipe_arguments(parser)


def check(arguments: argparse.Namespace) -> None:
    if arguments.resume is not None:
        given = [arguments.target, arguments.output, arguments.prune, arguments.cluster, arguments.share or None]
        if any(value is not None for value in given) or arguments.quantization_aware:
            raise ValueError(
                "`--resume` continues with the original arguments: omit the network, the steps, and `--output`."
            )
        check_paths(arguments.resume)
        return
    for name in ("target", "output"):
        if getattr(arguments, name) is None:
            raise ValueError(
                f"`{'--' * (name == 'output')}{name}` is required; `--resume DIR` continues an existing compression."
            )
    _checks.positive("--images", arguments.images)
    named_recipe(arguments)
    _steps(arguments)
    if arguments.prune is not None or arguments.cluster is not None:
        require("tensorflow_model_optimization", "tf_keras")
    arguments.location = locate_network(arguments.target, argument="target")


def _steps(arguments: argparse.Namespace) -> tuple[Step, ...]:
    return make_steps(arguments.share, arguments.prune, arguments.cluster, arguments.quantization_aware)


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets.training.compress.compress import read_record, resume

    if arguments.resume is not None:
        plan, _ = read_record(arguments.resume)
        dataset = load_data(data_source(arguments, plan.data))
        return _answer(pathlib.Path(arguments.resume), plan, resume(arguments.resume, dataset, say=say, show=say_over))
    return _begin(arguments)


def _begin(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets import files
    from keras_sharenets.training.compress.compress import Plan, begin
    from keras_sharenets.training.run.fit import check_output
    from keras_sharenets.training.run.record import read_metrics

    output = check_output(arguments.output)
    _, path, name, _, class_names = arguments.location
    network = files.load_model(path)
    record = path.with_name("metrics.json")
    recorded = read_metrics(record).source if record.is_file() else None
    source = data_source(arguments, recorded)
    source.check_outside(output)
    dataset = load_data(source)
    if class_names is not None and list(class_names) != list(dataset.class_names):
        raise ValueError(f"The classes of {dataset.name} must match those of {arguments.target}.")
    plan = Plan(
        source=arguments.target,
        name=name or network.name,
        steps=_steps(arguments),
        where=None if arguments.where is None else tuple(arguments.where),
        images=arguments.images,
        recipe=fine_tuning_recipe(arguments, name or network.name, dataset),
        seed=arguments.seed,
        data=dataset.source and dataset.source.to_record(),
    )
    return _answer(output, plan, begin(network, plan, dataset, output, say=say, show=say_over))


def _answer(output: pathlib.Path, plan: Plan, rows: list[Row]) -> Answer:
    """The table, which is also written as CSV and as a page."""
    from keras_sharenets import files
    from keras_sharenets.rendering.page import page

    table = [HEADER, *map(_cells, rows)]
    entries = [dataclasses.asdict(row) for row in rows]
    note = " ".join([NOTE, *([UNSTEADY_NOTE] if any(row.unsteady for row in rows) else []), *larger_files(rows)])
    files.write_text(output / "compress.csv", csv_table(entries))
    files.write_text(output / "index.html", page(f"{plan.name}, compressed", note, {"": table}))
    data = {"model": plan.name, "output": str(output), "rows": entries}
    return Answer(f"{text_table(table)}\n\n{note}\nfiles in {output}", data)


def larger_files(rows: Sequence[Row]) -> list[str]:
    """A sentence for each sharing step after which the int8 file is larger than before."""
    return [
        f"After '{row.step}', the int8 file is {row.int8_bytes - before.int8_bytes:,} bytes larger than before: the "
        "operators and scales that sharing adds to the file can outweigh the weights that it saves."
        for before, row in itertools.pairwise(rows)
        if row.step.startswith(SHARE) and row.int8_bytes > before.int8_bytes
    ]


def _cells(row: Row) -> tuple[str, ...]:
    accuracies = (row.accuracy_before, row.accuracy, row.int8_accuracy)
    sizes = (row.float_bytes, row.float_gzip, row.int8_bytes, row.int8_gzip)
    return (
        row.step,
        *("-" if value is None else f"{value:.2%}" for value in accuracies),
        f"{row.stored_parameters:,}",
        f"{row.nonzero:.0%}",
        *(f"{size:,}" for size in sizes),
        in_milliseconds(row.int8_ms, unsteady=row.unsteady),
    )
