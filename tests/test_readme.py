import functools
import pathlib
import re

import keras
import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("run_eagerly", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_python_examples_run_and_give_what_they_say(run_eagerly, tmp_path, monkeypatch):
    if run_eagerly:  # Two steps, which take less time than to compile them.
        eager = functools.partialmethod(keras.Model.compile, run_eagerly=True, jit_compile=False)
        monkeypatch.setattr(keras.Model, "compile", eager)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) >= 2
    names = {}
    for block in blocks:
        exec(block, names)
    assert (tmp_path / "net.tflite").is_file()
    claims = re.findall(r"^(profile\.\w+|layer\.count_params\(\)|tuple\(.*?\)) +# ([\d(), ]+)", "\n".join(blocks), re.M)
    assert len(claims) == 5
    for expression, claim in claims:
        assert eval(expression, names) == eval(claim.strip().rstrip(",")), expression
    assert eval('ksn.list_models("hscnet_m128*")', names) == eval(re.search(r"^# (\['hscnet.*)$", README, re.M)[1])
