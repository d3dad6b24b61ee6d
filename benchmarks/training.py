"""Compare full training steps of networks with unshared baselines, reference implementations, and mobile peers.

python -m benchmarks training --networks hscnet_m96_g8_r4_a2 sharesnet_164 --batch-size 32 --output runs/training
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import keras

import keras_sharenets as ksn
from benchmarks import timing, workloads
from benchmarks.arguments import add_run_arguments, progress, run_options
from benchmarks.peers import PAPER, PAPER_NETWORK, Contender, beside, shares_layers
from benchmarks.table import Claim, Row, Table, time_columns, write
from keras_sharenets.cli.command import Answer
from keras_sharenets.models import find_variant
from keras_sharenets.timing import take_turns

NETWORKS = (PAPER_NETWORK, "sharesnet_164", "sl3_resnet_64", "hgcnet_42_g4", "igcv2_star_c216_d20")
QUICK = "hscnet_m32_g4_r2_b1_a2"
COLUMNS = {
    **time_columns("to the network"),
    "paper, GPU training": "{paper_training:.2f}",
    "paper, CPU test": "{paper_test:.2f}",
    "network to it": "{to_peer:.3f}",
    "XLA": "{compiled_text}",
    "multiply-adds": "{multiply_adds:,}",
    "10^9 multiply-adds/s": "{speed:.4g}",
    "share of peak": "{share_of_peak:.1%}",
    "weight bytes": "{weight_bytes:,}",
    "optimizer bytes": "{optimizer_bytes:,}",
    "peak memory": "{peak_memory_bytes:,}",
}
TO_BASELINE = 1.03
# Fewer, by more than rounding.
FEWER = 0.99
TO_REFERENCE = {PAPER_NETWORK: 0.62}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(
        parser,
        networks=(NETWORKS, (QUICK,)),
        repetitions=(7, 2),
        batch_size=(64, 4),
        quick=f"few steps of {QUICK}",
    )
    parser.add_argument("--mixed-precision", action="store_true", help="dtype policy mixed_bfloat16")
    jit_help = "whether TensorFlow compiles a step with XLA; JAX always does (default: false)"
    parser.add_argument("--jit-compile", choices=("false", "true"), default="false", help=jit_help)
    memory_help = "also measure the memory, in a fresh process for each network (takes minutes)"
    parser.add_argument("--memory", action="store_true", help=memory_help)


def run(arguments: argparse.Namespace) -> Answer:
    """Rewrites the table after every network."""
    options = run_options(arguments)
    for name in options.networks:
        find_variant(name)  # Networks of Keras have no contenders.
    policy = "mixed_bfloat16" if arguments.mixed_precision else "float32"
    compiled = arguments.jit_compile == "true"
    peak, rows = timing.measure_peak(options.quick), []
    for name in options.networks:
        rows += measure(
            name,
            batch_size=options.batch_size,
            policy=policy,
            jit_compile=compiled,
            repetitions=options.repetitions,
            memory=arguments.memory,
        )
        peak = max(peak, timing.measure_peak(options.quick))
        note = (
            f"A training step with {options.batch_size} random images: forward pass, cross-entropy, gradients, SGD "
            f"with Nesterov momentum, no weight decay; {policy}, {'with' if compiled else 'without'} XLA where this is "
            f"optional. {options.repetitions} rounds in which the networks of a table run interleaved; ratios are "
            "taken round by round, *to the network*: its own ratio is 1, and larger is slower. A network with shared "
            "layers is compared with its unshared baseline: the named one if the library has it (a ResNet for a "
            "ShaResNet), otherwise *unshared*: the same network in which every call has its own layer with a full "
            "kernel, and HSC-Net's groups are kept (R = T = 1). *reference*: the unshared network with Keras batch "
            "normalization and native grouped convolutions of TensorFlow; omitted if XLA compiles everything. The "
            "papers' comparisons are not baselines: SGCNet (no chain between groups) for HGCNet, and Xception and "
            "IGC-V1 with about as many weights for IGC-V2. Mobile peers: the last feature map is 4x4, or *8x8* if the "
            "first three strides of 2 are 1. paper: its ratios to HSC-Net-M96 in table 2, which gives no strides. "
            "multiply-adds: of the forward pass for one image; a step counts three times that. share of peak: "
            f"relative to {peak / 1e9:.4g} * 10^9 multiply-adds per second of a large float32 `keras.ops.matmul`, the "
            "maximum of several measurements. weight bytes: including moving statistics. peak memory: growth of a "
            "fresh process, including building and compiling."
        )
        shares = [row | {"share_of_peak": row["multiply_adds_per_second"] / peak} for row in rows]
        table = Table(
            name="training",
            title="Training steps compared with unshared baselines, reference implementations, and peers",
            note=note,
            ratio="Step time relative to the network above the plot",
            panel="{network}",
            label="{contender}",
            columns=COLUMNS,
            rows=tuple(shares),
            claims=claims(rows),
        )
        answer = write(table, options)
    return answer


def measure(
    name: str, *, batch_size: int, policy: str, jit_compile: bool, repetitions: int, memory: bool = False
) -> list[Row]:
    """Trains a named network and its contenders, interleaved, under a dtype policy.

    The rows, the network first, have the columns of `timing.columns` and the values that `COLUMNS` and [`claims`] need,
    except `share_of_peak`; with `memory`, also the peak memory of a fresh process.
    """
    progress(f"{name}: building the network")
    network = Contender(name, role="network").build(policy)
    references = keras.backend.backend() == "tensorflow" and not jit_compile
    contenders = beside(name, shared=shares_layers(network), references=references)
    models = {name: network}
    for contender in contenders[1:]:
        progress(f"{name}: building {contender.label}")
        models[contender.label] = contender.build(policy)
    calls = {
        label: workloads.training_step(model, batch_size, jit_compile=jit_compile) for label, model in models.items()
    }
    progress(f"{name}: measuring {len(calls)} networks")
    seconds = take_turns(calls, repetitions, warmup=1)
    columns, rows = timing.columns(seconds, name), []
    for contender in contenders:
        label, model = contender.label, models[contender.label]
        paper = PAPER.get(contender.name, (None, None)) if name == PAPER_NETWORK else (None, None)
        multiply_adds = ksn.profile(model).multiply_adds
        per_second = 3 * batch_size * multiply_adds / columns[label]["milliseconds"] * 1000
        weights, optimizer = workloads.stored_bytes(model)
        row = {
            "network": name,
            "contender": label,
            "role": contender.role,
            "peer": contender.role != "network",
            **columns[label],
            "to_peer": timing.ratio(seconds[name], seconds[label]).median,
            "paper_training": paper[0],
            "paper_test": paper[1],
            "compiled_text": "yes" if model.jit_compile else "no",
            "multiply_adds": multiply_adds,
            "multiply_adds_per_second": per_second,
            "speed": per_second / 1e9,
            "weight_bytes": weights,
            "optimizer_bytes": optimizer,
            "peak_memory_bytes": None,
        }
        if memory:
            progress(f"{name}: memory of {label}")
            row["peak_memory_bytes"] = timing.peak_memory(
                workloads.train_new, contender.build, policy, batch_size, jit_compile
            )
        rows.append(row)
    return rows


def claims(rows: Sequence[Row]) -> tuple[Claim, ...]:
    """The library's claims about training steps, checked against rows of [`measure`].

    Sharing layers costs no time and saves weights and momenta, and a network is faster than its reference
    implementation by the stated factor.
    """
    networks = {row["network"]: row for row in rows if row["role"] == "network"}
    made = []
    for row in rows:
        where, ours = row["network"], networks[row["network"]]
        if row["role"] == "baseline":
            made += [
                Claim("step time: network / unshared baseline", where, row["to_peer"], TO_BASELINE),
                Claim("weight bytes: network / baseline", where, ours["weight_bytes"] / row["weight_bytes"], FEWER),
                Claim(
                    "optimizer bytes: network / baseline",
                    where,
                    ours["optimizer_bytes"] / row["optimizer_bytes"],
                    FEWER,
                ),
            ]
        if row["role"] == "reference" and where in TO_REFERENCE:
            made.append(Claim("step time: network / reference", where, row["to_peer"], TO_REFERENCE[where]))
    return tuple(made)
