"""Train a small network on digits, export it, run the files, and write a report.

python -m trainers demo --output runs/demo
"""

from __future__ import annotations

import argparse
import pathlib

from keras_sharenets.cli.command import Answer
from keras_sharenets.cli.fit import tell_epochs

MODEL = "hscnet_m32_g4_r2_b1_a2"
CALIBRATION = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for all files; must be empty or new")
    parser.add_argument("--epochs", type=int, default=60, help="passes over the training split (default: 60)")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed for initialization, shuffling, and augmentation (default: 0)"
    )


def run(arguments: argparse.Namespace) -> Answer:
    """The profile and one table; also writes `report.html` next to the other files."""
    import numpy as np

    import keras_sharenets as ksn
    from keras_sharenets import analysis, files
    from keras_sharenets.rendering.page import COUNTS, page
    from keras_sharenets.rendering.tables import text_table
    from keras_sharenets.training.data.sources import load
    from keras_sharenets.training.recipes.named import override, recipe_for
    from keras_sharenets.training.reports.evaluate import evaluate
    from keras_sharenets.training.reports.plots import show_predictions
    from keras_sharenets.training.run.fit import fit
    from keras_sharenets.training.run.record import RunOptions

    output = pathlib.Path(arguments.output)
    dataset = load("digits")  # Recorded, so that other commands find the data of the run.
    recipe = override(recipe_for(MODEL, dataset.name), epochs=arguments.epochs)
    told = tell_epochs(recipe, dataset)
    result = fit(MODEL, dataset, output, recipe=recipe, run_options=RunOptions(seed=arguments.seed), **told)

    model = files.load_model(output / "last.keras")
    profile = ksn.profile(model)

    tests = np.asarray(dataset.test.pixels(np.arange(len(dataset.test))))
    saved_model = ksn.mobile.export_saved_model(
        model, output / "saved_model", class_names=dataset.class_names, representative_data=tests
    )
    tflite = ksn.mobile.export_tflite(
        model,
        output / "int8.tflite",
        quantization="int8",
        representative_data=dataset.train.pixels(np.arange(CALIBRATION)),
        class_names=dataset.class_names,
    )
    latency = ksn.mobile.benchmark_tflite(tflite.path, repetitions=500, warmup=50)
    in_keras = evaluate(output / "last.keras", dataset)
    in_int8 = evaluate(tflite.path, dataset)
    rows = [
        ("stored parameters", f"{profile.stored_parameters:,}"),
        ("effective parameters", f"{profile.effective_parameters:,}"),
        ("multiply-adds", f"{profile.multiply_adds:,}"),
        ("test accuracy, Keras", f"{in_keras.accuracy:.4f} ({in_keras.correct} of {in_keras.images})"),
        ("test accuracy, int8 TFLite", f"{in_int8.accuracy:.4f} ({in_int8.correct} of {in_int8.images})"),
        (".keras file", f"{(output / 'last.keras').stat().st_size:,} bytes"),
        ("SavedModel folder", f"{saved_model.total_bytes:,} bytes"),
        ("int8 .tflite file", f"{tflite.file_bytes:,} bytes, {tflite.file_weight_bytes:,} of them weights"),
        ("stored weights at int8", f"{tflite.stored_weight_bytes:,} bytes"),
        ("latency, int8, one thread", f"{latency.median_ms:.3f} ms (median of {latency.repetitions})"),
    ]
    images = tests[:: len(dataset.test) // 40][:40]
    labels = dataset.test.labels[:: len(dataset.test) // 40][:40]
    probabilities = ksn.mobile.predict_tflite(tflite.path, images)
    sections = {
        "": dict(rows),
        "Training": (output / "curves.png").read_bytes(),
        "Predictions of the int8 file": show_predictions(images, labels, probabilities, dataset.class_names),
        COUNTS: analysis.to_text(profile),
    }
    heading = f"{MODEL} on {dataset.name}"
    note = f"{dataset.note}. {result.recipe.epochs} epochs, seed {result.seed}."
    files.write_text(output / "report.html", page(heading, note, sections))
    text = f"{analysis.to_text(profile)}\n{text_table(rows)}\nreport: {output / 'report.html'}"
    return Answer(text, {"profile": analysis.to_dict(profile), "figures": dict(rows)})
