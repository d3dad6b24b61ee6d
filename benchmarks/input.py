"""Compares how fast pictures are read and changed for training with how fast the fastest networks train.

python -m benchmarks input --output runs/input
"""

import concurrent.futures
import functools
import pathlib
import tempfile

import keras
import numpy as np
import PIL.Image

from benchmarks import networks, results, steps, timing
from benchmarks.arguments import add_arguments as add_common_arguments
from benchmarks.arguments import chosen, progress, settle
from keras_sharenets.training.data.batches import Augmentation, Batches
from keras_sharenets.training.data.dataset import Arrays, Files

# The named networks with the fewest multiply-adds for a picture.
NETWORKS = ("igcv2_c64_d8", "igcv2_c80_d8", "hscnet_m32_g4_r2_b1_a2")
QUICK = "igcv2_c64_d8"
CLASSES = 10
# Where pictures of a shape come from, and the padding before they are cropped: as digits and CIFAR-10 are trained on.
SOURCES = {(8, 8, 1): ("memory",), (32, 32, 3): ("memory", "JPEG files", "PNG files")}
PAD = {(8, 8, 1): 1, (32, 32, 3): 4}
THREADS = (1, 2)
# Batches that one measured call fetches alone, and batches of one run of `fit`.
FETCHED, STEPS = 2, 8
COLUMNS = {
    "pictures/s": "{speed:,.0f}",
    "ms": "{milliseconds:.4g}",
    "quartiles": "{milliseconds_low:.4g} - {milliseconds_high:.4g}",
    "time to the network's": "{ratio:.3g}",
    "quartiles of the ratio": "{ratio_low:.3g} - {ratio_high:.3g}",
    "speed to the network's": "{speed_ratio:.3g}",
}
# How much longer `fit` of the fastest network may take than from a batch that is there: both want the same cores.
WAIT = 1.5


class Ready(keras.utils.PyDataset):
    """A batch that is there already, as often as a `Batches` has one.

    Args:
        batches: `Batches` whose first batch it is.
    """

    def __init__(self, batches):
        super().__init__()
        self.batch = batches[0]
        self.count = len(batches)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.batch


def add_arguments(parser):
    add_common_arguments(parser, NETWORKS, QUICK)
    parser.add_argument("--batch-size", type=int, metavar="N", help="pictures at a time (default: 128)")
    parser.set_defaults(default_batch_size=(128, 16))


def run(args):
    """Writes and prints the table."""
    batch_size = chosen(args, "batch_size")
    names, repetitions = settle(args)
    rows, waits = [], []
    for shape in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            sources = make_sources(shape, STEPS * batch_size, pathlib.Path(folder))
            models = {name: networks.build(name, input_shape=shape, num_classes=CLASSES) for name in names}
            progress(f"{form(shape)}: measuring the input and {len(models)} networks")
            measured = measure_input(shape, sources, models, batch_size, repetitions)
            rows += measured
            fastest = min((row for row in measured if row["peer"]), key=lambda row: row["milliseconds"])["what"]
            progress(f"{form(shape)}: measuring `fit` of {fastest}")
            waits += measure_fit(shape, sources, fastest, models[fastest], batch_size, fit_rounds(repetitions))
    table = make_table(rows + waits, claims(rows, waits), batch_size, repetitions)
    written = results.write(table, args.output, args.command_line)
    return results.answer(written)


def fit_rounds(repetitions):
    """Rounds for runs of `fit`, which have several steps each."""
    return -(-repetitions // 4)


def make_table(rows, made_claims, batch_size, repetitions):
    """The `Table` of rows with all columns."""
    note = (
        f"Batches of {batch_size} random pictures; times are for a batch, ratios are taken round by round. alone: "
        f"{repetitions} rounds in which the batches of the trainers, fetched in one thread or in two at a time, take "
        "turns with forward and gradients of the networks on a batch that is there already, without an optimizer. "
        "Files lie in the cache; a batch is decoded in several threads. augmented: padded, cropped and mirrored. "
        f"fit: {fit_rounds(repetitions)} rounds of `model.fit` of the fastest network, {STEPS} steps each, on these "
        "batches and on one that is there already; input and training share the cores."
    )
    return results.Table(
        name="input",
        title="Input of pictures, beside the training of the fastest networks",
        note=note,
        ratio="Time for a batch, as a multiple of that of the fastest network; grey: networks",
        panel="{panel}",
        label="{what}",
        columns=COLUMNS,
        rows=tuple(rows),
        claims=tuple(made_claims),
    )


def claims(rows, waits):
    """A `Claim` for every row that is no network's: input is no slower than training, and hardly holds it up."""
    limits = [("time of the input to a training step of the fastest network", rows, 1)]
    limits += [("fit to fit from a batch that is there already", waits, WAIT)]
    return [
        results.Claim(text, f"{row['panel']}: {row['what']}", row["ratio"], limit)
        for text, measured, limit in limits
        for row in measured
        if not row["peer"]
    ]


def form(shape):
    """A shape as it is written in tables.

    >>> form((32, 32, 3))
    '32x32x3'
    """
    return "x".join(map(str, shape))


def make_sources(shape, count, folder):
    """The sources of `SOURCES` with random pictures of one shape.

    Args:
        shape: a key of `SOURCES`.
        count: int, pictures of each.
        folder: path, where the files go.

    Returns:
        A dict, name to `Arrays` or `Files`.
    """
    random = np.random.default_rng(0)
    # Blots of 4x4 pixels rather than noise, which no photograph is.
    coarse = random.integers(0, 256, (count, shape[0] // 4, shape[1] // 4, shape[2]), "uint8")
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)
    labels = random.integers(0, CLASSES, count)
    sources = {"memory": Arrays(images, labels)}
    for name in SOURCES[shape][1:]:
        kind = name.split()[0].lower()
        paths = tuple(folder / f"{place}.{kind}" for place in range(count))
        for path, image in zip(paths, images, strict=True):
            PIL.Image.fromarray(image).save(path)
        sources[name] = Files(paths, labels, shape, resize=False)
    return sources


def make_batches(shape, source, batch_size, augmented):
    """Training `Batches` of a source, or without augmentation the pictures in order."""
    augmentation = Augmentation(PAD[shape], True, (127.0,) * shape[-1]) if augmented else None
    return Batches(source, CLASSES, batch_size, augmentation)


def fetch(batches, threads):
    """Fetches the first batches, some at a time."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(batches.__getitem__, range(FETCHED)))


def measure_input(shape, sources, models, batch_size, repetitions):
    """Rows for every way to get pictures of a shape, and for the networks, which are its peers.

    Returns:
        A list of dicts: the columns of `timing.figures`, to the fastest network, and what `COLUMNS` needs.
    """
    calls = {}
    for name, source in sources.items():
        for ending, augmented in (("", False), (", augmented", True)):
            batches = make_batches(shape, source, batch_size, augmented)
            for threads in THREADS:
                key = f"{name}{ending}, {threads} thread{'s' if threads > 1 else ''}"
                calls[key] = functools.partial(fetch, batches, threads)
    trained = {name: steps.make(model, batch_size, training=True, compiled=False) for name, model in models.items()}
    seconds = timing.take_turns(calls | trained, repetitions)
    seconds |= {name: np.divide(seconds[name], FETCHED) for name in calls}
    fastest = min(models, key=lambda name: timing.spread(seconds[name]).median)
    return _rows(f"{form(shape)}, alone", timing.figures(seconds, fastest), batch_size, models)


def measure_fit(shape, sources, name, model, batch_size, repetitions):
    """Rows for `fit` of a network on a batch that is there already, and on augmented pictures from every source."""
    inputs = {name: make_batches(shape, source, batch_size, True) for name, source in sources.items()}
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "categorical_crossentropy")
    ready = f"{name}, ready"
    calls = {ready: fit_call(model, Ready(inputs["memory"]))}
    calls |= {f"{key}, augmented": fit_call(model, batches, batches.callback()) for key, batches in inputs.items()}
    seconds = timing.take_turns(calls, repetitions, warmup=1)
    return _rows(f"{form(shape)}, fit", timing.figures(seconds, ready, STEPS), batch_size, (ready,))


def fit_call(model, batches, *callbacks):
    """A function without arguments that trains a compiled model on all batches once."""
    return functools.partial(model.fit, batches, shuffle=False, verbose=0, callbacks=list(callbacks))


def _rows(panel, measured, batch_size, peers):
    rows = []
    for what, columns in measured.items():
        speeds = {"speed": 1000 * batch_size / columns["milliseconds"], "speed_ratio": 1 / columns["ratio"]}
        rows.append({"panel": panel, "what": what, "peer": what in peers, **columns, **speeds})
    return rows
