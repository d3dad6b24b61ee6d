"""Programs that measure networks beside their peers: `python -m benchmarks delivery --help`, from a checkout."""
