"""What `model.fit` is watched and steered by."""

import keras

from keras_sharenets import _checks
from keras_sharenets.training.run.optimizers import plateau_rate

EXTRAS = ("graph", "histograms")


def check_tensorboard(extras):
    """Raises a `ValueError` unless TensorBoard can be given all this on the backend."""
    for extra in extras or ():
        _checks.one_of("tensorboard", extra, EXTRAS)
    if "graph" in (extras or ()) and keras.backend.backend() != "tensorflow":
        raise ValueError("`tensorboard` (='graph') needs KERAS_BACKEND=tensorflow: other backends have no such graph.")


def make_callbacks(model, batches, recorder):
    """The callbacks of a run, in the order in which they must be called.

    Args:
        model: the model that is trained, compiled.
        batches: `Batches` of the training split.
        recorder: `Recorder`; knows the run, its recipe and its folder.
    """
    callbacks = [batches.callback(), recorder]
    if recorder.run.recipe.schedule == "plateau":
        callbacks.insert(0, _follow_plateaus(model, recorder))
    extras = recorder.run.tensorboard
    if extras is not None:
        callbacks.append(
            keras.callbacks.TensorBoard(
                recorder.folder / "logs", write_graph="graph" in extras, histogram_freq=int("histograms" in extras)
            )
        )
    return callbacks


def _follow_plateaus(model, recorder):
    """Sets the rate of an epoch; from the record alone, so that a run that is resumed has the same rates."""

    def begin(epoch, logs=None):
        model.optimizer.learning_rate = plateau_rate(recorder.run.recipe, recorder.run.epochs)

    return keras.callbacks.LambdaCallback(on_epoch_begin=begin)
