"""Export of trained networks to files for phones and servers, and functions that run and measure such files."""

import importlib
from typing import Any

try:
    import ai_edge_litert  # noqa: F401
    import flatbuffers  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}. `keras_sharenets.mobile` needs it: pip install ai-edge-litert flatbuffers",
        name=error.name,
    ) from error

from keras_sharenets.mobile.compress.pruning import cluster, prune
from keras_sharenets.mobile.compress.quantize_aware import quantize_aware, strip
from keras_sharenets.mobile.export.c_array import write_c_array
from keras_sharenets.mobile.export.onnx import export_onnx
from keras_sharenets.mobile.export.saved_model import export_saved_model
from keras_sharenets.mobile.export.tflite import export_tflite
from keras_sharenets.mobile.graph.rules import register_lowering
from keras_sharenets.mobile.inspect.benchmark import benchmark_tflite, compare_tflite
from keras_sharenets.mobile.inspect.file import describe_tflite, predict_tflite
from keras_sharenets.mobile.inspect.size_report import size_report

__all__ = [
    "benchmark_tflite",
    "cluster",
    "compare_tflite",
    "describe_tflite",
    "export_onnx",
    "export_saved_model",
    "export_tflite",
    "predict_tflite",
    "prune",
    "quantize_aware",
    "register_lowering",
    "size_report",
    "strip",
    "write_c_array",
]

# Names that earlier versions exported here: the module and name under which each is found today.
_MOVED = {
    "BenchmarkReport": ("inspect.benchmark", "BenchmarkReport"),
    "ExportMismatchError": ("export.reference", "ExportMismatchError"),
    "OperatorTime": ("inspect.benchmark", "OperatorTime"),
    "SavedModelReport": ("export.saved_model", "SavedModelReport"),
    "SizeReport": ("inspect.size_report", "SizeReport"),
    "TFLiteReport": ("export.tflite", "TFLiteReport"),
    "UnsupportedLayerError": ("graph.rules", "UnsupportedLayerError"),
    "inference_form": ("export.saved_model", "inference_model"),
    "open_tflite": ("inspect.file", "open_tflite"),
    "operator_times": ("inspect.benchmark", "operator_times"),
    "read_labels": ("inspect.file", "read_labels"),
    "write_labels": ("export.metadata", "write_labels"),
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _MOVED[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
