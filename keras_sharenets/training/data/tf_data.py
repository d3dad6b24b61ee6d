"""Batches as a `tf.data.Dataset`, for whoever takes no other: some strategies of `tf.distribute`."""


def as_tf_data(batches):
    """The batches of `Batches`, in order, as a `tf.data.Dataset` of `(pictures, one-hot labels)`.

    Each time it is gone through, it gives those of the epoch that `batches` has come to: `model.fit` still needs
    `batches.callback()`. Shapes are fixed, but for a test split whose last batch is smaller.

    Args:
        batches: `Batches`, or `EvenBatches` with weights as well.
    """
    import tensorflow as tf

    def generate():
        for index in range(len(batches)):
            yield batches[index]

    arrays = batches.batch(0, 0)
    size = len(arrays[0]) if len(arrays[0]) == len(batches.batch(0, batches.steps - 1)[0]) else None
    signature = tuple(tf.TensorSpec((size, *array.shape[1:]), tf.float32) for array in arrays)
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
