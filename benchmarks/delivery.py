"""Compares the TFLite files that a network can be delivered as: small, fast, between, and TensorFlow's own.

python -m benchmarks delivery --networks hscnet_m128_g16_r8_a2 sharesnet_164 --output runs/delivery
"""

import pathlib
import tempfile

import keras

from benchmarks import litert, networks, results
from benchmarks.arguments import add_arguments as add_common_arguments
from benchmarks.arguments import progress, settle
from benchmarks.delivery_claims import claims
from keras_sharenets import _checks, mobile

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
BUDGETS = 5
PLAIN = "plain converter"
COLUMNS = {
    "file bytes": "{file_bytes:,}",
    "weight bytes": "{weight_bytes:,}",
    "stored weight bytes": "{stored_weight_bytes:,}",
    "delegates": "{delegates}",
    "outside": "{outside_text}",
    "median ms": "{milliseconds:.4g}",
    "quartiles": "{milliseconds_low:.4g} - {milliseconds_high:.4g}",
    "to speed": "{ratio:.3f}",
    "quartiles of the ratio": "{ratio_low:.3f} - {ratio_high:.3f}",
    "peak memory": "{peak_memory_bytes:,}",
}


def add_arguments(parser):
    add_common_arguments(parser, NETWORKS, QUICK)
    parser.add_argument("--threads", type=int, default=1, help="of LiteRT (default: 1)")
    scales_help = "signs of the normalisations' scales: a negative one costs a file of integers a step (mixed: 2 %%)"
    parser.add_argument("--scales", choices=networks.SCALES, default="positive", help=scales_help)


def run(args):
    """Writes the table anew after every network; prints it at the end."""
    _checks.one_of("KERAS_BACKEND", keras.backend.backend(), ("tensorflow",))
    _checks.positive("threads", args.threads)
    names, repetitions = settle(args)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            rows += measure(name, folder, scales=args.scales, threads=args.threads, repetitions=repetitions)
            table = make_table(rows, args.scales, args.threads, repetitions)
            written = results.write(table, args.output, args.command_line)
    return results.answer(written)


def make_table(rows, scales, threads, repetitions):
    """The `Table` of rows from `measure`."""
    note = (
        f"Random weights, {scales} scales of normalisations. LiteRT, {threads} thread{'s' if threads > 1 else ''}, "
        f"{repetitions} rounds in which the files of a network and precision take turns. Ratios are taken round by "
        'round, to the file made with `prefer="speed"`. weight bytes: all constants of the file; stored weight '
        "bytes: what the network's parameters take at this precision, shared ones once. budget k of "
        f"{BUDGETS}: `max_bytes` at k/{BUDGETS + 1} of the way from the size of the small file to that of the fast "
        "one; none where the two are one size. plain converter: TensorFlow's, on the Keras model; some of its files "
        "LiteRT refuses to run."
    )
    return results.Table(
        name="delivery",
        title="TFLite files of a network: small, fast and between",
        note=note,
        ratio='Time for a picture, as a multiple of that of the file made with prefer="speed"',
        panel="{network}, {precision}",
        label="{form}",
        columns=COLUMNS,
        rows=tuple(rows),
        claims=claims(rows),
    )


def measure(name, folder, *, scales, threads, repetitions):
    """Exports a named network in all forms and measures the files.

    Args:
        name: str, one of `keras_sharenets.list_models()`.
        folder: path for the files.
        scales: a key of `networks.SCALES`.
        threads, repetitions: int.

    Returns:
        A list of rows: dicts with the columns of `litert.measure_files`, and `network`, `precision`, `form`,
        `max_bytes`, `stored_weight_bytes`, `outside_text`, `peer`. What is measured in LiteRT is `None` where that
        refuses a file of TensorFlow's converter.
    """
    model = networks.build(name, scales)
    pictures = networks.pictures(model)
    rows = []
    for precision, quantization in PRECISIONS.items():
        target = pathlib.Path(folder) / name / precision
        forms, stored = _export(model, target, quantization, pictures)
        paths = {form: target / f"{form}.tflite" for form in forms}
        progress(f"{name}, {precision}: measuring {len(paths)} files")
        runnable = {form: path for form, path in paths.items() if form != PLAIN or litert.runs(path)}
        measured = litert.measure_files(runnable, threads, repetitions, peer="speed")
        unknown = dict.fromkeys(measured["speed"])
        for form, path in paths.items():
            row = {"network": name, "precision": precision, "form": form, "max_bytes": forms[form]}
            row |= {"stored_weight_bytes": stored, "peer": form == PLAIN} | unknown
            row |= {"file_bytes": path.stat().st_size} | measured.get(form, {})
            rows.append(row | {"outside_text": _outside(row)})
    return rows


def _outside(row):
    if row["outside"] is None:
        return "LiteRT refuses the file"
    return " + ".join(f"{count} {operator}" for operator, count in row["outside"].items()) or "nothing"


def _export(model, folder, quantization, pictures):
    """Writes `FORM.tflite` for every form; returns `{form: its max_bytes or None}` and the stored weight bytes."""

    def export(form, **how):
        progress(f"{model.name}, {quantization or 'float32'}: exporting, {form}")
        return mobile.export_tflite(
            model, folder / f"{form}.tflite", quantization=quantization, representative_data=pictures, **how
        )

    small, fast = (export(form, prefer=form) for form in ("size", "speed"))
    forms = {"size": None}
    for number, budget in enumerate(budgets(small.file_bytes, fast.file_bytes), 1):
        export(f"budget {number}", max_bytes=budget)
        forms[f"budget {number}"] = budget
    progress(f"{model.name}, {quantization or 'float32'}: converting plainly")
    plain = litert.convert_plainly(model, quantization, pictures)
    (folder / f"{PLAIN}.tflite").write_bytes(plain)
    return forms | {"speed": None, PLAIN: None}, small.stored_weight_bytes


def budgets(small, fast):
    """Sizes that divide the way from one size to a larger one evenly; none if it is not larger.

    >>> budgets(100, 160)
    [110, 120, 130, 140, 150]
    """
    return [small + (fast - small) * step // (BUDGETS + 1) for step in range(1, BUDGETS + 1)] if fast > small else []
