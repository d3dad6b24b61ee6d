"""Reports about several TFLite files as one aligned table."""


def aligned(rows):
    """Rows of str as text: the first column on the left, all others on the right, two spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def size_table(reports):
    """What the bytes of files are spent on.

    Args:
        reports: sequence of `SizeReport`.

    Returns:
        A str: one line a part, one column a file, and the total.
    """
    parts = [report.parts for report in reports]
    # Constants first, as they stand in the reports; a part that is in no file is left out.
    constants = dict.fromkeys(name for report in reports for name in sorted(report.constants))
    names = [*constants, *(name for name in parts[0] if name not in reports[0].constants)]
    rows = [["bytes", *(report.path for report in reports)]]
    for name in names:
        counts = [part.get(name, 0) for part in parts]
        if any(counts):
            rows.append([name, *(f"{count:,}" for count in counts)])
    rows.append(["total", *(f"{report.file_bytes:,}" for report in reports)])
    return aligned(rows)
