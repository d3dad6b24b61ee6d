"""The command `sharenets`: look at networks, export them, run them. Training is `python -m trainers` in a checkout."""

import argparse
import dataclasses
import json
import pathlib
import platform
import re
import sys

import numpy as np

import keras_sharenets as ksn
from keras_sharenets import _checks, analysis, files
from keras_sharenets import images as pictures
from keras_sharenets.analysis import catalogue
from keras_sharenets.cli import create as creation
from keras_sharenets.models.registry import VARIANTS


def _names(pattern):
    """The models that match a pattern; a `ValueError` if there is none."""
    names = ksn.list_models(pattern)
    if not names:
        raise ValueError(f"`pattern` (={pattern!r}) matches no model; `sharenets list` shows all.")
    return names


def _list(arguments):
    for name in _names(arguments.pattern):
        variant = ksn.models.find_variant(name)
        print(f"{name:32} {variant.forms[0].paper_figure or '-':>6}  {variant.note}".rstrip())


def _table(arguments):
    listed = []
    # In the order of the papers' tables, not of the alphabet.
    for entry in catalogue.entries(sorted(_names(arguments.pattern), key=list(VARIANTS).index)):
        listed.append(entry)
        print(f"{len(listed)}: {entry.name}", file=sys.stderr, flush=True)
    if arguments.update is None:
        print(catalogue.to_markdown(listed), end="")
        return
    page = pathlib.Path(arguments.update)
    text = catalogue.replace_table(page.read_text(), catalogue.to_markdown(listed))
    files.write_text(page, text)


def _describe(arguments):
    if arguments.target.endswith(".tflite"):
        description = ksn.mobile.describe_tflite(arguments.target)
        description["size"] = ksn.mobile.size_report(arguments.target).parts
        print(json.dumps(description, indent=2))
        return
    if arguments.target.endswith(".keras"):
        model = files.load_model(arguments.target)
    else:
        overrides = {} if arguments.classes is None else {"num_classes": arguments.classes}
        model = ksn.create_model(arguments.target, **overrides)
    profile = ksn.profile(model)
    if arguments.format == "json":
        print(json.dumps(analysis.to_dict(profile), indent=2))
    else:
        print({"text": analysis.to_text, "csv": analysis.to_csv}[arguments.format](profile))


def _size(arguments):
    from keras_sharenets.mobile.inspect.tables import size_table

    print(size_table([ksn.mobile.size_report(path) for path in arguments.files]), end="")


def _calibration_pictures(folder, shape, count):
    """Up to `count` pictures spread evenly over those below `folder`."""
    found = pictures.find_images(folder)
    if not found:
        raise ValueError(f"`--calibration` (={folder}) must be a folder with pictures in it.")
    chosen = [found[index] for index in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int)]
    return _read(chosen, shape)


def _export(arguments):
    _checks.positive("--pictures", arguments.pictures)
    if arguments.to == "saved_model" and arguments.quantization:
        raise ValueError("`--quantization` goes with `--to tflite`.")
    if arguments.quantization == "int8" and arguments.calibration is None:
        raise ValueError("`--quantization int8` needs `--calibration FOLDER`: pictures to measure the ranges with.")
    model = files.load_model(arguments.file)
    class_names = files.read_labels(arguments.file)
    sample = None
    if arguments.calibration is not None:
        sample = _calibration_pictures(arguments.calibration, model.input_shape[1:], arguments.pictures)
    source = pathlib.Path(arguments.file)
    if arguments.to == "saved_model":
        target = arguments.output or source.with_name(f"{source.stem}_saved_model")
        _print_report(ksn.mobile.export_saved_model(model, target, class_names=class_names, sample=sample))
        return
    target = arguments.output or source.with_suffix(".tflite")
    report = ksn.mobile.export_tflite(
        model,
        target,
        arguments.quantization,
        representative_data=sample,
        class_names=class_names,
        prefer=arguments.prefer,
        max_bytes=arguments.max_bytes,
    )
    _print_report(report)
    print(f"the weights in the file take {report.repetition:.2f} times what is stored")


def _print_report(report):
    """A report's fields, one a line."""
    for name, value in dataclasses.asdict(report).items():
        text = {int: "{:,}", float: "{:.4g}"}.get(type(value), "{}").format(value)
        print(f"{name.replace('_', ' '):22} {text}")


def _accuracies(entries, paths):
    """`{file: share}` from the `FILE=SHARE` of `--accuracy`."""
    accuracies = {}
    for entry in entries:
        path, _, share = entry.rpartition("=")
        if path not in paths or not re.fullmatch(r"[01]|[01]?\.\d+", share) or float(share) > 1:
            raise ValueError(
                f"`--accuracy` (={entry}) must be FILE=SHARE: a file of this run and a number from 0 to 1."
            )
        accuracies[path] = float(share)
    return accuracies


def _benchmark(arguments):
    from keras_sharenets.mobile.inspect import benchmark_figure as benchmark_picture
    from keras_sharenets.mobile.inspect import tables

    accuracies = _accuracies(arguments.accuracy, arguments.files)
    if arguments.picture and len(accuracies) < len(set(arguments.files)):
        raise ValueError("`--picture` needs `--accuracy FILE=SHARE` for every file.")
    reports = ksn.mobile.compare_tflite(arguments.files, arguments.threads, arguments.repetitions)
    print(tables.benchmark_table(reports, accuracies), end="")
    operators = {}
    for path in arguments.files if arguments.operators else ():
        operators[path] = ksn.mobile.operator_times(path, arguments.threads)
        print("\n" + tables.operator_table(path, operators[path]), end="")
    if arguments.json:
        entries = tables.benchmark_entries(reports, accuracies, operators)
        files.write_json(arguments.json, {"machine": platform.platform(), "files": entries})
    if arguments.picture:
        title = "Accuracy and size of TFLite files"
        picture = benchmark_picture.draw_accuracy_against_size(reports, accuracies, title)
        files.write_bytes(arguments.picture, picture)


def _probabilities(path, paths):
    """`(class names or None, probabilities)` of picture files under a `.keras` or `.tflite` file."""
    if str(path).endswith(".tflite"):
        shape = ksn.mobile.describe_tflite(path)["inputs"][0]["shape"][1:]
        return ksn.mobile.read_labels(path), ksn.mobile.predict_tflite(path, _read(paths, shape))
    model = files.load_model(path)
    return files.read_labels(path), model.predict(_read(paths, model.input_shape[1:]), verbose=0)


def _read(paths, shape):
    if len(shape) != 3:
        raise ValueError(f"The network takes inputs of shape {tuple(shape)}: these are no pictures.")
    return np.stack([pictures.read_image(path, tuple(shape)) for path in paths]).astype("float32")


def _predict(arguments):
    _checks.positive("--top", arguments.top)
    class_names, probabilities = _probabilities(arguments.file, arguments.pictures)
    for path, row in zip(arguments.pictures, probabilities, strict=True):
        best = np.argsort(-row)[: arguments.top]
        answers = [f"{class_names[index] if class_names else f'class {index}'} {row[index]:.3f}" for index in best]
        print(f"{path}: {', '.join(answers)}")


def _add(commands, name, run, summary, example):
    texts = {"help": summary, "description": summary, "epilog": f"example: {example}"}
    parser = commands.add_parser(name, formatter_class=argparse.RawDescriptionHelpFormatter, **texts)
    parser.set_defaults(run=run)
    return parser


def _parser():
    parser = argparse.ArgumentParser(prog="sharenets", description="Small networks that reuse their filters.")
    parser.add_argument("--version", action="version", version=ksn.__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = _add(commands, "list", _list, "List the named networks.", "sharenets list 'hscnet_m128*'")
    command.add_argument("pattern", nargs="?", default="*", help="shell pattern, quoted")

    summary = "Count named networks beside what their papers print, as Markdown tables. All of them take minutes."
    command = _add(commands, "table", _table, summary, "sharenets table 'igcv2*'")
    command.add_argument("pattern", nargs="?", default="*", help="shell pattern, quoted")
    command.add_argument("--update", metavar="FILE", help="replace the tables between the markers of a Markdown file")

    summary = "Show weights and multiply-adds of a network, call by call, or what is in a .tflite file."
    command = _add(commands, "describe", _describe, summary, "sharenets describe hscnet_m128_g16_r8_a2")
    command.add_argument("target", metavar="NAME|FILE", help="named network, .keras file or .tflite file")
    command.add_argument("--classes", type=int, help="number of classes of a named network")
    command.add_argument("--format", choices=("text", "csv", "json"), default="text")

    summary = "Write a fresh network as a .keras file: a named one, or that of a trial of a search."
    example = "sharenets create --from-trial runs/search/07 --output net.keras"
    creation.add_arguments(_add(commands, "create", lambda given: print(creation.create(given)), summary, example))

    summary = "Show what the bytes of .tflite files are spent on, side by side."
    command = _add(commands, "size", _size, summary, "sharenets size small.tflite fast.tflite")
    command.add_argument("files", nargs="+", metavar="FILE.tflite")

    summary = "Turn a .keras file into a .tflite file or a SavedModel, checked against Keras before it is kept."
    example = "sharenets export best.keras --quantization int8 --calibration pictures/"
    command = _add(commands, "export", _export, summary, example)
    command.add_argument("file", metavar="FILE", help=".keras file; labels.txt beside it gives the class names")
    command.add_argument("--to", choices=("tflite", "saved_model"), default="tflite")
    command.add_argument("--quantization", choices=("float16", "int8"), help="default: float32")
    prefer_help = "speed: every use of a shared kernel has one of its own (default: size)"
    command.add_argument("--prefer", choices=("size", "speed"), default="size", help=prefer_help)
    command.add_argument("--max-bytes", type=int, metavar="N", help="instead: the fastest that fits into so many bytes")
    command.add_argument("--calibration", metavar="FOLDER", help="pictures to calibrate int8 and to check with")
    command.add_argument("--pictures", type=int, default=200, help="how many of them to use (default: 200)")
    command.add_argument("--output", metavar="PATH", help="default: beside FILE")

    summary = "Measure time, memory and size of .tflite files with LiteRT, side by side."
    command = _add(commands, "benchmark", _benchmark, summary, "sharenets benchmark a.tflite b.tflite --threads 2")
    command.add_argument("files", nargs="+", metavar="FILE.tflite")
    command.add_argument("--threads", type=int, default=1)
    command.add_argument("--repetitions", type=int, default=200)
    command.add_argument("--operators", action="store_true", help="measure each operator of each file alone too")
    command.add_argument("--json", metavar="FILE", help="write all figures to FILE too")
    accuracy_help = "known accuracies, as 0.77, for the table and the picture"
    command.add_argument("--accuracy", nargs="+", action="extend", default=[], metavar="FILE=SHARE", help=accuracy_help)
    command.add_argument("--picture", metavar="FILE.png", help="draw accuracy against size")

    summary = "Name what is in pictures."
    command = _add(commands, "predict", _predict, summary, "sharenets predict best.tflite cat.jpg")
    command.add_argument("file", metavar="FILE", help=".keras or .tflite file")
    command.add_argument("pictures", nargs="+", metavar="PICTURE")
    command.add_argument("--top", type=int, default=3, help="how many classes to name (default: 3)")
    return parser


def main(argv=None):
    """Runs one command; returns the exit status: 0, or 2 with one line on standard error."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"sharenets: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
