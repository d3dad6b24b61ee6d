"""The tables and figures of the papers as experiments: networks, data, recipes and published numbers."""
