"""Networks: one factory a family, and every network of the papers by name."""

from keras_sharenets.models.baselines.igcv3 import IGCV3
from keras_sharenets.models.baselines.mobilenet_v2 import MobileNetV2
from keras_sharenets.models.baselines.shufflenet_v2 import ShuffleNetV2
from keras_sharenets.models.hgcnet.hgcnet import HGCNet
from keras_sharenets.models.hscnet.hscnet import HSCNet
from keras_sharenets.models.igcnet.igcnet import IGCNet
from keras_sharenets.models.igcnet.plain_igcnet import PlainIGCNet
from keras_sharenets.models.registry import create_model, find_family, find_variant, list_models
from keras_sharenets.models.shardnet.cifar_resnet import ShardResNet
from keras_sharenets.models.shardnet.deep_resnet import ShardDeepResNet
from keras_sharenets.models.shardnet.vgg import ShardVGGNet
from keras_sharenets.models.sharesnet.imagenet_resnet import ResNet
from keras_sharenets.models.sharesnet.preact_resnet import PreActResNet
from keras_sharenets.models.sharesnet.wide_resnet import WideResNet

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
