"""`python -m benchmarks`."""

import os
import sys

# TensorFlow reads this when it is first imported: the notices of its converter would tear the progress lines apart.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
