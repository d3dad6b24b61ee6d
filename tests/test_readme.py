import pathlib
import re

import numpy as np
import pytest

import keras_sharenets as ksn

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_python_examples_run_and_give_what_they_say(tmp_path, monkeypatch):
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


ROWS = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,.]+) M \|", README, re.M)


@pytest.mark.parametrize(("name", "classes", "stored", "effective", "millions"), ROWS, ids=[row[0] for row in ROWS])
def test_table_of_networks(name, classes, stored, effective, millions):
    model = ksn.create_model(name)
    profile = ksn.profile(model)
    assert model.output_shape == (None, int(classes))
    assert sum(int(np.prod(variable.shape)) for variable in model.trainable_variables) == int(stored.replace(",", ""))
    assert profile.effective_parameters == int(effective.replace(",", ""))
    assert f"{profile.multiply_adds / 1e6:,.1f}" == millions


def test_table_lists_every_network():
    assert sorted(row[0] for row in ROWS) == ksn.list_models()
