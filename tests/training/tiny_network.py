"""A named network that is quickly trained, for the tests of `fit`."""

MODEL = "hscnet_m32_g4_r2_b1_a2"
# One stage: a third of the layers to compile.
TINY = {"width": (16,), "shuffle_groups": 1, "arrangements": 1}
