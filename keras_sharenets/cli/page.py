"""Build a web page that runs .tflite files in the browser, in a folder that works offline.

sharenets page net.tflite --output site/
"""

from __future__ import annotations

import argparse
import shlex

from keras_sharenets.cli.command import Answer
from keras_sharenets.files import check_paths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE.tflite", help="classifiers; the page has a menu if there are several"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="folder for the page; must be empty or new")
    parser.add_argument("--examples", nargs="+", default=(), metavar="IMAGE", help="example images on the page")
    runtime_help = "folder with the npm archives of LiteRT.js (default: download them)"
    parser.add_argument("--runtime", metavar="DIR", help=runtime_help)


def check(arguments: argparse.Namespace) -> None:
    check_paths(*arguments.files, *arguments.examples, arguments.runtime)


def run(arguments: argparse.Namespace) -> Answer:
    import dataclasses

    from keras_sharenets.mobile.page.site import write_site

    report = write_site(arguments.files, arguments.output, examples=arguments.examples, runtime=arguments.runtime)
    count = len(report.networks)
    text = (
        f"{report.path}: {count} network{'' if count == 1 else 's'}, {report.total_bytes / 1e6:.1f} MB with LiteRT.js\n"
        f"To view it, run python -m http.server -d {shlex.quote(str(report.path))} 8000 and open http://localhost:8000"
    )
    return Answer(text, dataclasses.asdict(report))
