"""From a trained network to a TFLite file or a SavedModel that is checked against it."""
