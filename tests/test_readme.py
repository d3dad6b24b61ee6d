import pathlib
import re

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
