"""The command `sharenets`: a table of its commands. Each is a module of its own, imported when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from keras_sharenets import __version__
from keras_sharenets.cli.command import CommandLine, run_command_line

_HERE = "keras_sharenets.cli"
COMMANDS = {
    "list": (f"{_HERE}.list", "List the named networks: what they cost, and how right those are that come trained."),
    "choose": (f"{_HERE}.choose", "Propose networks for a task and a budget, each with the command to train it."),
    "describe": (f"{_HERE}.describe", "Show weights and multiply-adds of a network, or what is in a .tflite file."),
    "table": (
        f"{_HERE}.table",
        "Show counts of named networks beside what their papers print, as Markdown tables.",
    ),
    "create": (f"{_HERE}.create", "Write a network as a .keras file, trained or not."),
    "fit": (f"{_HERE}.fit", "Train a network and write its files, or resume a run."),
    "find-rate": (
        f"{_HERE}.find_rate",
        "Suggest a learning rate for a network, and draw the loss over it.",
    ),
    "recipes": (f"{_HERE}.recipes", "List the recipes for training, or show all fields of one."),
    "evaluate": (f"{_HERE}.evaluate", "Measure the accuracy of a .keras or .tflite file."),
    "predict": (f"{_HERE}.predict", "Name what is in images."),
    "report": (f"{_HERE}.report", "Write a page about a run or a search into its folder."),
    "compare": (f"{_HERE}.compare", "Put several runs into one figure and one table."),
    "results": (f"{_HERE}.results", "Make the tables of published runs, beside what the papers print."),
    "paper": (f"{_HERE}.paper", "Show a table or figure of a paper beside what is here; train what it needs."),
    "analyze": (f"{_HERE}.analyze", "Draw weights, activations, filters and blending layers of networks."),
    "blending": (f"{_HERE}.blending", "Prune the blending layers of a trained ShardNet step by step."),
    "compress": (
        f"{_HERE}.compress",
        "Share, prune, cluster and quantize a trained network, step by step.",
    ),
    "export": (f"{_HERE}.export", "Turn a .keras file or a run into files for phones and servers, checked."),
    "page": (f"{_HERE}.page", "Write a web page that runs .tflite files in the browser."),
    "size": (f"{_HERE}.size", "Show what the bytes of .tflite files are spent on, side by side."),
    "benchmark": (f"{_HERE}.benchmark", "Measure time, memory and size of .tflite files with LiteRT, side by side."),
    "enumerate": (f"{_HERE}.enumerate", "List networks of a search space within a budget, the nearest first."),
    "search": (f"{_HERE}.search", "Look for the best network of a space within a budget."),
}
LINE = CommandLine("sharenets", "Small convolutional networks that reuse their filters.", COMMANDS, __version__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command of `sharenets`; returns its exit status."""
    return run_command_line(LINE, argv)
