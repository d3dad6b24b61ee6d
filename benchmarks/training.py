"""Compares a whole step of training of networks with their unshared twins, with drawings and with mobile peers.

python -m benchmarks training --models hscnet_m96_g8_r4_a2 sharesnet_164 --batch-size 32 --output runs/training
"""

import pathlib

import keras

import keras_sharenets as ksn
from benchmarks import results, timing, training_step
from benchmarks.arguments import add_run_arguments, chosen, progress
from benchmarks.memory import peak_memory
from benchmarks.training_claims import claims
from benchmarks.training_peers import PAPER, PAPER_NETWORK, beside
from keras_sharenets.models import find_variant

MODELS = (PAPER_NETWORK, "sharesnet_164", "sl3_resnet_64", "hgcnet_42_g4", "igcv2_star_c216_d20")
QUICK = ("hscnet_m32_g4_r2_b1_a2",)
COLUMNS = {
    "median ms": "{milliseconds:.4g}",
    "quartiles": "{milliseconds_low:.4g} - {milliseconds_high:.4g}",
    "to the network": "{ratio:.3f}",
    "quartiles of the ratio": "{ratio_low:.3f} - {ratio_high:.3f}",
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


def add_arguments(parser):
    parser.add_argument("--models", nargs="+", metavar="NAME", help=f"named networks (default: {' '.join(MODELS)})")
    parser.add_argument("--mixed-precision", action="store_true", help="dtype policy mixed_bfloat16")
    jit_help = "whether TensorFlow compiles a step with XLA; JAX always does (default: false)"
    parser.add_argument("--jit-compile", choices=("false", "true"), default="false", help=jit_help)
    add_run_arguments(parser, repetitions=(7, 2), batch_size=(64, 4), quick=f"few steps of {QUICK[0]}")
    memory_help = "also measure the memory, in a fresh process for each network (takes minutes)"
    parser.add_argument("--memory", action="store_true", help=memory_help)


def run(args):
    """Writes the table anew after every network; prints it at the end."""
    names = tuple(dict.fromkeys(args.models or (QUICK if args.quick else MODELS)))
    for name in names:
        find_variant(name)
    repetitions, batch_size = chosen(args, "repetitions"), chosen(args, "batch_size")
    pathlib.Path(args.output).mkdir(parents=True, exist_ok=True)
    policy = "mixed_bfloat16" if args.mixed_precision else "float32"
    how = {"batch_size": batch_size, "policy": policy, "jit_compile": args.jit_compile == "true"}
    peak, rows = timing.measure_peak(args.quick), []
    for name in names:
        rows += measure(name, repetitions=repetitions, memory=args.memory, **how)
        peak = max(peak, timing.measure_peak(args.quick))
        shares = [row | {"share_of_peak": row["multiply_adds_per_second"] / peak} for row in rows]
        written = results.write(make_table(shares, peak, repetitions, **how), args.output, args.command_line)
    return results.answer(written)


def make_table(rows, peak, repetitions, *, batch_size, policy, jit_compile):
    """The `Table` of rows from `measure` with `share_of_peak`; `peak` in multiply-adds a second."""
    note = (
        f"A step of training with {batch_size} random pictures: forward, cross-entropy, gradients, SGD with Nesterov's "
        f"momentum, no weight decay; {policy}, {'with' if jit_compile else 'without'} XLA where there is a choice. "
        f"{repetitions} rounds in which a network and what stands under it take turns; ratios are taken round by "
        "round, *to the network*: its own is 1, more is slower. A network with shared layers stands beside its "
        "unshared twin: the one that the library has by name (a ResNet for a ShaResNet), else *unshared*: the same "
        "network, every call with a layer and a full kernel of its own, HSC-Net's groups kept (R = T = 1). *as drawn*: "
        "that, of Keras' batch normalisation and of grouped convolutions that TensorFlow runs natively; left out where "
        "XLA compiles all. No twins, but what the papers compare with: SGCNet (no chain between groups) for HGCNet, "
        "Xception and IGC-V1 of about as many weights for IGC-V2. Mobile peers: the last map is 4x4, or *8x8* where "
        "the first three strides of 2 are 1. paper: its ratios to HSC-Net-M96 in table 2, which gives no strides. "
        "multiply-adds: of one picture, forward; a step is reckoned as three times that. share of peak: of the "
        f"{peak / 1e9:.4g} * 10^9 multiply-adds a second of a large float32 `keras.ops.matmul`, at the best moment. "
        "weight bytes: with moving statistics. peak memory: growth of a fresh process, building and compiling included."
    )
    return results.Table(
        name="training",
        title="A step of training, beside twins, drawings and peers",
        note=note,
        ratio="Time of a step, as a multiple of that of the network over the plot",
        panel="{network}",
        label="{contender}",
        columns=COLUMNS,
        rows=tuple(rows),
        claims=claims(rows),
    )


def measure(name, *, batch_size, policy, jit_compile, repetitions, memory=False):
    """Trains a named network and what it stands beside, in turns.

    Args:
        name: str, one of `keras_sharenets.list_models()`.
        batch_size, repetitions: int.
        policy: str, a dtype policy.
        jit_compile: bool, whether TensorFlow uses XLA.
        memory: bool, whether to measure the memory of each too, in a fresh process.

    Returns:
        A list of dicts, the network first, with the columns of `timing.figures` and what `COLUMNS` and
        `training_claims.claims` need, but for `share_of_peak`.
    """
    contenders = beside(name, drawing=keras.backend.backend() == "tensorflow" and not jit_compile)
    models, calls = {}, {}
    for contender in contenders:
        progress(f"{name}: building {contender.label}")
        models[contender.label] = contender.build(policy)
        calls[contender.label] = training_step.make(models[contender.label], batch_size, jit_compile)
    progress(f"{name}: measuring {len(calls)} networks")
    seconds = timing.take_turns(calls, repetitions, warmup=1)
    figures = timing.figures(seconds, name)
    rows = []
    for contender in contenders:
        label, model = contender.label, models[contender.label]
        row = {"network": name, "contender": label, "role": contender.role, "peer": contender.role != "network"}
        row |= figures[label] | {"to_peer": timing.ratio(seconds[name], seconds[label]).median}
        row |= dict(zip(("paper_training", "paper_test"), _paper(name, contender.name), strict=True))
        row |= counts(model, batch_size, row["milliseconds"])
        row["peak_memory_bytes"] = None
        if memory:
            progress(f"{name}: memory of {label}")
            row["peak_memory_bytes"] = peak_memory(
                training_step.train_new, contender.build, policy, batch_size, jit_compile
            )
        rows.append(row)
    return rows


def counts(model, batch_size, milliseconds):
    """The columns that follow from a model of `training_step.make` and the time of its step."""
    multiply_adds = ksn.profile(model).multiply_adds
    per_second = 3 * batch_size * multiply_adds / milliseconds * 1000
    weights, optimizer = training_step.stored_bytes(model)
    return {
        "compiled_text": "yes" if model.jit_compile else "no",
        "multiply_adds": multiply_adds,
        "multiply_adds_per_second": per_second,
        "speed": per_second / 1e9,
        "weight_bytes": weights,
        "optimizer_bytes": optimizer,
    }


def _paper(name, peer):
    return PAPER.get(peer, (None, None)) if name == PAPER_NETWORK else (None, None)
