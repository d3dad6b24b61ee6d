"""Description of the machine of a measurement."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Iterable
from typing import Any

import keras

import keras_sharenets

PACKAGES = ("keras", "tensorflow", "jax", "ai-edge-litert", "numpy")


def describe_machine() -> dict[str, Any]:
    """Date, machine, versions and backend, as plain data for JSON."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        # The 15-minute load average. A load above the number of cores makes timings unreliable.
        "load": round(os.getloadavg()[2], 2) if hasattr(os, "getloadavg") else None,
        "backend": keras.backend.backend(),
        "versions": package_versions(PACKAGES),
    }


def package_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Versions of Python, of this library, and of packages; `None` for a package that is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    versions["keras_sharenets"] = keras_sharenets.__version__
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _processor() -> str:
    """The processor's name, which Linux provides in a file."""
    information = pathlib.Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
