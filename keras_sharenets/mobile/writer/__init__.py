"""An inference graph as the bytes of a TFLite file."""
