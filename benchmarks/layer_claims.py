"""What the library says of the speed of its layers, held against measured ones."""

from benchmarks.results import Claim

TO_FASTEST = 1.1
TO_DENSE = 1.3
# To the drawing in a training step, by kind, without XLA and with it.
TO_LITERAL = {
    "interleaved": {"tensorflow": 1 / 3, "xla": 1 / 100, "jax": 1 / 100},
    "hierarchical": dict.fromkeys(("tensorflow", "xla", "jax"), 1 / 1.25),
    "repeated": dict.fromkeys(("tensorflow", "xla", "jax"), 1),
    "dense pointwise": dict.fromkeys(("tensorflow", "xla", "jax"), 1),
}
TO_TILED = 1 / 100


def claims(rows):
    """The `Claim`s that rows of `layers.measure` can refute.

    That `"auto"` is near the fastest implementation; that it is not much slower than a dense convolution in training;
    that it is so much faster than the drawing there, of interleaved layers in wide networks' first stage, of
    hierarchical ones in four groups; and than a grouped convolution of repeated filters under XLA.
    """
    made = []
    for row in rows:
        where = f"{row['layer']}; {row['runtime']}, {row['direction']}"
        made.append(Claim("auto to the fastest implementation", where, row["to_fastest"], TO_FASTEST))
        if row["direction"] != "training":
            continue
        made.append(Claim("auto to a dense convolution", where, row["ratio"], TO_DENSE))
        if row["to_literal"] is not None and drawn(row):
            made.append(Claim("auto to the drawing", where, row["to_literal"], TO_LITERAL[row["kind"]][row["runtime"]]))
        tiled = row["all"].get("grouped")
        if tiled and row["runtime"] != "tensorflow" and row["kind"] == "repeated" and "G=16 R=8" in row["layer"]:
            made.append(Claim("auto to a grouped convolution", where, row["milliseconds"] / tiled, TO_TILED))
    return tuple(made)


def drawn(row):
    """Whether something is claimed about a layer and its drawing."""
    if row["kind"] == "interleaved":
        return "32x32x" in row["layer"] and "K=8,8,8" in row["layer"]
    return row["kind"] in ("repeated", "dense pointwise") or (row["kind"] == "hierarchical" and "G=4" in row["layer"])
