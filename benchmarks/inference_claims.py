"""What the library says of the time that its networks take for a picture, held against measured ones."""

from benchmarks.results import Claim

# To the file that TensorFlow's converter makes of the network as drawn, by precision.
TO_DRAWING = {"float32": 0.9, "int8": 0.72}


def claims(rows, network, drawing):
    """The `Claim`s that rows of `inference` can refute: a network's file is so much faster than its drawing's.

    Args:
        rows: dicts with `network`, `runtime` and `milliseconds`.
        network, drawing: str, two of those names.
    """
    times = {(row["network"], row["runtime"]): row["milliseconds"] for row in rows}
    made = []
    for runtime in dict.fromkeys(row["runtime"] for row in rows):
        ours, theirs = times.get((network, runtime)), times.get((drawing, runtime))
        limit = next((limit for precision, limit in TO_DRAWING.items() if f"LiteRT, {precision}" in runtime), None)
        if ours and theirs and limit:
            made.append(Claim("file to the plain converter's of the drawing", runtime, ours / theirs, limit))
    return tuple(made)
