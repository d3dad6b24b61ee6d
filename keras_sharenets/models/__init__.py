"""Networks: one factory a family, and every network of the papers by name."""

from keras_sharenets.models.hgcnet import HGCNet
from keras_sharenets.models.hscnet import HSCNet
from keras_sharenets.models.igcnet import IGCNet
from keras_sharenets.models.igcv3 import IGCV3
from keras_sharenets.models.imagenet_resnet import ResNet
from keras_sharenets.models.mobilenet_v2 import MobileNetV2
from keras_sharenets.models.plain_igcnet import PlainIGCNet
from keras_sharenets.models.preact_resnet import PreActResNet
from keras_sharenets.models.registry import create_model, find_family, find_variant, list_models
from keras_sharenets.models.shardnet_cifar_resnet import ShardResNet
from keras_sharenets.models.shardnet_deep_resnet import ShardDeepResNet
from keras_sharenets.models.shardnet_vgg import ShardVGGNet
from keras_sharenets.models.shufflenet_v2 import ShuffleNetV2
from keras_sharenets.models.wide_resnet import WideResNet

__all__ = [
    "IGCV3",
    "HGCNet",
    "HSCNet",
    "IGCNet",
    "MobileNetV2",
    "PlainIGCNet",
    "PreActResNet",
    "ResNet",
    "ShardDeepResNet",
    "ShardResNet",
    "ShardVGGNet",
    "ShuffleNetV2",
    "WideResNet",
    "create_model",
    "find_family",
    "find_variant",
    "list_models",
]
