"""HGCNet: hierarchical group convolution."""
