"""One HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

COUNTS = "Weights and multiply-adds, call by call"
Section = Sequence[Sequence[str]] | bytes | str
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } p { color: #52606d; }
table { border-collapse: collapse; font-size: 0.9rem; } td { padding: 0.3rem 1rem 0.3rem 0; }
td { border-bottom: 1px solid #e4e7eb; font-variant-numeric: tabular-nums; } img { max-width: 100%; }
pre { font-size: 0.8rem; overflow-x: auto; white-space: pre-wrap; background: #f5f7fa; padding: 1rem; }
"""


def page(title: str, note: str, sections: Mapping[str, Section]) -> str:
    """A report as HTML.

    Args:
        title, note: above everything.
        sections: heading to what is below it: the rows of a table; a PNG file; or text that is shown as it is. What is
            empty is left out; a heading of `""` is none.

    >>> "<td>a</td><td>1 &lt; 2</td>" in page("A title", "A note", {"": [("a", "1 < 2")]})
    True
    """
    parts = "\n".join(f"{_heading(heading)}{_part(heading, part)}" for heading, part in sections.items() if len(part))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}</title>
<style>{_STYLE}</style>
<h1>{html.escape(title)}</h1>
<p>{html.escape(note)}</p>
{parts}
</html>
"""


def _heading(heading: str) -> str:
    return f"<h2>{html.escape(heading)}</h2>\n" if heading else ""


def _part(heading: str, part: Section) -> str:
    if isinstance(part, bytes):
        data = base64.b64encode(part).decode()
        return f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'
    if isinstance(part, str):
        return f"<pre>{html.escape(part)}</pre>"
    rows = (f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in part)
    return "<table>\n" + "\n".join(rows) + "\n</table>"
