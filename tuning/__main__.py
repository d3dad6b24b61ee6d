"""`python -m tuning`."""

import os
import sys

# TensorFlow reads this when it is first imported: its notices would tear the table apart.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tuning.cli import main

if __name__ == "__main__":
    sys.exit(main())
