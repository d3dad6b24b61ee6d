"""How networks are trained: the figures of the papers, and what builds an optimizer from them."""

import dataclasses
import difflib

import keras
from keras import ops

from keras_sharenets import _checks
from keras_sharenets.models import find_family


def _field(help_text, **more):
    return dataclasses.field(metadata={"help": help_text}, **more)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a training run needs to know beside the network and the data.

    Each field is described by its metadata; the command line makes its options from it.

    Raises:
        ValueError: a field breaks its rule; the message names it, its value and the rule.
    """

    epochs: int = _field("passes over the training split")
    learning_rate: float = _field("learning rate of SGD at the start, or after the warm-up")
    weight_decay: float = _field("d: every trained weight w adds d * w to its gradient")
    schedule: str = _field(
        "'step': the rate falls at the milestones; 'cosine': to 0 along half a cosine", default="step"
    )
    milestones: tuple[float, ...] = _field("where the rate falls, as fractions of all epochs", default=())
    decay_factor: float = _field("what the rate is multiplied by at each milestone", default=0.1)
    warmup_epochs: int = _field("epochs over which the rate rises linearly from 0 first", default=0)
    batch_size: int = _field("pictures a step", default=128)
    momentum: float = _field("momentum of SGD", default=0.9)
    nesterov: bool = _field("Nesterov's momentum", default=True)
    label_smoothing: float = _field("part of each label that is spread over all classes", default=0.0)
    pad: int = _field("pixels of padding on each side before a random crop of the old size", default=4)
    flip: bool = _field("mirror pictures left to right at random", default=True)

    def __post_init__(self):
        for name in ("epochs", "batch_size"):
            _checks.positive(name, getattr(self, name))
        _checks.above_zero("learning_rate", self.learning_rate)
        _checks.one_of("schedule", self.schedule, ("step", "cosine"))
        for name in ("momentum", "label_smoothing", "weight_decay"):
            _checks.rate(name, getattr(self, name))
        for name, limit in (("warmup_epochs", self.epochs), ("pad", None)):
            _at_least_zero(name, getattr(self, name), limit)
        if not 0 < self.decay_factor <= 1:
            raise ValueError(f"`decay_factor` (={self.decay_factor!r}) must be above 0 and at most 1.")
        milestones = tuple(self.milestones)
        if list(milestones) != sorted(set(milestones)) or any(not 0 < fraction < 1 for fraction in milestones):
            raise ValueError(
                f"`milestones` (={milestones}) must rise and lie between 0 and 1, fractions of all epochs."
            )
        object.__setattr__(self, "milestones", milestones)


def _at_least_zero(name, value, limit):
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (limit is not None and value >= limit):
        below = f" and below `epochs` (={limit})" if limit is not None else ""
        raise ValueError(f"`{name}` (={value!r}) must be a whole number of at least 0{below}.")


_HSCNET_CIFAR = Recipe(200, 0.1, 2e-4, milestones=(0.3, 0.6, 0.8), decay_factor=0.2)
_HSCNET_CINIC = Recipe(200, 0.1, 1e-4, milestones=(0.5, 0.75, 0.875), decay_factor=0.1)

# HGCNet: section 5; its momentum is not readable in our copy, 0.9 is that of the papers that it follows.
_HGCNET = Recipe(300, 0.1, 1e-4, schedule="cosine")
# IGC-V2: section 4.1.
_IGCNET = Recipe(400, 0.1, 1e-4, milestones=(0.5, 0.75, 0.875), batch_size=64)
# ShaResNet: the trainer that the paper names. The paper's whitening is not here, and its padding repeats the border.
_SHARESNET = Recipe(200, 0.1, 5e-4, milestones=(0.3, 0.6, 0.8), decay_factor=0.2)

# By family and data set; "*" stands for every family, or every other data set.
# HSC-Net: section 4 of the paper. For augmentation it refers to "common practices"; 4 pixels and flips are ours.
RECIPES = {
    ("hscnet", "cifar10"): _HSCNET_CIFAR,
    ("hscnet", "cifar100"): dataclasses.replace(_HSCNET_CIFAR, weight_decay=5e-4),
    ("hscnet", "imagenet32"): Recipe(40, 0.01, 5e-4, milestones=(0.25, 0.5, 0.75), decay_factor=0.2),
    ("hscnet", "cinic10"): _HSCNET_CINIC,
    ("hscnet", "tiny_imagenet"): _HSCNET_CINIC,
    ("hgcnet", "cifar10"): _HGCNET,
    ("hgcnet", "cifar100"): _HGCNET,
    ("igcnet", "cifar10"): _IGCNET,
    ("igcnet", "cifar100"): _IGCNET,
    ("sharesnet", "cifar10"): _SHARESNET,
    ("sharesnet", "cifar100"): _SHARESNET,
    # Ours. A mirrored digit is no digit, and one pixel of eight is a large shift.
    ("*", "digits"): Recipe(40, 0.1, 5e-4, schedule="cosine", batch_size=64, pad=1, flip=False),
    ("*", "*"): Recipe(100, 0.1, 5e-4, schedule="cosine"),
}


def recipe_for(model_name, data_name):
    """The recipe of a named network on a data set: its paper's where there is one, else ours.

    A folder of pictures is called by its own name, so that one called `cinic10` gets the recipe for CINIC-10.

    Raises:
        ValueError: there is no such network; the nearest names are offered.

    >>> recipe_for("hscnet_m128_g16_r8_a2", "cifar100").weight_decay
    0.0005
    """
    family = find_family(model_name)
    keys = [(family, data_name), ("*", data_name), ("*", "*")]
    return next(RECIPES[key] for key in keys if key in RECIPES)


def override(recipe, **changes):
    """The recipe with some fields changed.

    Raises:
        ValueError: there is no such field (the nearest is offered), or a value breaks its rule.

    >>> override(recipe_for("hscnet_m128_g16_r8_a2", "cifar10"), epochs=10).milestones
    (0.3, 0.6, 0.8)
    """
    known = [field.name for field in dataclasses.fields(Recipe)]
    for name in changes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or known
            raise ValueError(f"`{name}` is not part of a recipe. Did you mean {' or '.join(map(repr, near))}?")
    return dataclasses.replace(recipe, **changes)


@keras.saving.register_keras_serializable("keras_sharenets")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly to `peak` within `steps` steps, then follows the schedule `after` from its beginning."""

    def __init__(self, peak, steps, after):
        super().__init__()
        self.peak = peak
        self.steps = steps
        self.after = after

    def __call__(self, step):
        step = ops.cast(step, "float32")
        return ops.where(step < self.steps, self.peak * (step + 1) / self.steps, self.after(step - self.steps))

    def get_config(self):
        after = keras.saving.serialize_keras_object(self.after)
        return {"peak": self.peak, "steps": self.steps, "after": after}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "after": keras.saving.deserialize_keras_object(config["after"])})


def build_schedule(recipe, steps_per_epoch):
    """The learning rate as a function of the step, counted from 0: a Keras `LearningRateSchedule`.

    Milestones are fractions of all epochs, so a shortened run keeps the shape of the long one.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    total = recipe.epochs * steps_per_epoch
    if recipe.schedule == "cosine":
        schedule = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, total - warmup)
    else:
        # Keras gives the old rate up to and including the boundary, and wants at least one: here behind the last step.
        boundaries = [round(fraction * total) - warmup - 1 for fraction in recipe.milestones] or [total]
        rates = [recipe.learning_rate * recipe.decay_factor**drops for drops in range(len(boundaries) + 1)]
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    return WarmUp(recipe.learning_rate, warmup, schedule) if warmup else schedule


def build_optimizer(recipe, steps_per_epoch):
    """SGD with the recipe's momentum and schedule. Weight decay is not its business: `decay_weights`."""
    schedule = build_schedule(recipe, steps_per_epoch)
    return keras.optimizers.SGD(schedule, momentum=recipe.momentum, nesterov=recipe.nesterov)


def decay_weights(model, rate):
    """Gives every trainable variable the penalty `rate / 2 * sum(w ** 2)`, whose gradient is `rate * w`.

    This is the classic coupled weight decay: the penalty's gradient goes through the momentum and is scaled by the
    learning rate, as in the papers' frameworks, and unlike the decoupled `weight_decay` of Keras optimizers. It counts
    each stored tensor once, however often its layer is called. It covers the scales and biases of batch normalisation
    too, as those frameworks did. The penalties are part of the loss that `model.fit` reports; files do not keep them.
    """
    for variable in model.trainable_variables:
        variable.regularizer = keras.regularizers.L2(rate / 2) if rate else None
