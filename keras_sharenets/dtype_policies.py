"""Keras dtype policies for the computations of a network. Under each of `POLICIES`, its weights are float32.

The names are available without Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Built = TypeVar("Built")

HALF = ("bfloat16", "float16")
# Policies by compute dtype.
POLICIES = {"float32": "float32"} | {name: f"mixed_{name}" for name in HALF}


def in_policy(policy: str | None, build: Callable[[], Built]) -> Built:
    """The result of `build` under a Keras dtype policy; `None` for the current policy.

    >>> import keras
    >>> in_policy("mixed_bfloat16", lambda: keras.layers.Dense(4)).compute_dtype
    'bfloat16'
    """
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy or before)
    try:
        return build()
    finally:
        keras.config.set_dtype_policy(before)


def full_types(config: Any) -> Any:
    """A layer config with all half-precision dtypes and dtype policies, at any depth, replaced by float32.

    >>> full_types({"name": "a", "dtype": "mixed_float16", "inner": [{"dtype": "bfloat16"}]})
    {'name': 'a', 'dtype': 'float32', 'inner': [{'dtype': 'float32'}]}
    """
    if isinstance(config, (list, tuple)):
        return type(config)(map(full_types, config))
    if not isinstance(config, dict):
        return config
    named = "name" if config.keys() == {"name"} else "dtype"  # The config of a policy has only a name.
    return {
        key: "float32" if key == named and str(each).removeprefix("mixed_") in HALF else full_types(each)
        for key, each in config.items()
    }
