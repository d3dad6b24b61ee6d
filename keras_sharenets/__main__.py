"""`python -m keras_sharenets` is the command `sharenets`, also where its script is not on the PATH."""

import sys

from keras_sharenets.cli import main

if __name__ == "__main__":
    sys.exit(main())
