"""Compares what networks take for a picture with mobile peers and unshared twins, in Keras and in LiteRT.

python -m benchmarks inference --networks hscnet_m128_g16_r8_a2 sharesnet_164 --output runs/inference
"""

import functools
import pathlib
import tempfile

import keras
import tensorflow as tf

import keras_sharenets as ksn
from benchmarks import litert, networks, results, timing
from benchmarks.arguments import add_arguments as add_common_arguments
from benchmarks.arguments import progress, settle
from benchmarks.inference_claims import claims
from benchmarks.memory import peak_memory
from benchmarks.training_peers import LATER_STRIDES, MAKES, PAPER, PAPER_NETWORK
from keras_sharenets import _checks, mobile

NETWORKS = (
    PAPER_NETWORK,
    "hscnet_m128_g16_r8_a2",
    "hgcnet_42_g4",
    "igcv2_star_c216_d20",
    "sharesnet_164",
    "sl3_resnet_64",
)
QUICK = "hscnet_m32_g4_r2_b1_a2"
PEER, KERAS_PEER = "mobilenet_v2_1_0", "keras.applications.MobileNetV2"
PEERS = (PEER, "shufflenet_v2_2_0", "igcv3_d_1_0", *(f"{name}, 8x8" for name in LATER_STRIDES), KERAS_PEER)
# What TensorFlow's converter makes of the network as its paper draws it, out of Keras' layers.
DRAWING = f"{PAPER_NETWORK}, as drawn"
PRECISIONS = {"float32": None, "int8": "int8"}
# `tf.function` without and with XLA.
COMPILERS = {"Keras, tf.function": False, "Keras, XLA": True}
COLUMNS = {
    "median ms": "{milliseconds:.4g}",
    "quartiles": "{milliseconds_low:.4g} - {milliseconds_high:.4g}",
    f"to {PEER}": "{ratio:.3f}",
    "quartiles of the ratio": "{ratio_low:.3f} - {ratio_high:.3f}",
    "paper, CPU test": "{paper:.2f}",
    "multiply-adds": "{multiply_adds:,}",
    "10^9 multiply-adds/s": "{speed:.4g}",
    "share of peak": "{share_of_peak:.1%}",
    "stored parameters": "{stored_parameters:,}",
    "file bytes": "{file_bytes:,}",
    "peak memory": "{peak_memory_bytes:,}",
}


def add_arguments(parser):
    add_common_arguments(parser, NETWORKS, QUICK)
    parser.add_argument(
        "--threads", type=int, nargs="+", metavar="N", help="of LiteRT, one after another (default: 1 2)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="pictures at a time in Keras (default: 1)")
    shape_help = "of the pictures, for all networks (default: 32 32 3)"
    parser.add_argument("--input-shape", type=int, nargs=3, default=(32, 32, 3), metavar="N", help=shape_help)
    parser.add_argument("--classes", type=int, default=10, help="of all networks (default: 10)")
    memory_help = "also measure the memory of Keras, in a fresh process for each network (takes minutes)"
    parser.add_argument("--memory", action="store_true", help=memory_help)


def run(args):
    """Writes and prints the table."""
    _checks.one_of("KERAS_BACKEND", keras.backend.backend(), ("tensorflow",))
    threads = args.threads or ((1,) if args.quick else (1, 2))
    for count in threads:
        _checks.positive("threads", count)
    _checks.positive("batch_size", args.batch_size)
    names, repetitions = settle(args)
    peers = (PEER,) if args.quick else PEERS
    form = {"input_shape": tuple(args.input_shape), "num_classes": args.classes}
    peaks = [timing.measure_peak(args.quick)]
    models = {}
    for name in with_peers(names, peers):
        progress(f"building {name}")
        models[name] = build(name, **form)
    rows = measure_keras(models, args.batch_size, repetitions)
    if args.memory:
        rows = [row | {"peak_memory_bytes": _keras_memory(row, form, args.batch_size)} for row in rows]
    peaks.append(timing.measure_peak(args.quick))
    rows += measure_litert(models, threads, repetitions)
    peak = max(*peaks, timing.measure_peak(args.quick))
    table = make_table([row | _counts(row, models, peak, names) for row in rows], peak, args.batch_size, repetitions)
    written = results.write(table, args.output, args.command_line)
    return results.answer(written)


def make_table(rows, peak, batch_size, repetitions):
    """The `Table` of rows with all columns; `peak` in multiply-adds a second."""
    note = (
        f"Random weights. {repetitions} rounds in which the networks of one table take turns; ratios are taken round "
        f"by round, to {PEER}. Times are for one picture; Keras, with all threads of the machine, gets {batch_size} at "
        'a time and LiteRT one. Files are exports of this library with `prefer="speed"`, also those of the peers. '
        f"share of peak: of the {peak / 1e9:.4g} * 10^9 multiply-adds a second that `keras.ops.matmul` of large "
        "float32 matrices reached here with all threads, at the best of three moments; integers may exceed it. 8x8: "
        "with that last map for 32x32 pixels, not 4x4. as drawn: of Keras' own layers, the file by TensorFlow's "
        "converter. paper: the ratio in table 2 of HSC-Net's, which says neither which form nor what ran it. stored "
        "parameters: trainable, shared ones once. peak memory: growth of a fresh process, with what the runtime itself "
        "first uses then."
    )
    return results.Table(
        name="inference",
        title="Time for a picture, beside mobile peers and unshared twins",
        note=note,
        ratio=f"Time for a picture, as a multiple of that of {PEER}; grey: peers and twins",
        panel="{runtime}",
        label="{network}",
        columns=COLUMNS,
        rows=tuple(rows),
        claims=claims(rows, PAPER_NETWORK, DRAWING),
    )


def with_peers(names, peers):
    """Networks, each before its unshared twin where the library has one by name, and its drawing; then the peers.

    >>> with_peers(["sharesnet_164", "hgcnet_42_g4"], ["mobilenet_v2_1_0"])
    ('sharesnet_164', 'resnet_164', 'hgcnet_42_g4', 'mobilenet_v2_1_0')
    """
    drawings = {PAPER_NETWORK: DRAWING}
    beside = [entry for name in names for entry in (name, networks.find_twin(name), drawings.get(name)) if entry]
    return tuple(dict.fromkeys([*beside, *peers]))


def build(name, *, input_shape, num_classes):
    """A network by its name in the library, one of `PEERS` or `DRAWING`, with statistics as after training."""
    name, _, make = name.partition(", ")
    keras.utils.set_random_seed(0)
    if name == KERAS_PEER:
        model = keras.applications.MobileNetV2(input_shape=input_shape, weights=None, classes=num_classes)
    else:
        model = MAKES[make](name, input_shape=input_shape, num_classes=num_classes)
    networks.randomize_batchnorm(model)
    return model


def keras_call(model, batch_size, jit_compile):
    """A function without arguments that runs a model once, on random pictures, and waits for the result."""
    pictures = tf.constant(networks.pictures(model, batch_size))
    function = tf.function(functools.partial(model, training=False), jit_compile=jit_compile)
    return lambda: function(pictures).numpy()


def measure_keras(models, batch_size, repetitions):
    """Rows for every network under every compiler.

    Args:
        models: dict, name to `keras.Model`; `PEER` is among them.
        batch_size, repetitions: int.

    Returns:
        A list of dicts with the columns of `timing.figures`, and `network`, `runtime`, `file_bytes` and
        `peak_memory_bytes`, which are `None`.
    """
    rows = []
    for runtime, jit_compile in COMPILERS.items():
        progress(f"{runtime}: measuring {len(models)} networks")
        calls = {name: keras_call(model, batch_size, jit_compile) for name, model in models.items()}
        measured = timing.figures(timing.take_turns(calls, repetitions), PEER, batch_size)
        for name, columns in measured.items():
            rows.append({"network": name, "runtime": runtime, "file_bytes": None, "peak_memory_bytes": None, **columns})
    return rows


def run_once(name, form, batch_size, jit_compile):
    """Builds a network and runs it ten times: what a fresh process does whose memory is measured."""
    call = keras_call(build(name, **form), batch_size, jit_compile)
    for _ in range(10):
        call()


def _keras_memory(row, form, batch_size):
    progress(f"{row['runtime']}: memory of {row['network']}")
    return peak_memory(run_once, row["network"], form, batch_size, COMPILERS[row["runtime"]])


def measure_litert(models, threads, repetitions):
    """Rows for every network, precision and number of threads; each has the columns of `litert.measure_files` too."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for precision, quantization in PRECISIONS.items():
            paths = {name: pathlib.Path(folder) / f"{name}_{precision}.tflite" for name in models}
            for name, model in models.items():
                progress(f"LiteRT, {precision}: exporting {name}")
                _export(name, model, paths[name], quantization)
            for count in threads:
                runtime = f"LiteRT, {precision}, {count} thread{'s' if count > 1 else ''}"
                progress(f"{runtime}: measuring {len(models)} networks")
                for name, columns in litert.measure_files(paths, count, repetitions, PEER).items():
                    rows.append({"network": name, "runtime": runtime, **columns})
    return rows


def _export(name, model, path, quantization):
    pictures = networks.pictures(model)
    if name == DRAWING:
        path.write_bytes(litert.convert_plainly(model, quantization, pictures))
    else:
        mobile.export_tflite(model, path, quantization=quantization, representative_data=pictures, prefer="speed")


def _counts(row, models, peak, names):
    """The columns that follow from a network and its time."""
    profile = _profile(models[row["network"]])
    per_second = profile.multiply_adds / row["milliseconds"] * 1000
    return {
        "peer": row["network"] not in names,
        "paper": paper_ratio(row["network"]),
        "multiply_adds": profile.multiply_adds,
        "stored_parameters": profile.stored_parameters,
        "multiply_adds_per_second": per_second,
        "speed": per_second / 1e9,
        "share_of_peak": per_second / peak,
    }


def paper_ratio(name):
    """The time for a picture on a CPU to that of `PEER`, as HSC-Net's paper has it (table 2); `None` if it has none.

    >>> f"{paper_ratio('igcv3_d_1_0'):.2f}, {paper_ratio('hscnet_m96_g8_r4_a2'):.2f}", paper_ratio("sharesnet_164")
    ('1.96, 0.54', None)
    """
    times = {PAPER_NETWORK: 1.0} | {peer: test for peer, (_, test) in PAPER.items()}
    time = times.get(name.partition(", ")[0])
    return time and time / times[PEER]


@functools.cache
def _profile(model):
    return ksn.profile(model)
