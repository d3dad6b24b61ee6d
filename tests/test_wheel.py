import configparser
import pathlib
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_holds_the_library_and_its_command_alone(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        files = wheel.namelist()
        scripts = wheel.read(next(name for name in files if name.endswith("entry_points.txt"))).decode()
    assert {name.split("/")[0].partition("-")[0] for name in files} == {"keras_sharenets"}
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "keras_sharenets").rglob("*.py")}
    assert {name for name in files if name.endswith(".py")} == sources
    trained = {path.relative_to(ROOT).as_posix() for path in (ROOT / "keras_sharenets/models/trained").iterdir()}
    assert trained <= set(files)
    assert "keras_sharenets/models/counts.csv" in files
    parser = configparser.ConfigParser()
    parser.read_string(scripts)
    assert dict(parser["console_scripts"]) == {"sharenets": "keras_sharenets.cli:main"}
