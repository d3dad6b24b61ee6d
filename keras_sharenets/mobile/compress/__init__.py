"""Training with TensorFlow's Model Optimization Toolkit (TFMOT): pruning, clustering, and its rounding of numbers.

TFMOT knows layers of `tf_keras` (Keras 2) alone. What it does to a network is arithmetic on kernels and ranges, though,
and on the TensorFlow backend a variable of Keras 3 is a TensorFlow variable that both can hold. So a kernel is put into
a `tf_keras` layer of its own, which TFMOT wraps, and the wrapper is run once in every training step of Keras 3: once
for all uses of a shared kernel. No network is translated and no weight is copied; layers, optimizers, losses, metrics,
callbacks and data are Keras 3's own.

`tf_keras` and `tensorflow_model_optimization` are loaded by `packages` alone, when something here is first used.
"""
