"""Packages that may be missing: asked for before any work, and named with the line that installs them."""

from __future__ import annotations

import importlib.util

# The extra of this package that brings a module; any other is a package of that name.
EXTRAS = {
    "ai_edge_quantizer": "precisions",
    "importlib_resources": "data",
    "keras_tuner": "tuning",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "tensorboard": "plots",
    "tensorflow_datasets": "data",
    "tensorflow_model_optimization": "mobile",
    "tf2onnx": "onnx",
    "tf_keras": "mobile",
}
# Files of ONNX are made by all three.
ONNX_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
_PACKAGES = {"PIL": "pillow", "ai_edge_litert": "ai-edge-litert", "sklearn": "scikit-learn"}


def install_line(module: str) -> str:
    """The line that installs a module of another package.

    >>> install_line("keras_tuner"), install_line("sklearn.datasets")
    ("pip install 'keras_sharenets[tuning]'", 'pip install scikit-learn')
    """
    module = module.partition(".")[0]
    if module in EXTRAS:
        return f"pip install 'keras_sharenets[{EXTRAS[module]}]'"
    return f"pip install {_PACKAGES.get(module, module)}"


def require(*modules: str) -> None:
    """Looks for modules without importing any, which may take seconds.

    Raises:
        ModuleNotFoundError: one is missing; the message has the line that installs it.

    >>> require("keras_sharenets", "numpy")
    """
    for module in modules:
        if not _is_there(module):
            raise ModuleNotFoundError(f"No module named {module!r}: {install_line(module)}", name=module)


def _is_there(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # It is imported, and was made by hand.
        return True
