"""`tf_keras` and TFMOT. This module is imported inside functions: that takes a moment, and they may be missing."""

import operator
import os

import tensorflow as tf

_SWITCH = "TF_USE_LEGACY_KERAS"


def _load():
    # TFMOT sets a variable that makes TensorFlow's own `keras` mean `tf_keras` in this process and those it starts,
    # unless that was looked up before. It is looked up now, and the variable put back.
    operator.attrgetter("keras.version")(tf)
    before = os.environ.get(_SWITCH)
    try:
        import tensorflow_model_optimization
        import tf_keras
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}. Pruning, clustering and TFMOT need more packages: pip install 'keras_sharenets[mobile]'",
            name=error.name,
        ) from error
    finally:
        os.environ.pop(_SWITCH, None)
        if before is not None:
            os.environ[_SWITCH] = before
    return tf_keras, tensorflow_model_optimization


tf_keras, tfmot = _load()
