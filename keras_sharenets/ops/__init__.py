"""Pure functions: permutations, kernels, ways to convolve. No layers, no state."""

from keras_sharenets.ops import balance, connectivity, convolution, hierarchical, interleaved, kernels, permutations

__all__ = ["balance", "connectivity", "convolution", "hierarchical", "interleaved", "kernels", "permutations"]
