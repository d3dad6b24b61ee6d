"""Networks by name."""

import difflib
import fnmatch

from keras_sharenets.models.baselines import variants as mobile_baselines
from keras_sharenets.models.hgcnet import hgcnet
from keras_sharenets.models.hscnet import hscnet
from keras_sharenets.models.igcnet import igcnet
from keras_sharenets.models.shardnet import shardnet
from keras_sharenets.models.sharesnet import sharesnet

FAMILIES = {
    "hscnet": hscnet.VARIANTS,
    "hgcnet": hgcnet.VARIANTS,
    "igcnet": igcnet.VARIANTS,
    "sharesnet": sharesnet.VARIANTS,
    "shardnet": shardnet.VARIANTS,
    "mobile_baselines": mobile_baselines.VARIANTS,
}
PAPERS = {
    "hscnet": "Highly shared Convolutional Neural Networks (Lu et al., Expert Systems with Applications 2021)",
    "hgcnet": "HGC: Hierarchical Group Convolution for Highly Efficient Neural Network (Xie et al., arXiv 1906.03657)",
    "igcnet": "Interleaved Structured Sparse Convolutional Neural Networks (Xie et al., CVPR 2018)",
    "sharesnet": "ShaResNet: reducing residual network parameter number by sharing weights (Boulch, PRL 2018)",
    "shardnet": "ShardNet: One filter set to rule them all (Jetley et al., submission to ICLR 2020)",
    "mobile_baselines": "Peers that the papers compare with",
}
VARIANTS = {name: variant for variants in FAMILIES.values() for name, variant in variants.items()}


def list_models(pattern="*"):
    """The names of all networks that match a shell pattern, sorted.

    >>> list_models("hscnet_m128*_r8_a2")
    ['hscnet_m128_g16_r8_a2']
    """
    return sorted(fnmatch.filter(VARIANTS, pattern))


def find_variant(name):
    """The `Variant` of that name; a `ValueError` with the nearest names if there is none."""
    if name not in VARIANTS:
        longer = list_models(f"{name}*")[:3]
        near = longer or difflib.get_close_matches(str(name), VARIANTS, n=3, cutoff=0.4)
        hint = f"Did you mean {', '.join(map(repr, near))}?" if near else "`list_models()` lists all."
        raise ValueError(f"`name` (={name!r}) is not a known model. {hint}")
    return VARIANTS[name]


def find_family(name):
    """The key in `FAMILIES` of a named network; a `ValueError` with the nearest names if there is none.

    >>> find_family("hscnet_m128_g16_r8_a2")
    'hscnet'
    """
    find_variant(name)
    return next(family for family, variants in FAMILIES.items() if name in variants)


def create_model(name, /, **overrides):
    """Builds a named network.

    Args:
        name: str, one of `list_models()`.
        **overrides: any argument of the family's factory, for example `num_classes`, `input_shape`, `include_top`.

    Returns:
        A functional `keras.Model` with fresh weights.

    Raises:
        ValueError: the name is unknown (the nearest ones are offered), or an argument breaks a rule of the factory.
        TypeError: the factory has no such argument.

    >>> model = create_model("hscnet_m32_g4_r2_b1_a2", num_classes=100)
    >>> model.name, model.output_shape
    ('hscnet_m32_g4_r2_b1_a2', (None, 100))
    """
    variant = find_variant(name)
    form = variant.forms[0]
    given = {"name": name, "num_classes": form.num_classes, "input_shape": form.input_shape}
    return variant.factory(**{**given, **variant.arguments, **overrides})
