"""Compare the throughput of reading and augmenting images with that of training the fastest networks.

python -m benchmarks input --output runs/input
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import pathlib
import tempfile
from collections.abc import Callable, Container, Mapping, Sequence

import keras
import numpy as np
import PIL.Image

from benchmarks import peers, timing, workloads
from benchmarks.arguments import add_run_arguments, progress, run_options
from benchmarks.table import Claim, Row, Table, write
from keras_sharenets.cli.command import Answer
from keras_sharenets.timing import take_turns
from keras_sharenets.training.data.batches import Augmentation, Batches
from keras_sharenets.training.data.dataset import Arrays, Files

# The named networks with the fewest multiply-adds per image.
NETWORKS = ("igcv2_c64_d8", "igcv2_c80_d8", "hscnet_m32_g4_r2_b1_a2")
QUICK = "igcv2_c64_d8"
CLASSES = 10
# Sources of images by shape, and the padding before cropping: as in training on digits and CIFAR-10.
SOURCES = {(8, 8, 1): ("memory",), (32, 32, 3): ("memory", "JPEG files", "PNG files")}
PAD = {(8, 8, 1): 1, (32, 32, 3): 4}
THREADS = (1, 2)
# Batches per measured call of fetching alone, and per run of `fit`.
FETCHED, STEPS = 2, 8
COLUMNS = {
    "images/s": "{speed:,.0f}",
    "ms": "{milliseconds:.4g}",
    "quartiles": "{milliseconds_low:.4g} - {milliseconds_high:.4g}",
    "time to the network's": "{ratio:.3g}",
    "quartiles of the ratio": "{ratio_low:.3g} - {ratio_high:.3g}",
    "speed to the network's": "{speed_ratio:.3g}",
}
# Limit for `fit` of the fastest network relative to a prepared batch: input and training compete for the cores.
WAIT = 1.5

Shape = tuple[int, int, int]
Source = Arrays | Files


class Ready(keras.utils.PyDataset):
    """Repeats the first of the given batches as many times as there are batches: no input cost."""

    def __init__(self, batches: Batches):
        super().__init__()
        self.batch = batches[0]
        self.count = len(batches)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.batch


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(
        parser,
        networks=(NETWORKS, (QUICK,)),
        repetitions=(100, 3),
        batch_size=(128, 16),
        quick=f"few repetitions of {QUICK}",
    )


def run(arguments: argparse.Namespace) -> Answer:
    options = run_options(arguments)
    # Each run of `fit` has several steps.
    fit_rounds = -(-options.repetitions // 4)
    rows, waits = [], []
    for shape in SOURCES:
        with tempfile.TemporaryDirectory() as folder:
            sources = make_sources(shape, STEPS * options.batch_size, pathlib.Path(folder))
            models = {name: peers.build(name, input_shape=shape, num_classes=CLASSES) for name in options.networks}
            progress(f"{size_text(shape)}: measuring the input and {len(models)} networks")
            measured = measure_input(
                shape, sources, models, batch_size=options.batch_size, repetitions=options.repetitions
            )
            rows += measured
            fastest = min((row for row in measured if row["peer"]), key=lambda row: row["milliseconds"])["what"]
            progress(f"{size_text(shape)}: measuring `fit` of {fastest}")
            network = {fastest: models[fastest]}
            waits += measure_fit(shape, sources, network, batch_size=options.batch_size, repetitions=fit_rounds)
    note = (
        f"Batches of {options.batch_size} random images; times are per batch, ratios are taken round by round. "
        f"alone: {options.repetitions} rounds in which fetching training batches, in one thread or in two, and the "
        "forward pass and gradients of the networks on a prepared batch, without an optimizer, run interleaved. Files "
        "are in the page cache; a batch is decoded in several threads. augmented: padded, cropped, and mirrored. "
        f"fit: {fit_rounds} rounds of `model.fit` of the fastest network, {STEPS} steps each, on these batches and on "
        "a prepared batch; input and training share the cores."
    )
    table = Table(
        name="input",
        title="Image input compared with the training of the fastest networks",
        note=note,
        ratio="Time per batch relative to the fastest network; gray: networks",
        panel="{panel}",
        label="{what}",
        columns=COLUMNS,
        rows=(*rows, *waits),
        claims=claims(rows, waits),
    )
    return write(table, options)


def claims(rows: Sequence[Row], waits: Sequence[Row]) -> tuple[Claim, ...]:
    """One per input row: input is no slower than training, and delays it only slightly."""
    limits = [("time: input / training step of the fastest network", rows, 1)]
    limits += [("time: fit / fit with a prepared batch", waits, WAIT)]
    return tuple(
        Claim(text, f"{row['panel']}: {row['what']}", row["ratio"], limit)
        for text, measured, limit in limits
        for row in measured
        if not row["peer"]
    )


def size_text(shape: Shape) -> str:
    """A shape as written in tables.

    >>> size_text((32, 32, 3))
    '32x32x3'
    """
    return "x".join(map(str, shape))


def make_sources(shape: Shape, count: int, folder: pathlib.Path) -> dict[str, Source]:
    """The sources of `SOURCES` by name, each with `count` random images of one shape; files go into the folder."""
    random = np.random.default_rng(0)
    # Blocks of 4x4 pixels instead of noise, which is unlike photographs.
    coarse = random.integers(0, 256, (count, shape[0] // 4, shape[1] // 4, shape[2]), "uint8")
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)
    labels = random.integers(0, CLASSES, count)
    sources: dict[str, Source] = {"memory": Arrays(images, labels)}
    for name in SOURCES[shape][1:]:
        kind = name.split()[0].lower()
        paths = tuple(folder / f"{place}.{kind}" for place in range(count))
        for path, image in zip(paths, images, strict=True):
            PIL.Image.fromarray(image).save(path)
        sources[name] = Files(paths, labels, shape, resize=False)
    return sources


def make_batches(shape: Shape, source: Source, batch_size: int, *, augmented: bool) -> Batches:
    """Training batches of a source, or without augmentation the images in order."""
    augmentation = Augmentation(PAD[shape], True, (127.0,) * shape[-1]) if augmented else None
    return Batches(source, CLASSES, batch_size, augmentation)


def fetch(batches: Batches, threads: int) -> list:
    """Fetches the first batches, some at a time."""
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(batches.__getitem__, range(FETCHED)))


def measure_input(
    shape: Shape,
    sources: Mapping[str, Source],
    models: Mapping[str, keras.Model],
    *,
    batch_size: int,
    repetitions: int,
) -> list[Row]:
    """Rows for every source of images of a shape, and for the networks as peers.

    They have the columns of `timing.columns`, relative to the fastest network, and the values that `COLUMNS` needs.
    """
    calls = {}
    for name, source in sources.items():
        for ending, augmented in (("", False), (", augmented", True)):
            batches = make_batches(shape, source, batch_size, augmented=augmented)
            for threads in THREADS:
                key = f"{name}{ending}, {threads} thread{'s' if threads > 1 else ''}"
                calls[key] = functools.partial(fetch, batches, threads)
    trained = {
        name: workloads.model_pass(model, batch_size, training=True, compiled=False) for name, model in models.items()
    }
    seconds = take_turns(calls | trained, repetitions)
    seconds |= {name: np.divide(seconds[name], FETCHED) for name in calls}
    fastest = min(models, key=lambda name: timing.spread(seconds[name]).median)
    return _rows(f"{size_text(shape)}, alone", timing.columns(seconds, fastest), batch_size, models)


def measure_fit(
    shape: Shape,
    sources: Mapping[str, Source],
    network: Mapping[str, keras.Model],
    *,
    batch_size: int,
    repetitions: int,
) -> list[Row]:
    """Rows for `fit` of a network on a prepared batch, and on augmented images from every source."""
    ((name, model),) = network.items()
    inputs = {key: make_batches(shape, source, batch_size, augmented=True) for key, source in sources.items()}
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "categorical_crossentropy")
    ready = f"{name}, ready"
    calls = {ready: fit_call(model, Ready(inputs["memory"]))}
    calls |= {f"{key}, augmented": fit_call(model, batches, batches.callback()) for key, batches in inputs.items()}
    seconds = take_turns(calls, repetitions, warmup=1)
    return _rows(f"{size_text(shape)}, fit", timing.columns(seconds, ready, share=STEPS), batch_size, (ready,))


def fit_call(model: keras.Model, batches: keras.utils.PyDataset, *callbacks) -> Callable[[], object]:
    """A function without arguments that trains a compiled model on all batches once."""
    return functools.partial(model.fit, batches, shuffle=False, verbose=0, callbacks=list(callbacks))


def _rows(panel: str, measured: Mapping[str, Row], batch_size: int, peer_names: Container[str]) -> list[Row]:
    rows = []
    for what, columns in measured.items():
        speeds = {"speed": 1000 * batch_size / columns["milliseconds"], "speed_ratio": 1 / columns["ratio"]}
        rows.append({"panel": panel, "what": what, "peer": what in peer_names, **columns, **speeds})
    return rows
