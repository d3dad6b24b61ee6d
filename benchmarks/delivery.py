"""Compare the TFLite files of a network: small, fast, in between, and from TensorFlow's converter.

python -m benchmarks delivery --networks hscnet_m128_g16_r8_a2 sharesnet_164 --output runs/delivery
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import shutil
import tempfile
from collections.abc import Sequence

import keras

from benchmarks import peers, workloads
from benchmarks.arguments import APPLICATIONS, add_run_arguments, progress, run_options
from benchmarks.table import Claim, Row, Table, time_columns, write
from keras_sharenets import _checks, files, mobile
from keras_sharenets.cli.command import Answer
from keras_sharenets.mobile.inspect.tables import counted
from keras_sharenets.models.registry import find_family

# Keras networks have names such as "keras.applications.DenseNet121"; see `peers.build`.
NETWORKS = (
    "hscnet_m128_g16_r8_a2",
    "hgcnet_42_g4",
    "igcv2_star_c216_d20",
    "sharesnet_164",
    "sl3_resnet_64",
    "sl7_resnet_128",
)
QUICK = "hscnet_m32_g4_r2_b1_a2"
PRECISIONS = {"float32": None, "int8": "int8"}
# Fraction of negative scales in the normalization layers.
SCALES = {"positive": 0.0, "mixed": 0.02}
BUDGETS = 5
PLAIN = "plain converter"
COLUMNS = {
    "file bytes": "{file_bytes:,}",
    "weight bytes": "{weight_bytes:,}",
    "stored weight bytes": "{stored_weight_bytes:,}",
    "delegate partitions": "{delegate_partitions}",
    "undelegated operators": "{undelegated_text}",
    **time_columns("to speed"),
    "peak memory": "{peak_memory_bytes:,}",
}
# Families whose layers share parts of their kernels; the others share entire layers, or nothing.
KERNEL_SHARED = ("hscnet", "hgcnet", "igcnet")
SMALL_TO_FAST = {"float32": 1.4, "int8": 2.0}
LAYERS_SMALL_TO_FAST = 1.15
# Difference between two runs of the same file.
NOISE = 1.03


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser, networks=(NETWORKS, (QUICK,)), repetitions=(100, 3), quick=f"few repetitions of {QUICK}")
    parser.add_argument("--threads", type=int, default=1, help="threads of LiteRT (default: 1)")
    scales_help = "signs of the scales in normalization layers: a negative one costs an int8 file a step (mixed: 2 %%)"
    parser.add_argument("--scales", choices=SCALES, default="positive", help=scales_help)

    converted_help = "folder for the files of TensorFlow's converter; those in it are not converted again"
    parser.add_argument("--converted", metavar="DIR", help=converted_help)


def run(arguments: argparse.Namespace) -> Answer:
    """Rewrites the table after every network."""
    _checks.one_of("KERAS_BACKEND", keras.backend.backend(), ("tensorflow",))
    _checks.positive("threads", arguments.threads)
    options, rows = run_options(arguments), []
    threads = f"{arguments.threads} thread{'s' if arguments.threads > 1 else ''}"
    note = (
        f"Random weights, {arguments.scales} scales of normalization layers. LiteRT, {threads}, {options.repetitions} "
        "rounds in which the files of a network and precision run interleaved. Ratios are taken round by round, to the "
        'file with `prefer="speed"`. weight bytes: all constants of the file; stored weight bytes: size of the '
        f"network's parameters at this precision, shared ones once. budget k of {BUDGETS}: `max_bytes` at "
        f"k/{BUDGETS + 1} between the sizes of the small and the fast file; omitted if both have the same size. plain "
        "converter: TensorFlow's, on the Keras model; LiteRT rejects some of its files."
    )
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            rows += measure(
                name,
                pathlib.Path(folder),
                negative_share=SCALES[arguments.scales],
                threads=arguments.threads,
                repetitions=options.repetitions,
                converted=arguments.converted and pathlib.Path(arguments.converted) / arguments.scales,
            )
            table = Table(
                name="delivery",
                title="TFLite files of a network: small, fast, and in between",
                note=note,
                ratio='Time per image relative to the file with prefer="speed"',
                panel="{network}, {precision}",
                label="{form}",
                columns=COLUMNS,
                rows=tuple(rows),
                claims=claims(rows),
            )
            answer = write(table, options)
    return answer


def measure(
    name: str,
    folder: pathlib.Path,
    *,
    negative_share: float,
    threads: int,
    repetitions: int,
    converted: pathlib.Path | None = None,
) -> list[Row]:
    """Exports a named network in all forms and measures the files.

    Files of TensorFlow's converter are taken from the folder `converted`, or saved there.

    The rows have the columns of `workloads.measure_files` and the values that `COLUMNS` and [`claims`] need.
    Measurements in LiteRT are `None` if it rejects a file of TensorFlow's converter.
    """
    model = peers.build(name, negative_share=negative_share)
    rows = []
    for precision, quantization in PRECISIONS.items():
        target = folder / name / precision
        kept = converted and converted / name / precision
        max_bytes, stored = _export(name, model, target, quantization, kept or target)
        paths = {form: target / f"{form}.tflite" for form in max_bytes}
        progress(f"{name}, {precision}: measuring {len(paths)} files")
        runnable = {form: path for form, path in paths.items() if form != PLAIN or workloads.file_runs(path)}
        measured = workloads.measure_files(runnable, threads=threads, repetitions=repetitions, peer="speed")
        unknown = dict.fromkeys(measured["speed"])
        for form, path in paths.items():
            row = {"network": name, "precision": precision, "form": form, "max_bytes": max_bytes[form]}
            row |= {"stored_weight_bytes": stored, "peer": form == PLAIN} | unknown
            row |= {"file_bytes": path.stat().st_size} | measured.get(form, {})
            rows.append(row | {"undelegated_text": _undelegated(row)})
    return rows


def _undelegated(row: Row) -> str:
    if row["undelegated_operators"] is None:
        return "rejected by LiteRT"
    return counted(row["undelegated_operators"])


def _export(
    name: str, model: keras.Model, folder: pathlib.Path, quantization: str | None, converted: pathlib.Path
) -> tuple[dict[str, int | None], int]:
    """Writes `FORM.tflite` for every form; returns their `max_bytes` and the stored weight bytes."""
    images = peers.images(name, model)
    # Integer inputs and outputs, as in the file of TensorFlow's converter here.
    end_type = "int8" if quantization == "int8" else "float32"
    ends = {"input_type": end_type, "output_type": end_type}

    def export(form, **how):
        progress(f"{model.name}, {quantization or 'float32'}: exporting, {form}")
        return mobile.export_tflite(
            model, folder / f"{form}.tflite", quantization=quantization, representative_data=images, **ends, **how
        )

    forms: dict[str, int | None] = {}
    fast = export("speed", prefer="speed")
    if not name.startswith(APPLICATIONS):  # Nothing is shared in those: all forms are one.
        small = export("size", prefer="size")
        forms["size"] = None
        for number, budget in enumerate(budgets(small.file_bytes, fast.file_bytes), 1):
            export(f"budget {number}", max_bytes=budget)
            forms[f"budget {number}"] = budget
    progress(f"{model.name}, {quantization or 'float32'}: converting with TensorFlow")
    kept = converted / f"{PLAIN}.tflite"
    if not kept.exists():
        files.write_bytes(kept, workloads.convert_plainly(model, quantization, images))
    if kept.parent != folder:
        shutil.copy(kept, folder)
    return forms | {"speed": None, PLAIN: None}, fast.stored_weight_bytes


def budgets(small: int, fast: int) -> list[int]:
    """Evenly spaced sizes between one size and a larger one; none if it is not larger.

    >>> budgets(100, 160)
    [110, 120, 130, 140, 150]
    """
    return [small + (fast - small) * step // (BUDGETS + 1) for step in range(1, BUDGETS + 1)] if fast > small else []


def claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """The library's claims about its files, checked against rows of [`measure`].

    For each network and precision: the small file is slower only up to a limit, and no larger than the file of
    TensorFlow's converter; the fast file is no slower than that file, if it runs; between small and fast, no file is
    slower than a smaller one; every file is one delegate partition (except for an int8 softmax, which no delegate
    supports).
    """
    made = []
    for (network, precision), group in itertools.groupby(rows, lambda row: (row["network"], row["precision"])):
        *ours, plain = group
        ratios = [row["ratio"] for row in ours]
        kernels = not network.startswith(APPLICATIONS) and find_family(network) in KERNEL_SHARED
        values = []
        if len(ours) > 1:
            limit = SMALL_TO_FAST[precision] if kernels else LAYERS_SMALL_TO_FAST
            values.append(("time: small file / fast file", ratios[0], limit))
        if plain["ratio"] is not None:
            values.append(("time: fast file / plain converter", 1 / plain["ratio"], NOISE))
        values.append(("bytes: small file / plain converter", ours[0]["file_bytes"] / plain["file_bytes"], 1))
        if len(ours) > 1:
            values.append(("time: larger file / smaller file", slowest_step(ratios), NOISE))
        values.append(("partitions of a file in the runtime", max(map(parts, ours)), 1))
        made += [Claim(text, f"{network}, {precision}", value, limit) for text, value, limit in values]
    return tuple(made)


def slowest_step(ratios: Sequence[float]) -> float:
    """The largest ratio of a time to an earlier time.

    >>> slowest_step([4.0, 2.0, 3.0, 1.0])
    1.5
    """
    return max(later / earlier for earlier, later in itertools.combinations(ratios, 2))


def parts(row: Row) -> int:
    """Delegate partitions plus undelegated operators other than an int8 softmax."""
    softmax = ("int8", "SOFTMAX")
    others = [count for name, count in row["undelegated_operators"].items() if (row["precision"], name) != softmax]
    return row["delegate_partitions"] + sum(others)
