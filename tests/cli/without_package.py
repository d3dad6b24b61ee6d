"""Runs a command while a package cannot be imported: `python without_package.py PACKAGE COMMAND ...`."""

import sys


class HidePackage:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, HidePackage)
    from keras_sharenets.cli import main

    sys.exit(main(sys.argv[2:]))
