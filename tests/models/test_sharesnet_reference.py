"""ShaResNet's networks against the specification's figures, computed in NumPy."""

import keras
import numpy as np
import pytest
from harness import assert_close, outputs_of, pseudo_random
from sharesnet_networks import BOTTLENECKS, LARGE, WIDE

from keras_sharenets.models import PreActResNet, ResNet, WideResNet


def windows(images, size, strides, border):
    """All square windows, with `size // 2` pixels of `border` on each side: `(batch, h, w, channels, row, column)`."""
    around = size // 2
    images = np.pad(images, ((0, 0), (around, around), (around, around), (0, 0)), constant_values=border)
    return np.lib.stride_tricks.sliding_window_view(images, (size, size), (1, 2))[:, ::strides, ::strides]


def conv(images, kernel, strides=1):
    return np.einsum("bhwcij,ijcf->bhwf", windows(images, len(kernel), strides, 0), kernel)


class Reference:
    """The networks of the specification (section 2) in NumPy, computed from the stored tensors.

    `sharing` has `(stage, block)` for all blocks that use the shared convolution of their stage.
    """

    def __init__(self, model, sharing):
        self.weights = {layer.name: [np.asarray(w, "float64") for w in layer.get_weights()] for layer in model.layers}
        self.sharing = sharing

    def conv(self, x, name, strides=1):
        return conv(x, self.weights[name][0], strides)

    def norm(self, x, name):
        scale, offset, mean, variance = self.weights[f"{name}_norm"]
        return (x - mean) / np.sqrt(variance + 1e-5) * scale + offset

    def norm_relu(self, x, name):
        return np.maximum(self.norm(x, name), 0)

    def preactivated_bottleneck(self, x, name, spatial, strides, first):
        a = self.norm_relu(x, f"{name}_input")
        y = self.norm_relu(self.conv(a, f"{name}_reduce", strides), f"{name}_reduced")
        y = self.norm_relu(self.conv(y, spatial), f"{name}_convolved")
        return self.conv(y, f"{name}_expand") + (self.conv(a, f"{name}_projection", strides) if first else x)

    def bottleneck(self, x, name, spatial, strides, first, stride_on):
        y = self.conv(x, f"{name}_reduce", strides if stride_on == "reduce" else 1)
        y = self.norm_relu(y, f"{name}_reduced")
        y = self.conv(y, spatial, strides if stride_on == "spatial" else 1)
        y = self.conv(self.norm_relu(y, f"{name}_convolved"), f"{name}_expand")
        if first:
            x = self.norm(self.conv(x, f"{name}_projection", strides), f"{name}_projection")
        return np.maximum(self.norm(y, f"{name}_expanded") + x, 0)

    def preactivated_basic(self, x, name, spatial, strides, first):
        a = self.norm_relu(x, f"{name}_input")
        y = self.norm_relu(self.conv(a, f"{name}_first", strides), f"{name}_middle")
        return self.conv(y, spatial) + (self.conv(a, f"{name}_projection", strides) if first else x)

    def basic(self, x, name, spatial, strides, first):
        y = self.norm_relu(self.conv(x, f"{name}_first", strides), f"{name}_middle")
        y = self.norm(self.conv(y, spatial), f"{name}_convolved")
        if strides == 2:
            x = self.norm(self.conv(x, f"{name}_projection", strides), f"{name}_projection")
        return np.maximum(y + x, 0)

    def stages(self, x, block, counts, **more):
        for stage, count in enumerate(counts, start=1):
            for index in range(1, count + 1):
                name, first = f"stage{stage}_block{index}", index == 1
                spatial = f"stage{stage}_shared" if (stage, index) in self.sharing else f"{name}_spatial"
                x = block(x, name, spatial, 2 if stage > 1 and first else 1, first, **more)
        return x

    def logits(self, x):
        kernel, bias = self.weights["predictions"]
        return x.mean((1, 2)) @ kernel + bias

    def preact_resnet(self, images):
        x = self.stages(self.conv(images, "stem"), self.preactivated_bottleneck, (3, 3, 3))
        return self.logits(self.norm_relu(x, "head"))

    def postact_resnet(self, images):
        x = self.norm_relu(self.conv(images, "stem"), "stem")
        return self.logits(self.stages(x, self.bottleneck, (2, 2, 2), stride_on="reduce"))

    def wide_resnet(self, images):
        x = self.stages(self.conv(images, "stem"), self.preactivated_basic, (3, 3, 3))
        return self.logits(self.norm_relu(x, "head"))

    def imagenet_stem(self, images):
        x = self.norm_relu(self.conv(images, "stem", 2), "stem")
        return windows(x, 3, 2, -np.inf).max((-2, -1))

    def imagenet_basic(self, images):
        return self.logits(self.stages(self.imagenet_stem(images), self.basic, (2, 2)))

    def imagenet_bottlenecks(self, images):
        x = self.stages(self.imagenet_stem(images), self.bottleneck, (2, 3), stride_on="spatial")
        return self.logits(x)


def blocks(stages, indices):
    return {(stage, index) for stage in stages for index in indices}


@pytest.mark.parametrize(
    ("factory", "arguments", "sharing", "reference"),
    [
        (
            PreActResNet,
            {**BOTTLENECKS, "depth": 29, "share": "rest"},
            blocks((1, 2, 3), (2, 3)),
            Reference.preact_resnet,
        ),
        (
            PreActResNet,
            {**BOTTLENECKS, "share": "stride1", "order": "conv_norm"},
            blocks((1, 2, 3), (2,)) | {(1, 1)},
            Reference.postact_resnet,
        ),
        (
            WideResNet,
            {**WIDE, "depth": 22, "width_multiplier": 2, "share": "rest", "dropout_rate": 0.3},
            blocks((1, 2, 3), (2, 3)),
            Reference.wide_resnet,
        ),
        (ResNet, {**LARGE, "depth": 34, "share": "all"}, blocks((1, 2), (1, 2)), Reference.imagenet_basic),
        (
            ResNet,
            {**LARGE, "depth": 50, "share": "stride1", "blocks_per_stage": (2, 3)},
            {(1, 1), (1, 2), (2, 2), (2, 3)},
            Reference.imagenet_bottlenecks,
        ),
    ],
    ids=["preact", "postact", "wide", "basic", "bottleneck"],
)
def test_equals_the_network_computed_in_numpy(factory, arguments, sharing, reference):
    keras.utils.set_random_seed(3)
    model = factory(**arguments, classifier_activation=None)
    for index, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.BatchNormalization):
            numbers = np.random.default_rng(index).uniform(0.5, 1.5, (4, layer.gamma.shape[0]))
            layer.set_weights([numbers[0], numbers[1] - 1, numbers[2] - 1, numbers[3]])
    images = pseudo_random((2, *arguments["input_shape"]))
    expected = reference(Reference(model, sharing), images)
    assert_close(outputs_of(model, images), expected, 1e-4)


def test_shared_convolution_answers_alike_in_all_places_and_each_place_has_its_own_statistics():
    keras.utils.set_random_seed(1)
    model = PreActResNet(**{**BOTTLENECKS, "depth": 29, "share": "all"})
    places = [f"stage2_block{index}" for index in (1, 2, 3)]
    planes = pseudo_random((2, 4, 4, 8))
    expected = conv(planes, np.asarray(model.get_layer("stage2_shared").kernel))
    for place in places:
        before = model.get_layer(f"{place}_reduced_relu").output
        after = model.get_layer(f"{place}_convolved_norm").input
        assert_close(outputs_of(keras.Model(before, after), planes), expected, 1e-5)
    model(pseudo_random((4, 8, 8, 3)), training=True)
    means = [np.asarray(model.get_layer(f"{place}_convolved_norm").moving_mean) for place in places]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert np.all(means[one] != means[other])
