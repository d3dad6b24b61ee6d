"""Show the weights and multiply-adds of a network call by call, or the contents of a .tflite file.

sharenets describe hscnet_m128_g16_r8_a2
"""

from __future__ import annotations

import argparse
import json
import pathlib

from keras_sharenets.cli.arguments import add_input_shape
from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="NAME|FILE", help="named network, .keras file or .tflite file")
    parser.add_argument("--classes", type=int, metavar="N", help="number of classes, for a named network")
    add_input_shape(parser, "size of the images, for a named network or a .keras file for images of any size")
    parser.add_argument(
        "--format", choices=("text", "csv", "json"), default="text", help="output format (default: text)"
    )


def check(arguments: argparse.Namespace) -> None:
    from keras_sharenets.models import find_variant, list_models

    if arguments.input_shape is not None and min(arguments.input_shape) < 1:
        given = " ".join(map(str, arguments.input_shape))
        raise ValueError(
            f"`--input-shape` (={given}) must be three positive integers: the multiply-adds of a network depend on the "
            "size of the images."
        )
    if not arguments.target.endswith((".tflite", ".keras")):
        if arguments.target not in list_models() and pathlib.Path(arguments.target).exists():
            raise ValueError(f"{arguments.target} is neither a .keras nor a .tflite file.")
        find_variant(arguments.target)
        return
    if arguments.classes is not None:
        raise ValueError(f"`--classes` applies to named networks only, not to {arguments.target}.")
    if arguments.input_shape is not None and arguments.target.endswith(".tflite"):
        raise ValueError(f"`--input-shape` does not apply to .tflite files such as {arguments.target}.")
    if arguments.format == "csv" and arguments.target.endswith(".tflite"):
        raise ValueError(
            f"`--format csv` does not apply to .tflite files such as {arguments.target}: their data is JSON."
        )
    check_paths(arguments.target)


def run(arguments: argparse.Namespace) -> Answer:
    if arguments.target.endswith(".tflite"):
        from keras_sharenets import mobile

        description = mobile.describe_tflite(arguments.target)
        description["size"] = mobile.size_report(arguments.target).parts
        return Answer(json.dumps(description, indent=2, ensure_ascii=False), description)

    from keras_sharenets import analysis, files
    from keras_sharenets.models import create_model

    shape = None if arguments.input_shape is None else tuple(arguments.input_shape)
    if arguments.target.endswith(".keras"):
        model = files.load_model(arguments.target)
        profile = analysis.profile(model, shape)
    else:
        overrides = {"num_classes": arguments.classes, "input_shape": shape}
        given = {name: value for name, value in overrides.items() if value is not None}
        profile = analysis.profile(create_model(arguments.target, **given))
    data = analysis.to_dict(profile)
    if arguments.format == "json":
        return Answer(json.dumps(data, indent=2), data)
    return Answer(analysis.to_csv(profile) if arguments.format == "csv" else analysis.to_text(profile), data)
