"""Convolutional networks that reuse their filters, for Keras 3."""

import importlib as _importlib
import importlib.util as _util
import sys as _sys

__version__ = "0.1.0"
__all__ = ["create_model", "layers", "list_models", "mobile", "models", "profile"]
# Imported when they are asked for: Keras takes seconds, and `mobile` needs TensorFlow.
_HOMES = {"create_model": "models", "list_models": "models", "profile": "analysis"}


def __getattr__(name):
    if name in _HOMES:
        return getattr(_importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in __all__:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return [*__all__, "__version__"]


class _RegisterWithKeras:
    """Registers the layers as soon as Keras is imported: `keras.saving.load_model` imports no module for a file."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "keras":
            return None
        _sys.meta_path.remove(cls)
        try:
            spec = _util.find_spec(name)
        finally:
            _sys.meta_path.insert(0, cls)
        if spec is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            if cls in _sys.meta_path:
                _sys.meta_path.remove(cls)
            _importlib.import_module(f"{__name__}.layers")

        spec.loader.exec_module = exec_module
        return spec


if "keras" in _sys.modules:
    _importlib.import_module(f"{__name__}.layers")
else:
    _sys.meta_path.insert(0, _RegisterWithKeras)
