"""What `model.fit` of Keras 3.15 needs under `tf.distribute.MultiWorkerMirroredStrategy`.

Two faults of Keras are gone round, without touching it: `MultiWorkerModel` says how. A test tells when they are mended,
and this module can go.
"""

import keras


class MultiWorkerModel(keras.Model):
    """A functional model that can be trained by several workers. It must be compiled, and its optimizer be built."""

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras makes a tensor of a batch that lies on several devices, and fails. Here all is built already.
        pass

    def train_step(self, data):
        return _as_vectors(super().train_step(data))

    def test_step(self, data):
        return _as_vectors(super().test_step(data))


def _as_vectors(logs):
    # Keras averages what the workers return along its first axis, and numbers have none.
    return {name: keras.ops.reshape(value, (1,)) for name, value in logs.items()}
