"""A search as one HTML page that needs no other file."""

import base64
import html

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } p { color: #52606d; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; } img { max-width: 100%; }
td, th { padding: 0.25rem 0.8rem 0.25rem 0; border-bottom: 1px solid #e4e7eb; text-align: left; font-weight: normal; }
th { color: #52606d; } pre { font-size: 0.8rem; white-space: pre-wrap; background: #f5f7fa; padding: 1rem; }
"""


def to_html(title, note, sections):
    """A page of sections.

    Args:
        title, note: str.
        sections: dict, heading to what is below it: a list of rows of str, the first of them headings; the bytes of a
            PNG file; or a str that is shown as it is.

    Returns:
        str.
    """
    parts = "\n".join(f"<h2>{html.escape(heading)}</h2>\n{_part(heading, part)}" for heading, part in sections.items())
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


def _part(heading, part):
    if isinstance(part, bytes):
        data = base64.b64encode(part).decode()
        return f'<img alt="{html.escape(heading)}" src="data:image/png;base64,{data}">'
    if isinstance(part, str):
        return f"<pre>{html.escape(part)}</pre>"
    head, *rows = part
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>\n" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "\n</table>"
