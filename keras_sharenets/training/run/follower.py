"""The other workers of a run, whose files worker 0 writes."""

import dataclasses

from keras_sharenets.training.run.checkpoints import FOLDER, checkpoint_path, read_variables
from keras_sharenets.training.run.recorder import Recorder


class Follower(Recorder):
    """A `Recorder` that knows all that worker 0 knows, and writes nothing."""

    def __init__(self, network, folder, run, steps, trained=None):
        super().__init__(network, folder, dataclasses.replace(run, tensorboard=None), steps, trained)

    def close(self, state, reason=None):
        self.run = dataclasses.replace(self.run, state=state, reason=reason)

    def _save_checkpoint(self):
        read_variables(self.model)  # Some are sums over all workers.
        self._checkpoint = checkpoint_path(self.folder / FOLDER, len(self.run.epochs) * self.steps + self._step)

    def _publish(self):
        pass

    def _write(self):
        self._count_seconds()
