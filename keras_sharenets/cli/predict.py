"""Names what is in pictures, with the network of a run.

python -m trainers predict runs/mine cat.jpg dog.jpg
"""

import json

import numpy as np

from keras_sharenets import _checks, files
from keras_sharenets.images import read_image
from keras_sharenets.rendering.tables import text_table
from keras_sharenets.training.data.crops import CENTER, crop_views
from keras_sharenets.training.run.finished import network_file, open_run


def predict(folder, paths):
    """What the network of a run makes of picture files.

    Args:
        folder: path of the run.
        paths: sequence of picture files of any size. They are resized, or their middle is cut out if the run was
            trained on crops.

    Returns:
        `(class names, probabilities)`: a tuple of str, and an array `(pictures, classes)`.

    Raises:
        ValueError: the folder holds no run, or a file is no picture.
    """
    run = open_run(folder)
    model = files.load_model(network_file(folder))
    shape = tuple(model.input_shape[1:])
    if run.recipe.crop_size:
        pictures = crop_views([read_image(path, (None, None, shape[-1])) for path in paths], shape[:2], CENTER)
    else:
        pictures = np.stack([read_image(path, shape) for path in paths]).astype("float32")
    return tuple(run.data["class_names"]), model.predict(pictures, verbose=0)


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN_DIR", help="folder of the run")
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="picture file")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="how many classes to name (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args):
    """Prints the classes that come first, with their probabilities."""
    _checks.positive("--top", args.top)
    names, probabilities = predict(args.run, args.pictures)
    answers = []
    for path, row in zip(args.pictures, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[: args.top]
        classes = [{"class": names[index], "probability": float(row[index])} for index in best]
        answers.append({"picture": path, "classes": classes})
    if args.json:
        print(json.dumps(answers, indent=2))
        return
    rows = [(entry["picture"], *map(_words, entry["classes"])) for entry in answers]
    print(text_table([("picture", *(f"{place + 1}." for place in range(len(rows[0]) - 1))), *rows]))


def _words(answer):
    return f"{answer['class']} {answer['probability']:.3f}"
