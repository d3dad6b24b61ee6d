"""Inspection of TFLite files: contents, inference, benchmarks and size."""
