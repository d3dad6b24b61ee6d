"""`python -m benchmarks`: measures networks beside their peers, in a checkout."""

from __future__ import annotations

from collections.abc import Sequence

from keras_sharenets.cli.command import CommandLine, run_command_line

COMMANDS = {
    "delivery": ("benchmarks.delivery", "Compare the TFLite files that a network can be delivered as."),
    "inference": ("benchmarks.inference", "Compare what networks take for an image with mobile peers, in LiteRT too."),
    "input": ("benchmarks.input", "Compare how fast images are read and changed with how fast networks train."),
    "layers": ("benchmarks.layers", "Compare the implementations of every kernel-shared layer with dense ones."),
    "scaling": ("benchmarks.scaling", "Fit how a training step grows with G, R, T, depth, width and batch."),
    "serving": (
        "benchmarks.serving",
        "Compare a model behind a server, for 1 to 32 clients, with the model alone.",
    ),
    "sharing_accuracy": ("benchmarks.sharing_accuracy", "Compare what networks that were made to share reach."),
    "training": ("benchmarks.training", "Compare a whole step of training of networks with unshared baselines."),
}
LINE = CommandLine("python -m benchmarks", "Measures networks beside their peers.", COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    return run_command_line(LINE, argv)
