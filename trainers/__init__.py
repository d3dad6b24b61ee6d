"""Programs that train the networks of `keras_sharenets`; run them from a checkout: `python -m trainers fit --help`."""
