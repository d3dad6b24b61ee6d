"""Batches as a `tf.data.Dataset`, for whoever takes no other: some strategies of `tf.distribute`."""


def as_tf_data(batches):
    """The batches of `Batches`, in order, as a `tf.data.Dataset` of `(pictures, one-hot labels)`.

    Each time it is gone through, it gives those of the epoch that `batches` has come to: `model.fit` still needs
    `batches.callback()`. Training batches have a fixed shape; the last one of a test split may be smaller.

    Args:
        batches: `Batches`.
    """
    import tensorflow as tf

    def generate():
        for index in range(len(batches)):
            yield batches[index]

    pictures, labels = batches.batch(0, 0)
    size = None if batches.augmentation is None else len(pictures)
    signature = tuple(tf.TensorSpec((size, *array.shape[1:]), tf.float32) for array in (pictures, labels))
    dataset = tf.data.Dataset.from_generator(generate, output_signature=signature)
    return dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
