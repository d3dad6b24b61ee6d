"""Networks: one factory a family, and every network of the papers by name."""

from keras_sharenets.models.hgcnet import HGCNet
from keras_sharenets.models.hscnet import HSCNet
from keras_sharenets.models.imagenet_resnet import ResNet
from keras_sharenets.models.preact_resnet import PreActResNet
from keras_sharenets.models.registry import create_model, find_family, find_variant, list_models
from keras_sharenets.models.shardnet_cifar_resnet import ShardResNet
from keras_sharenets.models.shardnet_deep_resnet import ShardDeepResNet
from keras_sharenets.models.shardnet_vgg import ShardVGGNet
from keras_sharenets.models.wide_resnet import WideResNet

__all__ = [
    "HGCNet",
    "HSCNet",
    "PreActResNet",
    "ResNet",
    "ShardDeepResNet",
    "ShardResNet",
    "ShardVGGNet",
    "WideResNet",
    "create_model",
    "find_family",
    "find_variant",
    "list_models",
]
