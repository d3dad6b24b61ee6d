"""One HTML page that needs no other file, for wide and narrow screens, light and dark."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Mapping, Sequence

from keras_sharenets.rendering.tables import Rows, column_sides, shorten

COUNTS = "Weights and multiply-adds, call by call"
MANY_LINES, MANY_ROWS = 20, 50  # Longer text and longer tables are folded up.
LONG = 30  # Letters of a cell that is not squeezed into a narrow column, and of a class name beside a matrix.
_STYLE = """
:root { color-scheme: light dark; --text: #1f2933; --quiet: #52606d; --line: #e4e7eb; --back: #ffffff; --box: #f5f7fa; }
:root { --wrong: #c62828; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7eb; --quiet: #a3afbb; --line: #3b4754; --back: #161b21; --box: #20272f; }
  :root { --wrong: #ff8a80; }
  img.figure { filter: invert(0.91) hue-rotate(180deg); mix-blend-mode: lighten; }
  img.photos { background: #ffffff; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
body { color: var(--text); background: var(--back); overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p, summary { color: var(--quiet); } summary { cursor: pointer; margin: 0.5rem 0; } img { max-width: 100%; }
.scroll { overflow-x: auto; } .scroll img { min-width: 36rem; } table { border-collapse: collapse; font-size: 0.9rem; }
td, th { padding: 0.3rem 1rem 0.3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; text-align: left; }
th { font-weight: 600; } td { font-variant-numeric: tabular-nums; } .number { text-align: right; white-space: nowrap; }
.long { min-width: 16rem; } pre { font-size: 0.8rem; background: var(--box); padding: 1rem; overflow-x: auto; }
pre { white-space: pre-wrap; } details pre { white-space: pre; }
.confusion th { border: 0; font-weight: 400; } .confusion td { border: 1px solid var(--line); }
.confusion td, .confusion th { padding: 0.15rem 0.25rem; } .confusion thead td { border: 0; }
.confusion td { min-width: 1.2rem; height: 1.5rem; text-align: center; vertical-align: middle; }
.confusion thead th { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 12rem; }
.confusion tbody th { position: sticky; left: 0; max-width: 9rem; background: var(--back); vertical-align: middle; }
.confusion td.most { color: #ffffff; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.5rem, 1fr)); gap: 0.8rem; }
.gallery figure { margin: 0; font-size: 0.8rem; line-height: 1.3; overflow-wrap: anywhere; }
.gallery img { width: 100%; } .wrong { color: var(--wrong); }
@media (max-width: 40rem) { table { font-size: 0.8rem; } td, th { padding-right: 0.6rem; } }
td:last-child, th:last-child { padding-right: 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 1rem; }
.figures img, img.photos { max-width: min(100%, 44rem); }
"""


@dataclasses.dataclass(frozen=True)
class Photo:
    """A PNG file whose colors are those of images: a dark page leaves them alone.

    A single one fits a phone. One of several is small, and has its text below it, in red if it is `wrong`.
    """

    data: bytes
    text: str = ""
    wrong: bool = False


@dataclasses.dataclass(frozen=True)
class Confusion:
    """The counts of a confusion matrix, a row per true class and a column per predicted class."""

    class_names: Sequence[str]
    counts: Sequence[Sequence[int]]


# Pairs of a name and a value; a table whose first row is its header; a figure as a PNG file; several, each so narrow
# a phone can show it, beside each other where there is room; one large image or several small ones; a matrix; or text
# that is shown as it is.
Section = Mapping[str, str] | Rows | bytes | Sequence[bytes] | Photo | Sequence[Photo] | Confusion | str


def page(title: str, note: str, sections: Mapping[str, Section]) -> str:
    """A report as HTML.

    Args:
        title, note: above everything.
        sections: heading to what is below it. What is empty is left out; a heading of `""` is none. Columns of numbers
            are on the right, and what is long is folded up.

    >>> html = page("A title", "A note", {"": [("name", "epochs"), ("a < b", "15")]})
    >>> '<td>a &lt; b</td><td class="number">15</td>' in html
    True
    >>> html = page("Matrix", "", {"": Confusion(("a", 40 * "b"), [(3, 1), (0, 2)])})
    >>> '<th scope="row">a</th><td style="background: rgb(31 95 191 / 0.75)">3</td>' in html, "b" * 30 + "<" in html
    (True, False)
    >>> ["<details>" in page("Folded?", "", {"Calls": "call\\n" * calls}) for calls in (5, 50)]
    [False, True]
    """
    parts = "\n".join(f"{_heading(heading)}{_part(heading, part)}" for heading, part in sections.items() if part)
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
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
    if isinstance(part, Photo):
        return _image(heading, part.data, "photos")
    if isinstance(part, bytes):
        # As tables are, moved sideways on a phone, where its letters would be too small to read.
        return f'<div class="scroll">{_image(heading, part, "figure")}</div>'
    if isinstance(part, str):
        lines = part.count("\n") + 1
        return _folded(f"<pre>{html.escape(part)}</pre>", f"{lines} lines", lines > MANY_LINES)
    if isinstance(part, Mapping):
        pairs = [tuple(map(html.escape, pair)) for pair in part.items()]
        return _table([f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in pairs])
    if isinstance(part, Confusion):
        return _confusion(part)
    figures = [each for each in part if isinstance(each, bytes)]
    if figures:
        return f'<div class="figures">{"".join(_image(heading, each, "figure") for each in figures)}</div>'
    images = [each for each in part if isinstance(each, Photo)]
    if images:
        return f'<div class="gallery">{"".join(map(_captioned, images))}</div>'
    rows = [row for row in part if not isinstance(row, (bytes, Photo))]
    sides = column_sides(rows)
    table = _table([_row(rows[0], sides, "th"), *(_row(row, sides) for row in rows[1:])])
    return _folded(table, f"{len(rows) - 1} rows", len(rows) - 1 > MANY_ROWS)


def _image(heading: str, data: bytes, kind: str) -> str:
    source = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{source}" class="{kind}">'


def _captioned(image: Photo) -> str:
    mark = ' class="wrong"' if image.wrong else ""
    text = f"<figcaption{mark}>{html.escape(image.text)}</figcaption>"
    return f"<figure>{_image(image.text, image.data, 'photos')}{text}</figure>"


def _confusion(matrix: Confusion) -> str:
    """The matrix as a table: the color of a cell is its fraction of the row."""
    header = "".join(_class_name(name, "col") for name in matrix.class_names)
    rows = []
    for name, counts in zip(matrix.class_names, matrix.counts, strict=True):
        cells = "".join(_share(count, sum(counts)) for count in counts)
        rows.append(f"<tr>{_class_name(name, 'row')}{cells}</tr>")
    return (
        "<p>A row for each true class, a column for each predicted class. Color: fraction of the row.</p>\n"
        f'<div class="scroll"><table class="confusion">\n<thead><tr><td></td>{header}</tr></thead>\n<tbody>'
        + "\n".join(rows)
        + "</tbody>\n</table></div>"
    )


def _class_name(name: str, scope: str) -> str:
    shown = shorten(name, LONG)
    title = "" if shown == name else f' title="{html.escape(name)}"'
    return f'<th scope="{scope}"{title}>{html.escape(shown)}</th>'


def _share(count: int, total: int) -> str:
    if not count:
        return "<td></td>"
    share = count / total
    mark = ' class="most"' if share > 0.8 else ""
    return f'<td{mark} style="background: rgb(31 95 191 / {share:.2f})">{count:,}</td>'


def _folded(content: str, summary: str, long: bool) -> str:
    return f"<details><summary>{summary}</summary>\n{content}\n</details>" if long else content


def _table(rows: Sequence[str]) -> str:
    return '<div class="scroll"><table>\n' + "\n".join(rows) + "\n</table></div>"


def _row(cells: Sequence[str], sides: str, tag: str = "td") -> str:
    return f"<tr>{''.join(_cell(cell, side, tag) for cell, side in zip(cells, sides, strict=True))}</tr>"


def _cell(text: str, side: str, tag: str) -> str:
    kind = "number" if side == "r" else "long" if len(text) > LONG else ""
    mark = f' class="{kind}"' if kind else ""
    return f"<{tag}{mark}>{html.escape(text)}</{tag}>"
