"""Program that prints by how many bytes running a TFLite file raises the peak memory of a new process.

Its arguments are the path and the number of threads. It must load nothing else, because memory that was used before
would hide that of the file.
"""

import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter

INFERENCES = 10


def _bytes(field: str) -> int:
    """A field of the kernel's memory statistics of this process, which are in KiB."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith(f"{field}:"))


def main(path: str, threads: str) -> None:
    # Resets the peak, which includes the imports.
    with open("/proc/self/clear_refs", "w", encoding="utf-8") as account:
        account.write("5")
    before = _bytes("VmRSS")
    interpreter = Interpreter(path, num_threads=int(threads))
    interpreter.allocate_tensors()
    for entry in interpreter.get_input_details():
        interpreter.set_tensor(entry["index"], np.zeros(entry["shape"], entry["dtype"]))
    for _ in range(INFERENCES):
        interpreter.invoke()
    sys.stdout.write(f"{_bytes('VmHWM') - before}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
