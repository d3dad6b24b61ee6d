"""Networks: one factory a family, and every network of the papers by name."""

from keras_sharenets.models.base import CommonArguments
from keras_sharenets.models.baselines import IGCV3, MobileNetV2, ShuffleNetV2
from keras_sharenets.models.hgcnet import HGCNet
from keras_sharenets.models.hscnet import HSCNet
from keras_sharenets.models.igcnet import IGCNet, PlainIGCNet
from keras_sharenets.models.registry import create_model, find_family, find_variant, list_models
from keras_sharenets.models.shardnet import ShardDeepResNet, ShardResNet, ShardVGGNet
from keras_sharenets.models.sharesnet import PreActResNet, ResNet, WideResNet

__all__ = [
    "IGCV3",
    "CommonArguments",
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
