"""`python -m benchmarks`: compares networks with their peers, in a checkout."""

from __future__ import annotations

from collections.abc import Sequence

from keras_sharenets.cli.command import CommandLine, run_command_line

COMMANDS = {
    "delivery": ("benchmarks.delivery", "Compare the TFLite files that a network can be exported to."),
    "inference": (
        "benchmarks.inference",
        "Compare the inference time of networks with mobile peers.",
    ),
    "input": ("benchmarks.input", "Compare the throughput of image input with that of training."),
    "layers": ("benchmarks.layers", "Compare the implementations of every kernel-shared layer with dense layers."),
    "scaling": ("benchmarks.scaling", "Fit how a training step scales with G, R, T, depth, width, and batch size."),
    "serving": (
        "benchmarks.serving",
        "Compare a model behind a server, for 1 to 32 clients, with direct calls.",
    ),
    "sharing_accuracy": (
        "benchmarks.sharing_accuracy",
        "Compare the accuracy of networks after sharing.",
    ),
    "training": ("benchmarks.training", "Compare full training steps of networks with unshared baselines."),
}
LINE = CommandLine("python -m benchmarks", "Compare networks with their peers.", COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    return run_command_line(LINE, argv)
