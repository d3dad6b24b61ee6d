"""Writes the network of a run in every form in which it is delivered, checked against Keras.

python -m trainers export runs/mine
"""

import dataclasses
import pathlib

import keras

from keras_sharenets import _checks, files
from keras_sharenets.cli.arguments import add_data_arguments
from keras_sharenets.rendering.tables import text_table
from keras_sharenets.training.reports.evaluate import evaluate
from keras_sharenets.training.run.finished import load_run_data, network_file, open_run, tested_crops, training_pictures
from keras_sharenets.training.run.fit import check_output

# In this order: what a network may have no form in comes first, so that nothing is written then.
FORMS = ("float", "int8", "saved_model", "keras")
TFLITE = FORMS[:2]


def add_arguments(parser):
    parser.add_argument("run", metavar="RUN_DIR", help="folder of a finished run")
    parser.add_argument("--output", metavar="DIR", help="folder for all files; must be empty or new (default: export)")
    parser.add_argument("--forms", nargs="+", default=FORMS, metavar="FORM", help=f"some of {', '.join(FORMS)}")
    parser.add_argument(
        "--pictures", type=int, default=200, metavar="N", help="of the training split, to calibrate int8 (default: 200)"
    )
    parser.add_argument(
        "--test", action="store_true", help="measure the .tflite files on the whole test split, and record it"
    )
    add_data_arguments(parser, required=False)


def run(args):
    """Prints a table of the files; leaves `export.json` beside them."""
    _checks.positive("--pictures", args.pictures)
    for form in args.forms:
        _checks.one_of("--forms", form, FORMS)
    if args.test and not set(args.forms) & set(TFLITE):
        raise ValueError(
            f"`--test` is for {' and '.join(TFLITE)}, but `--forms` (={' '.join(args.forms)}) has neither."
        )
    if keras.backend.backend() != "tensorflow" and set(args.forms) != {"keras"}:
        raise ValueError(f"`--forms` (={' '.join(args.forms)}) need KERAS_BACKEND=tensorflow, all but keras.")
    output = check_output(args.output or pathlib.Path(args.run) / "export")
    trained = open_run(args.run)
    if trained.state != "finished":
        raise ValueError(f"The run in {args.run} is not finished: `fit --resume {args.run}` goes on with it.")
    dataset = load_run_data(args, args.run, trained)
    pictures = training_pictures(dataset, trained, args.pictures)
    model = files.load_model(network_file(args.run))
    written = export(model, output, dataset.class_names, pictures, args.forms)
    if args.test:
        written = [entry | _tested(entry, output, dataset, tested_crops(trained)) for entry in written]
    files.write_json(output / "export.json", {"model": trained.model, "data": trained.data["name"], "files": written})
    print(text_table(_rows(written, output)))


def _tested(entry, output, dataset, crops):
    """What the test split says about a TFLite file; nothing about other forms."""
    if entry["form"] not in TFLITE:
        return {}
    result = evaluate(output / entry["path"], dataset, crops)
    return {"test_accuracy": result.accuracy, "test_correct": result.correct, "test_pictures": result.pictures}


def _rows(written, output):
    head = ["file", "size", "compared with Keras"]
    rows = [[str(output / entry["path"]), f"{entry['bytes']:,} bytes", entry["checked"]] for entry in written]
    if any("test_accuracy" in entry for entry in written):
        head.append("test accuracy")
        for row, entry in zip(rows, written, strict=True):
            row.append(f"{entry['test_accuracy']:.2%}" if "test_accuracy" in entry else "-")
    return [head, *rows]


def export(model, output, class_names, pictures, forms=FORMS):
    """Writes a trained network in some of the forms "float" and "int8" (TFLite), "saved_model" and "keras".

    `labels.txt` with the class names is beside them.

    Args:
        model: functional `keras.Model` from raw pixels to probabilities.
        output: path of the folder.
        class_names: sequence of str.
        pictures: float32 array `(n, height, width, channels)`, to calibrate and to compare with.
        forms: sequence of str.

    Returns:
        A list of dicts, one a form, with what its check has found. Paths are relative to `output`.

    Raises:
        ValueError: a layer has no form in a file.
        keras_sharenets.mobile.ExportMismatchError: a file does not compute what Keras does; it is not written.
    """
    from keras_sharenets import mobile

    written = []
    for form in forms:
        if form == "keras":
            path = output / "model.keras"
            files.save_model(model, path)
            written.append(_entry(form, path.name, path.stat().st_size, "the file itself"))
        elif form == "saved_model":
            report = mobile.export_saved_model(model, output / "saved_model", class_names=class_names, sample=pictures)
            checked = f"outputs differ by up to {report.largest_difference:.1e}"
            written.append(_entry(form, pathlib.Path(report.path).name, report.total_bytes, checked, report))
        else:
            path, quantization = output / f"{form}.tflite", None if form == "float" else form
            report = mobile.export_tflite(
                model, path, quantization, representative_data=pictures, class_names=class_names
            )
            checked = f"same class for {report.top1_agreement:.1%} of {report.verified_on}"
            written.append(_entry(form, pathlib.Path(report.path).name, report.file_bytes, checked, report))
    files.write_labels(output, class_names)
    return written


def _entry(form, name, size, checked, report=None):
    details = {} if report is None else {"report": dataclasses.asdict(report) | {"path": name}}
    return {"form": form, "path": name, "bytes": size, "checked": checked, **details}
