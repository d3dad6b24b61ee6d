"""`python -m trainers`."""

import os
import sys

# TensorFlow reads this when it is first imported: the notices of its compiler would tear the progress bar apart.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from trainers.cli import main

if __name__ == "__main__":
    sys.exit(main())
