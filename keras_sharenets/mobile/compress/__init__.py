"""Networks that are trained for mobile devices: pruned, clustered, quantization-aware."""
