"""Export of trained networks to TFLite, SavedModel and ONNX, verified against Keras."""
