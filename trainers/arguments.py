"""Options that several commands have in common."""

import ast

from trainers.data import load


def add_data_arguments(parser, required=True):
    """`--data` and what goes with it."""
    parser.add_argument(
        "--data", required=required, help="digits, cifar10, or a folder with one folder of pictures per class"
    )
    parser.add_argument("--data-dir", metavar="D", help="folder of TensorFlow Datasets (default: TFDS_DATA_DIR)")
    parser.add_argument("--download", action="store_true", help="allow TensorFlow Datasets to download CIFAR-10")
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=3,
        metavar=("HEIGHT", "WIDTH", "CHANNELS"),
        help="size to which the pictures of a folder are resized (default: they all have one size already)",
    )


def load_data(args):
    """The `Dataset` that the options of `add_data_arguments` ask for."""
    return load(args.data, data_dir=args.data_dir, input_shape=args.input_shape, download=args.download)


def parse_option(text):
    """`KEY=VALUE` as a pair; the value is a Python literal, or else a word.

    >>> parse_option("modules_per_stage=(1, 2, 2)"), parse_option("stem=imagenet")
    (('modules_per_stage', (1, 2, 2)), ('stem', 'imagenet'))
    """
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise ValueError(f"`--model-option` (={text!r}) must be KEY=VALUE.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
