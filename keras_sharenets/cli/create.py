"""Write a network to a .keras file: a named one, pretrained or untrained, or the untrained network of a search trial.

sharenets create --from-trial runs/search/07 --output net.keras
"""

from __future__ import annotations

import argparse
import pathlib

from keras_sharenets.cli.arguments import add_input_shape, add_model_option
from keras_sharenets.cli.command import Answer
from keras_sharenets.files import as_tuples, read_json
from keras_sharenets.training.run.command import parse_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="named network")
    parser.add_argument(
        "--from-trial", metavar="DIR/ID", help="instead of NAME: the network of a trial of `sharenets search`"
    )
    weights_help = (
        "data set of pretrained weights (see `list --trained`), or a .keras file with weights (default: untrained)"
    )
    parser.add_argument("--weights", metavar="NAME|FILE.keras", help=weights_help)
    add_model_option(parser)
    parser.add_argument("--classes", type=int, metavar="N", help="number of classes")
    add_input_shape(parser, "size of the images; 0 0 C: any size")
    parser.add_argument("--output", required=True, metavar="FILE.keras", help="file to write")


def check(arguments: argparse.Namespace) -> None:
    if (arguments.name is None) == (arguments.from_trial is None):
        raise ValueError("Exactly one of NAME and `--from-trial DIR/ID` is required.")
    if not arguments.output.endswith(".keras"):
        raise ValueError(f"`--output` (={arguments.output}) must end in `.keras`.")
    if arguments.name is not None:
        from keras_sharenets.models import find_variant

        find_variant(arguments.name)


def run(arguments: argparse.Namespace) -> Answer:
    from keras_sharenets import files
    from keras_sharenets.analysis import count_parameters
    from keras_sharenets.images import with_unknown_sides
    from keras_sharenets.models import create_model

    shape = arguments.input_shape and with_unknown_sides(arguments.input_shape)
    given = {"num_classes": arguments.classes, "input_shape": shape, "weights": arguments.weights}
    given = {key: as_tuples(value) for key, value in given.items() if value is not None}
    name, options = (arguments.name, {}) if arguments.name else read_trial(arguments.from_trial)
    options = {**options, **dict(map(parse_option, arguments.model_option))}
    try:
        model = create_model(name, **{**options, **given})
    except TypeError as error:
        trial = (
            f"{arguments.from_trial} has a network that this version does not support: " if arguments.from_trial else ""
        )
        raise ValueError(f"{trial}{error}") from error
    files.save_model(model, arguments.output)
    parameters = count_parameters(model)  # The size of the images may be unknown.
    trained = "not trained" if arguments.weights is None else f"weights: {arguments.weights}"
    text = f"{arguments.output}: {name}, {parameters:,} parameters, {trained}"
    data = {"path": arguments.output, "name": name, "parameters": parameters, "weights": arguments.weights}
    return Answer(text, data)


def read_trial(folder: str | pathlib.Path) -> tuple[str, dict[str, object]]:
    """The network of a trial of a search: `create_model(name, **options)`.

    Args:
        folder: path of the trial, with `trial.json` in it.

    Returns:
        `(name, options)`.

    Raises:
        ValueError: the file does not exist or is not the record of a trial.
    """
    path = pathlib.Path(folder) / "trial.json"
    if not path.is_file():
        raise ValueError(f"There is no {path}: {folder} is not the folder of a trial.")
    try:
        trial = read_json(path)
        return trial["name"], {key: as_tuples(value) for key, value in trial["arguments"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the record of a trial: {type(error).__name__} {error}") from error
