"""What computes: whether there is an accelerator, and whether a compiler stands before the CPU."""

import keras


def accelerated():
    """Whether Keras runs on a GPU or TPU."""
    # Without a kind Keras lists the fastest there is.
    return not keras.distribution.list_devices()[0].startswith("cpu")


def xla_only():
    """Whether everything is compiled by XLA for a CPU: JAX without an accelerator."""
    return keras.backend.backend() == "jax" and not accelerated()


def xla_optional():
    """Whether a CPU has a library of its own beside XLA: TensorFlow without an accelerator."""
    return keras.backend.backend() == "tensorflow" and not accelerated()
