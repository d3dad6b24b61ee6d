"""Whether an exported file computes what its Keras model computes."""

import dataclasses

import numpy as np

BATCH = 32


class ExportMismatchError(RuntimeError):
    """An exported file does not compute what its Keras model computes. No file is left."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far two runs of a classifier on the same pictures agree.

    Attributes:
        largest_difference: float, the largest difference between two outputs.
        score_error: float, the length of the difference of all scores divided by the length of the reference's scores.
            The scores are the numbers before a final softmax or sigmoid, else the outputs.
        top1_agreement: float, share of the pictures for which the same class comes first.
    """

    largest_difference: float
    score_error: float
    top1_agreement: float


def run_keras(model, pictures):
    """Outputs of a Keras model on an array of pictures, in inference mode."""
    batches = range(0, len(pictures), BATCH)
    outputs = [model(pictures[start : start + BATCH].astype(np.float32), training=False) for start in batches]
    return np.concatenate([np.asarray(output) for output in outputs])


def compare(outputs, scores, reference_outputs, reference_scores):
    """The `Agreement` of two runs; all arguments are arrays `(n, classes)`."""
    difference = np.linalg.norm(scores - reference_scores)
    return Agreement(
        largest_difference=float(np.abs(outputs - reference_outputs).max()),
        score_error=float(difference / max(np.linalg.norm(reference_scores), np.finfo(np.float32).tiny)),
        top1_agreement=float((outputs.argmax(-1) == reference_outputs.argmax(-1)).mean()),
    )
