"""Options that several commands have in common."""

import ast
import sys

from keras_sharenets.training.data.sources import KNOWN, load


def add_data_arguments(parser, required=True):
    """`--data` and what goes with it."""
    parser.add_argument(
        "--data",
        required=required,
        help=f"{', '.join(KNOWN)}, any name of TensorFlow Datasets, or a folder with one folder of pictures per class",
    )
    parser.add_argument(
        "--data-dir",
        metavar="D",
        help="folder of TensorFlow Datasets (default: TFDS_DATA_DIR), or where the data set was unpacked",
    )
    parser.add_argument("--download", action="store_true", help="allow TensorFlow Datasets to download")
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        default=None,
        help="leave out files that are no pictures, and name them",
    )
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=3,
        metavar=("HEIGHT", "WIDTH", "CHANNELS"),
        help="size to which pictures are resized (default: they all have one size already); 0 0 C: each keeps its own",
    )


def load_data(args):
    """The `Dataset` that the options of `add_data_arguments` ask for; names on standard error what it leaves out."""
    dataset = load(
        args.data,
        data_dir=args.data_dir,
        input_shape=args.input_shape,
        download=args.download,
        skip_unreadable=bool(args.skip_unreadable),
    )
    for complaint in dataset.unreadable:
        print(f"left out: {complaint}", file=sys.stderr)
    return dataset


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
