"""Optional packages: checked before any work starts, with the command that installs them in the error message."""

from __future__ import annotations

import importlib.util

# The extra of this package that installs a module. Other modules are packages of the same name.
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
# Writing an ONNX file needs all three.
ONNX_PACKAGES = ("onnx", "onnxruntime", "tf2onnx")
_PACKAGES = {"PIL": "pillow", "ai_edge_litert": "ai-edge-litert", "sklearn": "scikit-learn"}


def install_line(module: str) -> str:
    """The command that installs a module of another package.

    >>> install_line("keras_tuner"), install_line("sklearn.datasets")
    ("pip install 'keras_sharenets[tuning]'", 'pip install scikit-learn')
    """
    module = module.partition(".")[0]
    if module in EXTRAS:
        return f"pip install 'keras_sharenets[{EXTRAS[module]}]'"
    return f"pip install {_PACKAGES.get(module, module)}"


def require(*modules: str) -> None:
    """Checks that modules are installed, without importing them, which may take seconds.

    Raises:
        ModuleNotFoundError: a module is missing. The message has the command that installs it.

    >>> require("keras_sharenets", "numpy")
    """
    for module in modules:
        if not _is_installed(module):
            raise ModuleNotFoundError(f"No module named {module!r}: {install_line(module)}", name=module)


def _is_installed(module):
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # The module is imported but has no spec, such as one created in a test.
        return True
