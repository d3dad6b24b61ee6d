"""Networks by name. Names, families and published counts are available without Keras; only a factory imports it."""

from __future__ import annotations

import difflib
import fnmatch
import heapq
import inspect
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_sharenets import _checks
from keras_sharenets.models import baselines, hgcnet, hscnet, igcnet, shardnet, sharesnet
from keras_sharenets.models import weights as trained
from keras_sharenets.models.variant import Family, Variant

if TYPE_CHECKING:
    import keras

FAMILIES = {
    "hscnet": Family(
        "Highly shared Convolutional Neural Networks (Lu et al., Expert Systems with Applications 2021)",
        hscnet.VARIANTS,
        ("hscnet_m32_g4_r2_b1_a2", {}),
        {"unshared baseline": "its paper has no network with the same layers without sharing"},
    ),
    "hgcnet": Family(
        "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network (Xie et al., arXiv 1906.03657)",
        hgcnet.VARIANTS,
        ("se_hgcnet_42_g4", {"blocks_per_stage": (2, 1, 1)}),
        {"unshared baseline": "its kernels are sparse, and none is used twice"},
    ),
    "igcnet": Family(
        "Interleaved Structured Sparse Convolutional Neural Networks (Xie et al., CVPR 2018)",
        igcnet.VARIANTS,
        ("igcv2_c64_d8", {}),
        {"unshared baseline": "its kernels are sparse, and none is used twice"},
    ),
    "sharesnet": Family(
        "ShaResNet: reducing residual network parameter number by sharing weights (Boulch, PRL 2018)",
        sharesnet.VARIANTS,
        ("sharesnet_164", {"depth": 29}),
    ),
    "shardnet": Family(
        "ShardNet: One filter set to rule them all (Jetley et al., submission to ICLR 2020)",
        shardnet.VARIANTS,
        ("sl3_resnet_64", {"width": 24}),
    ),
    "mobile_baselines": Family(
        "Peers to compare with",
        baselines.VARIANTS,
        ("shufflenet_v2_2_0", {"width": (24, 48, 96, 192, 256), "blocks_per_stage": 2}),
        {"search space": "baselines are trained unchanged", "unshared baseline": "they share nothing"},
    ),
}
VARIANTS = {name: variant for family in FAMILIES.values() for name, variant in family.variants.items()}
# Former argument names, still present in the records of finished runs and searches.
RENAMED = {
    "blocks": "blocks_per_stage",
    "blocks_per_level": "blocks_per_stage",
    "modules_per_stage": "blocks_per_stage",
    "dropout": "dropout_rate",
    "filters": "width",
    "widening": "width_multiplier",
}


def list_models(pattern: str = "*") -> list[str]:
    """Lists the names of all networks, or of those that match a pattern.

    Args:
        pattern: shell pattern, with `*` for any characters.

    Returns:
        A sorted list of names for `create_model`.

    >>> list_models("hscnet_m128*_r8_a2")
    ['hscnet_m128_g16_r8_a2']
    """
    return sorted(fnmatch.filter(VARIANTS, pattern))


def find_variant(name: str) -> Variant:
    """The `Variant` of that name; raises a `ValueError` that suggests similar names if there is none."""
    if not isinstance(name, str) or name not in VARIANTS:
        # Compares with the beginnings of the names, too, so that an incomplete name finds its completions.
        likeness = {known: max(_ratio(name, known), _ratio(name, known[: len(str(name))])) for known in list_models()}
        near = [known for known in heapq.nlargest(3, likeness, likeness.__getitem__) if likeness[known] >= 0.4]
        hint = f"Did you mean {', '.join(map(repr, near))}?" if near else "`list_models()` lists all."
        raise ValueError(f"`name` (={name!r}) is not a known model. {hint}")
    return VARIANTS[name]


def _ratio(name: object, known: str) -> float:
    return difflib.SequenceMatcher(None, str(name), known).ratio()


def find_family(name: str) -> str:
    """The key in `FAMILIES` of a named network; raises a `ValueError` that suggests similar names if there is none.

    >>> find_family("hscnet_m128_g16_r8_a2")
    'hscnet'
    """
    find_variant(name)
    return next(key for key, family in FAMILIES.items() if name in family.variants)


def own_arguments(name: str) -> tuple[str, ...]:
    """The arguments of the factory of a named network, without those of [`CommonArguments`].

    >>> own_arguments("mobilenet_v2_1_0")
    ('width_multiplier', 'blocks_per_stage', 'strides', 'last_filters')
    """
    parameters = inspect.signature(find_variant(name).factory).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)


def current_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a factory under their current names: records of older runs use some former names.

    Raises:
        ValueError: an argument is given under both its names.

    >>> current_arguments({"modules_per_stage": 2, "groups": 4})
    {'blocks_per_stage': 2, 'groups': 4}
    """
    current = {RENAMED.get(name, name): value for name, value in arguments.items()}
    if len(current) < len(arguments):
        raise ValueError(f"The arguments {', '.join(f'`{name}`' for name in arguments)} include one under two names.")
    return current


def create_model(name: str, /, *, weights: str | os.PathLike | None = None, **overrides: Any) -> keras.Model:
    """Builds a network by name, optionally with pretrained weights.

    Args:
        name: one of `list_models()`.
        weights: `None` for an untrained network; `"cifar10"` for weights included in the package, which
            `keras_sharenets.models.list_trained()` lists; or the path of a `.keras` file of the same network, such as a
            training run writes. The number of classes, the activation of the classifier, and the image shape default to
            those of the weights. With a different `num_classes`, the classifier is newly initialized, and ends in a
            softmax by default. Some networks have larger strides for larger images, with a warning if the weights have
            others. The network preprocesses pixels as the weights
            require; with `include_preprocessing=False`, the caller does.
        **overrides: arguments of the network's factory, or those common to all factories
            (`keras_sharenets.models.CommonArguments`), such as `num_classes`, `input_shape` or
            `include_preprocessing`.

    Returns:
        A functional `keras.Model`. It takes pixels from 0 to 255 unless `include_preprocessing=False`. It computes in
        the global dtype policy: call `keras.config.set_dtype_policy("mixed_bfloat16")` first for half precision.

    Raises:
        ValueError: the name is unknown (the message suggests similar names); an argument violates a rule of the
            factory; there are no such weights for this network and these arguments; or the file of the weights is
            damaged or belongs to another network.
        TypeError: the factory has no such argument.

    >>> model = create_model("hscnet_m32_g4_r2_b1_a2", num_classes=100)
    >>> model.name, model.output_shape
    ('hscnet_m32_g4_r2_b1_a2', (None, 100))
    >>> create_model("sl3_resnet_64", width=40, weights="cifar10").output_shape
    (None, 10)
    """
    from keras_sharenets.models.base import CommonArguments

    variant = find_variant(name)
    overrides = current_arguments(overrides)
    own = own_arguments(name)
    known = (*own, *CommonArguments.__annotations__)
    for argument in overrides:
        if argument not in known:
            question = _checks.suggestion(argument, (*known, "weights"))
            raise TypeError(f"'{name}' has no argument `{argument}`. {question}")
    if weights is not None:
        options = {argument: value for argument, value in overrides.items() if argument in own}
        path = trained.find_weights(weights, name, variant, options)
        return trained.build_trained(variant, path, {"name": name, **overrides})
    first = variant.configurations[0]
    given = {"name": name, "num_classes": first.num_classes, "input_shape": first.input_shape}
    return variant.factory(**{**given, **variant.arguments, **overrides})
