import pytest


@pytest.fixture
def eager():
    """Few steps of training, without the time to trace them."""
    yield from run_eagerly()


@pytest.fixture(scope="module")
def eager_module():
    """The same for a whole module."""
    yield from run_eagerly()


def run_eagerly():
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
