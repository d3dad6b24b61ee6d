import io
import json

import numpy as np
import PIL.Image
import pytest

from benchmarks import table as results
from benchmarks.arguments import RunOptions

BLUE, GRAY = (0x1F, 0x5F, 0xBF), (0x9A, 0xA5, 0xB1)


def row(network, form, ratio, peer=False):
    columns = {"milliseconds": 5 * ratio, "milliseconds_low": 4 * ratio, "milliseconds_high": 7 * ratio}
    columns |= {"ratio": ratio, "ratio_low": ratio, "ratio_high": ratio}
    return {"network": network, "form": form, "peer": peer, "file_bytes": 1234567, **columns}


def make_table(*rows, claims=()):
    return results.Table(
        name="made_up",
        title="A title",
        note="A note.",
        ratio="share",
        panel="{network}",
        label="{form}",
        columns={"file bytes": "{file_bytes:,}", "ms": "{milliseconds:.1f}"},
        rows=rows,
        claims=claims,
    )


def test_files(tmp_path):
    claims = (results.Claim("fast", "here", 1.0, 1.0), results.Claim("small", "there", 2.5, 2.0))
    table = make_table(row("b", "slow", 2.0), row("a", "slow", 1.5), row("b", "fast", 1.0, peer=True), claims=claims)
    options = RunOptions((), 1, 1, False, tmp_path / "new", "python -m benchmarks made_up")
    answer = results.write(table, options, {"more.txt": "more"})
    names = ["made_up.json", "made_up.md", "made_up.png", "more.txt"]
    assert names == sorted(path.name for path in (tmp_path / "new").iterdir())

    contents = json.loads((tmp_path / "new" / "made_up.json").read_text())
    assert contents == json.loads(json.dumps(answer.data))
    assert contents["rows"] == list(table.rows)
    assert contents["command"] == "python -m benchmarks made_up"
    assert contents["backend"] == "tensorflow"
    assert {"keras", "tensorflow", "ai-edge-litert", "python"} <= contents["versions"].keys()
    assert contents["cores"] >= 1
    assert contents["processor"]
    assert [claim["holds"] for claim in contents["claims"]] == [True, False]

    text = (tmp_path / "new" / "made_up.md").read_text()
    assert answer.text == text + "more"
    assert text.startswith("# A title\n\n`python -m benchmarks made_up`\n")
    panels = """## b

|  | file bytes | ms |
| --- | ---: | ---: |
| slow | 1,234,567 | 10.0 |
| fast | 1,234,567 | 5.0 |

## a

|  | file bytes | ms |
| --- | ---: | ---: |
| slow | 1,234,567 | 7.5 |

## Claims

|  |  | measured | at most | holds |
| --- | --- | ---: | ---: | ---: |
| fast | here | 1 | 1 | yes |
| small | there | 2.5 | 2 | **no** |
"""
    assert text.endswith(panels)


def pixels(table, color):
    """The number of pixels with the given color in the figure of a table."""
    image = PIL.Image.open(io.BytesIO(results.draw_bars(table, "a machine"))).convert("RGB")
    return int((np.abs(np.asarray(image).astype(int) - color).max(-1) < 30).sum())


def test_lengths_of_bars_are_logarithms_of_ratios():
    # The last row keeps the scale the same in all figures.
    def blue(ratio):
        return pixels(make_table(row("net", "ours", ratio), row("net", "peer", 4.0, peer=True)), BLUE)

    assert blue(4.0) > 2000
    assert blue(2.0) == pytest.approx(blue(4.0) / 2, rel=0.05)
    assert blue(0.75) == pytest.approx(blue(4.0) * np.log(4 / 3) / np.log(4), rel=0.1)
    assert blue(1.0) < 50


def test_peers_are_gray():
    ours, peer = row("net", "ours", 2.0), row("net", "theirs", 2.0, peer=True)
    assert pixels(make_table(ours), GRAY) < 0.1 * pixels(make_table(ours, peer), GRAY)
    assert pixels(make_table(ours, peer), GRAY) == pytest.approx(pixels(make_table(ours, peer), BLUE), rel=0.2)


def test_row_without_measurements():
    unknown = {**row("net", "theirs", 1.0, peer=True), **dict.fromkeys(row("net", "", 1.0).keys() - {"network"})}
    unknown |= {"form": "theirs", "peer": True, "file_bytes": 7}
    table = make_table(row("net", "ours", 2.0), unknown)
    assert pixels(table, BLUE) == pytest.approx(pixels(make_table(row("net", "ours", 2.0)), BLUE), rel=0.5)
    context = {"processor": "", "cores": 2, "load": None, "versions": {}, "date": "", "command": ""}
    assert "| theirs | 7 | - |" in results.to_markdown(table, context)
