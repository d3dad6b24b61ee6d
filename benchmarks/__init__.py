"""Programs that compare networks with their peers: `python -m benchmarks delivery --help`, from a checkout."""
