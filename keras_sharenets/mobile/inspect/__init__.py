"""What is in a TFLite file, what it computes, and what it costs."""
