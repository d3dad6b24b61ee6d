"""Writes the files that programs are tried with: one network of each family, in each format.

python -m tools.clients.files runs/clients
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
import time
import warnings

import keras
import numpy as np

import keras_sharenets as ksn
from keras_sharenets import files, mobile
from keras_sharenets.analysis.randomization import randomize_batchnorm
from keras_sharenets.mobile.export.reference import run_keras
from keras_sharenets.mobile.export.representative_data import synthetic_images

ROOT = pathlib.Path(__file__).parents[2]
# A trained network where the checkout has one of the family, else arguments for one with statistics as after training.
NETWORKS = {
    "hscnet_m32_g4_r2_b1_a2": "hscnet_m32_g4_r2_b1_a2_cifar10",
    "hgcnet_42_g4": "hgcnet_42_g4_cifar10_seed0",
    "igcv2_c64_d8": "igcv2_c64_d8_cifar10_seed0",
    "sl3_resnet_64": "sl3_resnet_64_cifar10_seed0",
    "sharesnet_164": {"depth": 20},
    "shufflenet_v2_2_0": {"width": (24, 48, 96, 192, 256), "blocks_per_stage": 2},
}
INT8_ENDS = {"input_type": "int8", "output_type": "int8"}
FORMATS = {
    "float32": {},
    "float16": {"quantization": "float16"},
    "int8": {"quantization": "int8"},
    "int8 inputs and outputs": {"quantization": "int8", **INT8_ENDS},
}
_CALIBRATION = 128


def load_images(count: int) -> tuple[np.ndarray, np.ndarray, str]:
    """`(calibration images, test images, description)`: of CIFAR-10 if it is in TFDS_DATA_DIR, else synthetic."""
    if (pathlib.Path(os.environ.get("TFDS_DATA_DIR", "")) / "cifar10").is_dir():
        from keras_sharenets.training.data.sources import load

        data = load("cifar10")
        return data.train.images[:_CALIBRATION], data.test.images[:count], f"the first {count} test images of CIFAR-10"
    images = synthetic_images((32, 32, 3), count=_CALIBRATION + count)
    return images[:_CALIBRATION], images[_CALIBRATION:], f"{count} synthetic images"


def network(name: str) -> keras.Model:
    """One of `NETWORKS`."""
    source = NETWORKS[name]
    if isinstance(source, str):
        return files.load_model(ROOT / "saved_models" / source / "last.keras")
    keras.utils.set_random_seed(0)
    model = ksn.create_model(name, input_shape=(32, 32, 3), num_classes=10, **source)
    randomize_batchnorm(model)
    return model


def write(folder: pathlib.Path, count: int = 200) -> None:
    """Writes `NETWORK.FORMAT.tflite`, the outputs of Keras, the images, and `about.json` into an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    representative_data, images, source = load_images(count)
    np.save(folder / "images.npy", images)
    names, listed, started = [f"class {number}" for number in range(10)], [], time.monotonic()
    for number, name in enumerate(NETWORKS, 1):
        model = network(name)
        np.save(folder / f"{name}.keras.npy", run_keras(model, images))
        for form, options in FORMATS.items():
            path = folder / f"{name}.{form.replace(', ', '.').replace(' ', '_')}.tflite"
            with warnings.catch_warnings():
                # Untrained networks cause a warning.
                warnings.simplefilter("ignore", UserWarning)
                report = mobile.export_tflite(
                    model, path, representative_data=representative_data, class_names=names, **options
                )
            listed.append({"network": name, "format": form, "file": path.name, "bytes": report.file_bytes})
            print(f"{path}: {report.file_bytes:,} bytes", flush=True)
        left = (time.monotonic() - started) / number * (len(NETWORKS) - number)
        print(f"{number} of {len(NETWORKS)} networks, about {left / 60:.0f} min left", flush=True)
    about = {"images": source, "networks": list(NETWORKS), "files": listed}
    (folder / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


if __name__ == "__main__":
    write(pathlib.Path(sys.argv[1]))
