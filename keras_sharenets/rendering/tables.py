"""Tables of words, for a terminal and in Markdown."""

import re

_NUMBER = re.compile(r"[+-]?[\d,]*\.?\d+(e[+-]?\d+)?( ?%)?")


def text_table(rows):
    """Rows of equally many words, the columns aligned on the left.

    >>> print(text_table([("name", "epochs"), ("fast", "15")]))
    name  epochs
    fast  15
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown_table(rows):
    """The same in Markdown; the first row is the header. Columns of which most cells are numbers align on the right.

    >>> print(markdown_table([("name", "epochs"), ("fast", "15")]))
    | name | epochs |
    | --- | ---: |
    | fast | 15 |
    """
    header, *body = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    rules = ["---:" if _are_numbers(column) else "---" for _, *column in zip(*rows, strict=True)]
    return "\n".join([header, f"| {' | '.join(rules)} |", *body])


def _are_numbers(cells):
    given = [cell for cell in cells if cell]
    return 2 * sum(_NUMBER.fullmatch(cell) is not None for cell in given) > len(given)
