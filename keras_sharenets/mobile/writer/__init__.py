"""Serialization of an inference graph to a TFLite file."""
