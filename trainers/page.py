"""One HTML page that needs no other file."""

import base64
import html

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1f2933; }
h1 { font-size: 1.6rem; margin-bottom: 0.2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; } td { padding: 0.3rem 1.2rem 0.3rem 0; border-bottom: 1px solid #e4e7eb; }
td + td { font-variant-numeric: tabular-nums; } img { max-width: 100%; }
pre { font-size: 0.8rem; overflow-x: auto; background: #f5f7fa; padding: 1rem; } p { color: #52606d; }
"""


def page(heading, note, rows, images, appendix=""):
    """A report as HTML.

    Args:
        heading, note: str.
        rows: sequence of tuples of str, the table; often `(name, value)`.
        images: dict, heading to the bytes of a PNG file.
        appendix: str, the profile of a network, shown as it is at the end; none if empty.

    Returns:
        str.
    """
    table = "\n".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    counts = (
        f"<h2>Weights and multiply-adds, call by call</h2>\n<pre>{html.escape(appendix)}</pre>\n" if appendix else ""
    )
    pictures = "\n".join(
        f'<h2>{html.escape(title)}</h2>\n<img alt="{html.escape(title)}" src="data:image/png;base64,'
        f'{base64.b64encode(data).decode()}">'
        for title, data in images.items()
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(heading)}</title>
<style>{_STYLE}</style>
<h1>{html.escape(heading)}</h1>
<p>{html.escape(note)}</p>
<table>
{table}
</table>
{pictures}
{counts}</html>
"""
