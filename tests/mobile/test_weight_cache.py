"""LiteRT's optional cache of packed weights stores a kernel as often as the file does."""

import keras
import pytest
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.options import CpuOptions, Options
from mobile_networks import convert

from keras_sharenets.analysis.randomization import randomize_batchnorm

CALLS, CHANNELS = 4, 48
KERNEL_BYTES = 4 * 9 * CHANNELS**2


@pytest.fixture(scope="module")
def model():
    inputs = x = keras.Input((4, 4, CHANNELS))
    shared = keras.layers.Conv2D(CHANNELS, 3, padding="same", use_bias=False)
    for _ in range(CALLS):
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(shared(x)))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    randomize_batchnorm(model)
    return model


@pytest.mark.parametrize(("prefer", "kernels"), [("size", 1), ("speed", CALLS)])
def test_number_of_cached_kernels(model, tmp_path, prefer, kernels):
    path, cache = tmp_path / "net.tflite", tmp_path / "net.cache"
    path.write_bytes(convert(model, prefer=prefer))
    options = Options(cpu_options=CpuOptions(num_threads=1, xnnpack_weight_cache_path=str(cache)))
    CompiledModel.from_file(str(path), options=options).close()
    # In addition: scales, shifts, records of the cache, and padding of packed kernels.
    assert kernels <= cache.stat().st_size / KERNEL_BYTES < 1.5 * kernels
