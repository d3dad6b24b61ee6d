"""Arguments of small ShaResNets, shared by their tests."""

# Their images are already normalized.
SMALL = {"include_preprocessing": False, "num_classes": 5, "input_shape": (8, 8, 3)}
BOTTLENECKS = {**SMALL, "depth": 20, "width": 4}
WIDE = {**SMALL, "depth": 16, "width_multiplier": 1}
LARGE = {**SMALL, "width": 4, "blocks_per_stage": (2, 2), "input_shape": (32, 32, 3)}
