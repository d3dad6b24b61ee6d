"""The `sharenets` command and the table of its subcommands. Each one is a module that is imported on demand."""

from __future__ import annotations

from collections.abc import Sequence

from keras_sharenets import __version__
from keras_sharenets.cli.command import CommandLine, run_command_line

_HERE = "keras_sharenets.cli"
COMMANDS = {
    "list": (f"{_HERE}.list", "List the named networks with their costs and the accuracy of pretrained ones."),
    "choose": (f"{_HERE}.choose", "Recommend networks for a task and a budget, with the command to train each."),
    "describe": (f"{_HERE}.describe", "Show the cost of a network call by call, or the contents of a .tflite file."),
    "table": (
        f"{_HERE}.table",
        "Show counts of named networks next to the figures in their papers, as Markdown tables.",
    ),
    "create": (f"{_HERE}.create", "Write a network to a .keras file, pretrained or untrained."),
    "fit": (f"{_HERE}.fit", "Train a network and write its files, or resume a run."),
    "find-rate": (
        f"{_HERE}.find_rate",
        "Suggest a learning rate for a network, and plot the loss against the rate.",
    ),
    "recipes": (f"{_HERE}.recipes", "List the training recipes, or show all fields of one."),
    "evaluate": (f"{_HERE}.evaluate", "Measure the accuracy of a .keras or .tflite file."),
    "predict": (f"{_HERE}.predict", "Classify images."),
    "report": (f"{_HERE}.report", "Write a report on a run or a search into its folder."),
    "compare": (f"{_HERE}.compare", "Compare several runs in tables and figures."),
    "results": (f"{_HERE}.results", "Generate the tables of published runs, next to the results in the papers."),
    "paper": (f"{_HERE}.paper", "Show a table or figure of a paper next to the results here; train missing runs."),
    "analyze": (f"{_HERE}.analyze", "Plot the weights, activations, filters, and blending layers of networks."),
    "blending": (f"{_HERE}.blending", "Prune the blending layers of a trained ShardNet step by step."),
    "compress": (
        f"{_HERE}.compress",
        "Share, prune, cluster, and quantize a trained network, step by step.",
    ),
    "export": (f"{_HERE}.export", "Export a .keras file or a run for phones and servers, and verify the files."),
    "page": (f"{_HERE}.page", "Build a web page that runs .tflite files in the browser."),
    "size": (f"{_HERE}.size", "Break down the size of .tflite files, side by side."),
    "benchmark": (
        f"{_HERE}.benchmark",
        "Measure latency, memory, and size of .tflite files with LiteRT, side by side.",
    ),
    "enumerate": (f"{_HERE}.enumerate", "List the networks of a search space within a budget, nearest to it first."),
    "search": (f"{_HERE}.search", "Search for the best network of a space within a budget."),
}
LINE = CommandLine("sharenets", "Small convolutional networks that reuse their filters.", COMMANDS, __version__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command of `sharenets`; returns its exit status."""
    return run_command_line(LINE, argv)
