"""Pure functions: permutations, kernels, ways to convolve. No layers, no state."""

from keras_sharenets.ops import convolution, hierarchical, kernels, permutations

__all__ = ["convolution", "hierarchical", "kernels", "permutations"]
