"""Pure functions: permutations, kernels, ways to convolve. No layers, no state."""

from keras_sharenets.ops import convolution, kernels, permutations

__all__ = ["convolution", "kernels", "permutations"]
