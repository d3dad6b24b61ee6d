"""A profile as a text table, as CSV and as plain data."""

import csv
import dataclasses
import io

from keras_sharenets.analysis.profile import LayerProfile
from keras_sharenets.rendering.tables import text_table

_HEADER = ("layer", "type", "call", "output", "stored", "effective", "multiply-adds")
_ALIGN = "llrrrrr"


def _shape(shape):
    """`(None, 8, 8, 3)` as `8x8x3`; several shapes with `+` between them."""
    if any(isinstance(side, tuple) for side in shape):
        return "+".join(map(_shape, shape))
    return "x".join("?" if side is None else str(side) for side in shape[1:])


def _count(number):
    return "?" if number is None else f"{number:,}"


def _cells(row):
    stored = "shared" if row.shared else _count(row.stored_parameters)
    call = str(row.call + 1) if row.call else ""
    counts = (stored, _count(row.effective_parameters), _count(row.multiply_adds))
    return (row.name, row.type, call, _shape(row.output_shape), *counts)


def to_text(profile):
    """An aligned table: one line a call, then totals and the ratio of effective to stored parameters.

    In the column `stored`, `shared` marks a call whose parameters an earlier line has; in the column `call` stand the
    second and later calls of a layer; `?` stands for what is not known. A total with `>=` lacks the layers that are
    named below it.

    Args:
        profile: a `Profile`.

    Returns:
        A str that ends with a line break.
    """
    at_least = ">= " if profile.uncounted else ""
    totals = (_count(profile.stored_parameters), _count(profile.effective_parameters))
    total = ("total", "", "", "", *totals, f"{at_least}{_count(profile.multiply_adds)}")
    table = [_HEADER, *map(_cells, profile.layers), total]
    lines = text_table(table, align=_ALIGN).splitlines()
    rule = "-" * max(map(len, lines))
    inputs = "+".join(_shape((None, *shape)) for shape in profile.input_shapes)
    text = [f"{profile.name}, input {inputs}", "", lines[0], rule, *lines[1:-1], rule, lines[-1], ""]
    text.append(f"effective / stored: {profile.ratio:.2f}")
    text.append(f"not trained, in no count above: {_count(profile.non_trainable_parameters)}")
    if profile.uncounted:
        text.append(f"multiply-adds not known: {', '.join(profile.uncounted)}")
    return "\n".join(text) + "\n"


def to_csv(profile):
    """One line a call under a header of the fields of `LayerProfile`; no totals.

    Shapes are written without the batch (`32x32x16`), an unknown count is an empty field.

    Args:
        profile: a `Profile`.

    Returns:
        A str.
    """
    names = [field.name for field in dataclasses.fields(LayerProfile)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in profile.layers:
        values = dataclasses.asdict(row)
        values.update(input_shape=_shape(row.input_shape), output_shape=_shape(row.output_shape))
        writer.writerow([values[name] for name in names])
    return text.getvalue()


def to_dict(profile):
    """The profile as plain data for JSON: shapes are lists, an unknown count is `None`.

    Args:
        profile: a `Profile`.

    Returns:
        A dict: the totals, and under `"layers"` one dict a call with the fields of `LayerProfile`.
    """
    return {
        "name": profile.name,
        "input_shapes": _lists(profile.input_shapes),
        "stored_parameters": profile.stored_parameters,
        "effective_parameters": profile.effective_parameters,
        "non_trainable_parameters": profile.non_trainable_parameters,
        "ratio": profile.ratio,
        "multiply_adds": profile.multiply_adds,
        "uncounted": list(profile.uncounted),
        "layers": [{name: _lists(value) for name, value in dataclasses.asdict(row).items()} for row in profile.layers],
    }


def _lists(value):
    return [_lists(entry) for entry in value] if isinstance(value, tuple) else value
