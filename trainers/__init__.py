"""Programs that train the networks of `keras_sharenets`: `python -m trainers fit --help`, from a checkout."""
