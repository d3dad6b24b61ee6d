"""HSC-Net: filters repeated along channels, across layers, and arranged into new ones."""
