"""Networks: the factories of each family, every network of the papers by name, and the papers' blocks.

Importing this module does not import Keras; the first access to a factory does.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

from keras_sharenets.models.counts import NetworkCounts, list_counts
from keras_sharenets.models.registry import create_model, find_family, find_variant, list_models
from keras_sharenets.models.weights import TrainedWeights, list_trained

if _TYPE_CHECKING:
    from keras_sharenets.models.base import CommonArguments
    from keras_sharenets.models.baselines.basic_resnets import BasicResNet
    from keras_sharenets.models.baselines.mobile_networks import IGCV3, MobileNetV1, MobileNetV2
    from keras_sharenets.models.baselines.resnet8 import ResNet8
    from keras_sharenets.models.baselines.shufflenets import ShuffleNet, ShuffleNetV2
    from keras_sharenets.models.blocks import HGCModule, HSCModule, IGCBlock, SharedResidualBlock, SLBlock
    from keras_sharenets.models.hgcnet.hgcnet import HGCNet
    from keras_sharenets.models.hscnet.hscnet import HSCNet
    from keras_sharenets.models.igcnet.igcnet import IGCNet, PlainIGCNet
    from keras_sharenets.models.shardnet.resnets import ShardDeepResNet, ShardResNet
    from keras_sharenets.models.shardnet.vgg import ShardVGGNet
    from keras_sharenets.models.sharesnet.resnets import PreActResNet, ResNet, WideResNet

__all__ = [
    "IGCV3",
    "BasicResNet",
    "CommonArguments",
    "HGCModule",
    "HGCNet",
    "HSCModule",
    "HSCNet",
    "IGCBlock",
    "IGCNet",
    "MobileNetV1",
    "MobileNetV2",
    "NetworkCounts",
    "PlainIGCNet",
    "PreActResNet",
    "ResNet",
    "ResNet8",
    "SLBlock",
    "ShardDeepResNet",
    "ShardResNet",
    "ShardVGGNet",
    "SharedResidualBlock",
    "ShuffleNet",
    "ShuffleNetV2",
    "TrainedWeights",
    "WideResNet",
    "create_model",
    "find_family",
    "find_variant",
    "list_counts",
    "list_models",
    "list_trained",
]

_HOMES = {
    "base": ("CommonArguments",),
    "baselines.basic_resnets": ("BasicResNet",),
    "baselines.mobile_networks": ("IGCV3", "MobileNetV1", "MobileNetV2"),
    "baselines.resnet8": ("ResNet8",),
    "baselines.shufflenets": ("ShuffleNet", "ShuffleNetV2"),
    "blocks": ("HGCModule", "HSCModule", "IGCBlock", "SLBlock", "SharedResidualBlock"),
    "hgcnet.hgcnet": ("HGCNet",),
    "hscnet.hscnet": ("HSCNet",),
    "igcnet.igcnet": ("IGCNet", "PlainIGCNet"),
    "shardnet.resnets": ("ShardDeepResNet", "ShardResNet"),
    "shardnet.vgg": ("ShardVGGNet",),
    "sharesnet.resnets": ("PreActResNet", "ResNet", "WideResNet"),
}


def _home_of(name: str) -> str | None:
    """The full name of the module that defines a factory or block; `None` for other names."""
    found = (module for module, names in _HOMES.items() if name in names)
    return next((f"{__name__}.{module}" for module in found), None)


def __getattr__(name: str) -> object:
    module = _home_of(name)
    if module is not None:
        return getattr(_importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
