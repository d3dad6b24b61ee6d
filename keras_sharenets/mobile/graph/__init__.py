"""The inference graph between a Keras model and its file: lowering, passes, quantization."""
