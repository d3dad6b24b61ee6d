"""Convolutional networks that reuse their filters, for Keras 3."""

import importlib as _importlib
import sys as _sys
import typing as _typing

if _typing.TYPE_CHECKING:
    from keras_sharenets import layers, mobile, models, sharing
    from keras_sharenets.analysis import profile
    from keras_sharenets.models import create_model, list_models
    from keras_sharenets.sharing import distill, share

__version__ = "0.1.0"
__all__ = ["create_model", "distill", "layers", "list_models", "mobile", "models", "profile", "share", "sharing"]
# Imported on first access: Keras takes seconds to import, and `mobile` needs TensorFlow.
_HOMES = {
    "create_model": "models",
    "distill": "sharing",
    "list_models": "models",
    "profile": "analysis",
    "share": "sharing",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(_importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in __all__:
        return _importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _RegisterWithKeras:
    """Registers the layers when Keras is imported anywhere: `keras.saving.load_model` finds only registered classes."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "keras":
            return None
        found = (finder.find_spec(name, path, target) for finder in _sys.meta_path if finder is not cls)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                _importlib.import_module(f"{__name__}.layers")

            spec.loader.exec_module = exec_module
        return spec


if "keras" in _sys.modules:
    _importlib.import_module(f"{__name__}.layers")
else:
    _sys.meta_path.insert(0, _RegisterWithKeras)
