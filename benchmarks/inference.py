"""Compare the inference time of networks with mobile peers and unshared baselines, in Keras and in LiteRT.

python -m benchmarks inference --networks hscnet_m128_g16_r8_a2 sharesnet_164 --output runs/inference
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

import keras_sharenets as ksn
from benchmarks import peers, timing, workloads
from benchmarks.arguments import APPLICATIONS, add_run_arguments, progress, run_options
from benchmarks.peers import LATER_STRIDES, PAPER, PAPER_NETWORK, PAPER_WIDER
from benchmarks.table import Claim, Row, Table, time_columns, write
from keras_sharenets import _checks, mobile
from keras_sharenets.analysis.randomization import random_images
from keras_sharenets.cli.command import Answer
from keras_sharenets.models import find_variant
from keras_sharenets.timing import take_turns

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
# The paper's network built from Keras layers and converted with TensorFlow's converter.
REFERENCE = f"{PAPER_NETWORK}, reference"
PRECISIONS = {"float32": None, "int8": "int8"}
# `tf.function` without and with XLA.
COMPILERS = {"Keras, tf.function": False, "Keras, XLA": True}
COLUMNS = {
    **time_columns(f"to {PEER}"),
    "paper, CPU test": "{paper:.2f}",
    "multiply-adds": "{multiply_adds:,}",
    "10^9 multiply-adds/s": "{speed:.4g}",
    "share of peak": "{share_of_peak:.1%}",
    "stored parameters": "{stored_parameters:,}",
    "file bytes": "{file_bytes:,}",
    "peak memory": "{peak_memory_bytes:,}",
}
# Limits relative to the reference implementation converted with TensorFlow's converter, by precision.
TO_REFERENCE = {"float32": 0.9, "int8": 0.72}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(
        parser,
        networks=(NETWORKS, (QUICK,)),
        repetitions=(100, 3),
        batch_size=(1, 1),
        quick=f"few repetitions of {QUICK}",
    )
    threads_help = "numbers of threads of LiteRT, measured one after another (default: 1 2)"
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", help=threads_help)
    shape_help = "image shape for all networks (default: 32 32 3)"
    parser.add_argument("--input-shape", type=int, nargs=3, default=(32, 32, 3), metavar="N", help=shape_help)
    parser.add_argument("--classes", type=int, default=10, help="number of classes of all networks (default: 10)")
    memory_help = "also measure the memory of Keras, in a fresh process for each network (takes minutes)"
    parser.add_argument("--memory", action="store_true", help=memory_help)


def run(arguments: argparse.Namespace) -> Answer:
    _checks.one_of("KERAS_BACKEND", keras.backend.backend(), ("tensorflow",))
    threads = arguments.threads or ((1,) if arguments.quick else (1, 2))
    for count in threads:
        _checks.positive("threads", count)
    options = run_options(arguments)
    sizes = {"input_shape": tuple(arguments.input_shape), "num_classes": arguments.classes}
    peaks, models = [timing.measure_peak(options.quick)], {}
    for name in with_peers(options.networks, (PEER,) if options.quick else PEERS):
        progress(f"building {name}")
        models[name] = build(name, **sizes)
    rows = measure_keras(models, batch_size=options.batch_size, repetitions=options.repetitions)
    if arguments.memory:
        for row in rows:
            progress(f"{row['runtime']}: memory of {row['network']}")
            compiled = COMPILERS[row["runtime"]]
            row["peak_memory_bytes"] = timing.peak_memory(
                run_ten_times, row["network"], sizes, options.batch_size, compiled
            )
    peaks.append(timing.measure_peak(options.quick))
    rows += measure_litert(models, threads=threads, repetitions=options.repetitions)
    peak = max(*peaks, timing.measure_peak(options.quick))
    profiles = {name: ksn.profile(model) for name, model in models.items()}
    for row in rows:
        profile = profiles[row["network"]]
        per_second = profile.multiply_adds / row["milliseconds"] * 1000
        row |= {
            "peer": row["network"] not in options.networks,
            "paper": paper_ratio(row["network"]),
            "multiply_adds": profile.multiply_adds,
            "stored_parameters": profile.stored_parameters,
            "multiply_adds_per_second": per_second,
            "speed": per_second / 1e9,
            "share_of_peak": per_second / peak,
        }
    note = (
        f"Random weights. {options.repetitions} rounds in which the networks of a table run interleaved; ratios are "
        f"taken round by round, to {PEER}. Times are per image; Keras uses all threads of the machine and batches of "
        f"{options.batch_size}, LiteRT single images. Files are exports of this library with "
        '`prefer="speed"`, also for the peers. '
        f"share of peak: relative to {peak / 1e9:.4g} * 10^9 multiply-adds per second of `keras.ops.matmul` with large "
        "float32 matrices and all threads, the maximum of three measurements; integers may exceed it. 8x8: with this "
        "last feature map for 32x32 pixels, instead of 4x4. reference: the paper's structure in Keras layers, "
        "converted by TensorFlow's converter. paper: the ratio in table 2 of HSC-Net's paper, which states neither the "
        "variant nor the runtime. stored parameters: trainable, shared ones once. peak memory: growth of a fresh "
        "process, including the runtime's own initialization."
    )
    table = Table(
        name="inference",
        title="Inference time compared with mobile peers and unshared baselines",
        note=note,
        ratio=f"Time per image relative to {PEER}; gray: peers and baselines",
        panel="{runtime}",
        label="{network}",
        columns=COLUMNS,
        rows=tuple(rows),
        claims=claims(rows, network=PAPER_NETWORK, reference=REFERENCE),
    )
    return write(table, options)


def with_peers(names: Sequence[str], peer_names: Sequence[str]) -> tuple[str, ...]:
    """Networks, each followed by its named unshared baseline, if any, and its reference; then the peers.

    >>> with_peers(["sharesnet_164", "hgcnet_42_g4"], ["mobilenet_v2_1_0"])
    ('sharesnet_164', 'resnet_164', 'hgcnet_42_g4', 'mobilenet_v2_1_0')
    """
    found = []
    for name in names:
        # Peers may also be given as networks.
        baseline = None if name.startswith(APPLICATIONS) else find_variant(name).unshared
        found += [name, *filter(None, (baseline, REFERENCE if name == PAPER_NETWORK else None))]
    return tuple(dict.fromkeys([*found, *peer_names]))


def build(name: str, *, input_shape: tuple[int, ...], num_classes: int) -> keras.Model:
    """A named network of the library, one of `PEERS`, or `REFERENCE`, with statistics as after training."""
    name, _, make = name.partition(", ")
    return peers.build(name, make=make, input_shape=input_shape, num_classes=num_classes)


def keras_call(model: keras.Model, batch_size: int, *, compiled: bool) -> Callable[[], Any]:
    """A function without arguments that runs a model once, on random images, and waits for the result."""
    run = workloads.model_pass(model, batch_size, training=False, compiled=compiled)
    return lambda: keras.ops.convert_to_numpy(run())


def run_ten_times(name: str, sizes: Mapping[str, Any], batch_size: int, compiled: bool) -> None:
    """Builds a network and runs it, in the fresh process whose memory is measured."""
    call = keras_call(build(name, **sizes), batch_size, compiled=compiled)
    for _ in range(10):
        call()


def measure_keras(models: Mapping[str, keras.Model], *, batch_size: int, repetitions: int) -> list[Row]:
    """Rows for every network under every compiler, with the columns of `timing.columns`; `PEER` is a network."""
    rows = []
    for runtime, compiled in COMPILERS.items():
        progress(f"{runtime}: measuring {len(models)} networks")
        calls = {name: keras_call(model, batch_size, compiled=compiled) for name, model in models.items()}
        measured = timing.columns(take_turns(calls, repetitions), PEER, share=batch_size)
        for name, columns in measured.items():
            rows.append({"network": name, "runtime": runtime, "file_bytes": None, "peak_memory_bytes": None, **columns})
    return rows


def measure_litert(models: Mapping[str, keras.Model], *, threads: Sequence[int], repetitions: int) -> list[Row]:
    """Rows for every network, precision, and number of threads; each also has the columns of `measure_files`."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for precision, quantization in PRECISIONS.items():
            paths = {name: pathlib.Path(folder) / f"{name}_{precision}.tflite" for name in models}
            for name, model in models.items():
                progress(f"LiteRT, {precision}: exporting {name}")
                images = random_images(model)
                if name == REFERENCE:
                    paths[name].write_bytes(workloads.convert_plainly(model, quantization, images))
                else:
                    data = {"quantization": quantization, "representative_data": images}
                    mobile.export_tflite(model, paths[name], prefer="speed", **data)
            for count in threads:
                runtime = f"LiteRT, {precision}, {count} thread{'s' if count > 1 else ''}"
                progress(f"{runtime}: measuring {len(models)} networks")
                measured = workloads.measure_files(paths, threads=count, repetitions=repetitions, peer=PEER)
                rows += [{"network": name, "runtime": runtime, **columns} for name, columns in measured.items()]
    return rows


def paper_ratio(name: str) -> float | None:
    """The CPU time per image relative to `PEER` in HSC-Net's paper (table 2); `None` if the paper has none.

    >>> f"{paper_ratio('igcv3_d_1_0'):.2f}, {paper_ratio('hscnet_m96_g8_r4_a2'):.2f}", paper_ratio("sharesnet_164")
    ('1.96, 0.54', None)
    """
    times = {PAPER_NETWORK: 1.0, **PAPER_WIDER} | {peer: test for peer, (_, test) in PAPER.items()}
    time = times.get(name.partition(", ")[0])
    return time and time / times[PEER]


def claims(rows: Sequence[Row], *, network: str, reference: str) -> tuple[Claim, ...]:
    """The library's claims about its times: the file of a network is faster than that of its reference."""
    times = {(row["network"], row["runtime"]): row["milliseconds"] for row in rows}
    made = []
    for runtime in dict.fromkeys(row["runtime"] for row in rows):
        ours, theirs = times.get((network, runtime)), times.get((reference, runtime))
        limit = next((limit for precision, limit in TO_REFERENCE.items() if f"LiteRT, {precision}" in runtime), None)
        if ours and theirs and limit:
            made.append(Claim("time: file / plain converter of the reference", runtime, ours / theirs, limit))
    return tuple(made)
