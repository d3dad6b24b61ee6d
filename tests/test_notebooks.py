"""The notebooks run with an installed package in an empty folder, and include their outputs."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from test_repository import HOME, ROOT, in_the_tree, links

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def read(path):
    """The cells of a notebook, with the printed output and the result of each as one text."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
        for output in cell.get("outputs", ()):
            output["text"] = "".join([*output.get("text", ()), *output.get("data", {}).get("text/plain", ())])
    return cells


def kinds(cells):
    """The kinds of outputs of each code cell, with the names of streams, so that a new warning is a difference."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [{(output["output_type"], output.get("name")) for output in cell["outputs"]} for cell in code]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept(path):
    code = [cell for cell in read(path) if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "not run from top to bottom"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {"stream"} <= {output["output_type"] for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output.get("name", "stdout") == "stdout", f"a warning: {output['text']}"
        assert not re.search(r"/(home|root|tmp|Users|work)\b|site-packages", output["text"]), "a path of one machine"
        assert str(pathlib.Path.home()) not in output["text"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_cell_installs_the_package_where_it_is_missing(path):
    first = read(path)[0]
    assert first["cell_type"] == "code"
    assert f'%pip install --quiet "keras_sharenets @ git+{HOME}"' in first["source"]
    assert first["outputs"] == [], "it was installed"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_lead_somewhere_wherever_a_notebook_is_opened(path):
    for cell in read(path):
        for link in links(cell["source"]) if cell["cell_type"] == "markdown" else ():
            assert link.startswith("https://"), link
            assert in_the_tree(link) is None or (ROOT / in_the_tree(link)).is_file(), link


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with only the installed package and no checkout."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(folder), "PATH": path, "KERAS_BACKEND": "tensorflow"}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, installed, tmp_path):
    import nbclient
    import nbformat

    # Messages of TensorFlow's C++ code at start-up are not an output.
    quiet = ["--IPKernelApp.capture_fd_output=False"]
    notebook = nbformat.read(path, as_version=4)
    code = "import keras_sharenets\nprint(keras_sharenets.__file__)"
    notebook.cells.append(nbformat.v4.new_code_cell(code))
    client = nbclient.NotebookClient(
        notebook, timeout=1200, extra_arguments=quiet, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=installed)  # An error in a cell fails the test.
    assert notebook.cells.pop().outputs[0].text.startswith(installed["PYTHONPATH"])
    assert kinds(notebook.cells) == kinds(read(path))
