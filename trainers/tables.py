"""Tables of words, for a terminal and in Markdown."""


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
    """The same in Markdown; the first row is the header.

    >>> print(markdown_table([("name", "epochs"), ("fast", "15")]))
    | name | epochs |
    | --- | --- |
    | fast | 15 |
    """
    header, *body = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return "\n".join([header, f"|{' --- |' * len(rows[0])}", *body])
