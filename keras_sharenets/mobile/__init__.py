"""From a trained network to files that phones and servers run, and programs to run and measure such files."""

try:
    import ai_edge_litert  # noqa: F401
    import flatbuffers  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{error}. `keras_sharenets.mobile` needs more packages: pip install 'keras_sharenets[mobile]'",
        name=error.name,
    ) from error

from keras_sharenets.mobile.compress.pruning import cluster, prune
from keras_sharenets.mobile.compress.quantize_aware import quantize_aware
from keras_sharenets.mobile.compress.stripping import strip
from keras_sharenets.mobile.export.inference import inference_form
from keras_sharenets.mobile.export.metadata import read_labels, write_labels
from keras_sharenets.mobile.export.parity import ExportMismatchError
from keras_sharenets.mobile.export.saved_model import SavedModelReport, export_saved_model
from keras_sharenets.mobile.export.tflite import TFLiteReport, export_tflite
from keras_sharenets.mobile.graph.lowering_rules import UnsupportedLayerError
from keras_sharenets.mobile.inspect.benchmark import BenchmarkReport, benchmark_tflite, compare_tflite
from keras_sharenets.mobile.inspect.interpreter import describe_tflite, open_tflite, predict_tflite
from keras_sharenets.mobile.inspect.operator_timing import OperatorTime, operator_times
from keras_sharenets.mobile.inspect.size_report import SizeReport, size_report

__all__ = [
    "BenchmarkReport",
    "ExportMismatchError",
    "OperatorTime",
    "SavedModelReport",
    "SizeReport",
    "TFLiteReport",
    "UnsupportedLayerError",
    "benchmark_tflite",
    "cluster",
    "compare_tflite",
    "describe_tflite",
    "export_saved_model",
    "export_tflite",
    "inference_form",
    "open_tflite",
    "operator_times",
    "predict_tflite",
    "prune",
    "quantize_aware",
    "read_labels",
    "size_report",
    "strip",
    "write_labels",
]
