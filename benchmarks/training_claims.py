"""What the library says of a step of training, held against measured ones."""

from benchmarks.results import Claim

TO_TWIN = 1.03
# Fewer, and by more than a rounding.
FEWER = 0.99
TO_DRAWING = {"hscnet_m96_g8_r4_a2": 0.62}


def claims(rows):
    """The `Claim`s that rows of `training.measure` can refute.

    That sharing layers costs no time and saves weights and momenta; and how much faster a network is than its drawing.
    """
    networks = {row["network"]: row for row in rows if row["role"] == "network"}
    made = []
    for row in rows:
        where, ours = row["network"], networks[row["network"]]
        if row["role"] == "twin":
            made += [
                Claim("step to the unshared twin's", where, row["to_peer"], TO_TWIN),
                Claim("weight bytes to the twin's", where, ours["weight_bytes"] / row["weight_bytes"], FEWER),
                Claim("optimizer bytes to the twin's", where, ours["optimizer_bytes"] / row["optimizer_bytes"], FEWER),
            ]
        if row["role"] == "drawing" and where in TO_DRAWING:
            made.append(Claim("step to the drawing's", where, row["to_peer"], TO_DRAWING[where]))
    return tuple(made)
