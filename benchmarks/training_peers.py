"""What a network is measured beside when it trains: itself made otherwise, an unshared twin, its paper's peers."""

import dataclasses

import keras

import keras_sharenets as ksn
from benchmarks import networks, twins
from keras_sharenets.models import find_variant
from keras_sharenets.models.registry import find_family

# In the named form the last map of a 32x32 picture is 4x4; with later strides it is 8x8, at four times the arithmetic.
LATER_STRIDES = {
    "mobilenet_v2_1_0": (1, 1, 1, 1, 2, 1, 2, 1),
    "igcv3_d_1_0": (1, 1, 1, 1, 2, 1, 2, 1),
    "shufflenet_v2_2_0": (1, 1, 1, 2, 2),
}
MAKES = {
    "": ksn.create_model,
    "8x8": lambda name, **form: ksn.create_model(name, strides=LATER_STRIDES[name], **form),
    "unshared": lambda name, **form: twins.unshared(ksn.create_model(name, **form)),
    "as drawn": lambda name, **form: twins.drawn(ksn.create_model(name, **form)),
}
# What a step of the peer takes to one of HSC-Net-M96, in training on GPUs and in testing on a CPU (HSC-Net, table 2).
PAPER = {"mobilenet_v2_1_0": (1.79, 1.84), "igcv3_d_1_0": (3.24, 3.60), "shufflenet_v2_2_0": (1.57, 1.65)}
PAPER_NETWORK = "hscnet_m96_g8_r4_a2"
# Networks of the same table of a paper that are neither made of the same layers nor of the same size.
NAMED = {
    "hgcnet_42_g2": ("sgcnet_42_g2",),
    "hgcnet_42_g4": ("sgcnet_42_g4",),
    "hgcnet_42_g6": ("sgcnet_42_g6",),
    "igcv2_c64_d8": ("xception_c35_d8", "igcv1_c48_d8"),
    "igcv2_c64_d20": ("xception_c35_d20", "igcv1_c48_d20"),
    "igcv2_c64_d26": ("xception_c35_d26", "igcv1_c48_d26"),
    "igcv2_star_c216_d20": ("xception_c58_d20", "igcv1_c96_d20"),
    "igcv2_star_c304_d20": ("xception_c71_d20", "igcv1_c126_d20"),
    "igcv2_star_c416_d20": ("xception_c83_d20", "igcv1_c150_d20"),
}


@dataclasses.dataclass(frozen=True)
class Contender:
    """Something that is trained.

    Attributes:
        name: str, one of `keras_sharenets.list_models()`.
        make: a key of `MAKES`.
        role: `"network"`, or what it is to that: `"twin"`, `"drawing"` or `"peer"`.
    """

    name: str
    make: str = ""
    role: str = "peer"

    @property
    def label(self):
        """Its name beside the network: the make alone if it is that network."""
        if self.role in ("drawing", "twin") and self.make:
            return self.make
        return f"{self.name}, {self.make}" if self.make else self.name

    def build(self, policy="float32"):
        """A model with fresh weights, of the first form of the named network, under a dtype policy."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(0)
        try:
            return MAKES[self.make](self.name)
        finally:
            keras.config.set_dtype_policy(before)


def beside(name, drawing):
    """A named network and what it is measured beside.

    Args:
        name: str, one of `keras_sharenets.list_models()`.
        drawing: bool, whether an HSC-Net as drawn is among it.

    Returns:
        A tuple of `Contender`, the network first.

    >>> [contender.label for contender in beside("sharesnet_164", drawing=True)]
    ['sharesnet_164', 'resnet_164']
    >>> [contender.label for contender in beside("sl3_resnet_64", drawing=True)]
    ['sl3_resnet_64', 'unshared']
    """
    found = [Contender(name, role="network")]
    if find_family(name) == "hscnet" and drawing:
        found.append(Contender(name, "as drawn", "drawing"))
    if shares_layers(name):
        twin = networks.find_twin(name)
        found.append(Contender(twin, role="twin") if twin else Contender(name, "unshared", "twin"))
    if name == PAPER_NETWORK:
        found += [Contender(peer, make) for peer in PAPER for make in ("", "8x8")]
    return (*found, *(Contender(peer) for peer in NAMED.get(name, ())))


def shares_layers(name):
    """Whether layers of a named network are called in several places.

    >>> shares_layers("sharesnet_164"), shares_layers("resnet_164"), shares_layers("hgcnet_42_g4")
    (True, False, False)
    """
    return find_family(name) == "hscnet" or find_variant(name).arguments.get("share", "none") != "none"
