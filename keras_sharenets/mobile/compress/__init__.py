"""Training for mobile devices: pruning, clustering, quantization-aware training."""
