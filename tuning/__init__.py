"""Programs that search for networks; run from a checkout: `python -m tuning`."""
