"""Programs that search for networks; run them from a checkout: `python -m tuning`."""
