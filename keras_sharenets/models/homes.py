"""The module of each factory and block, available without importing it, and thus without Keras."""

from __future__ import annotations

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


def home_of(name: str) -> str | None:
    """The full name of the module that defines a factory or block of `keras_sharenets.models`; `None` for other names.

    >>> home_of("HSCNet"), home_of("create_model")
    ('keras_sharenets.models.hscnet.hscnet', None)
    """
    found = (module for module, names in _HOMES.items() if name in names)
    return next((f"{__package__}.{module}" for module in found), None)
