"""The settings of a training run apart from the network and the data, as one record."""

from __future__ import annotations

import dataclasses

from keras_sharenets import _checks
from keras_sharenets.files import as_tuples

SCHEDULES = ("step", "cosine", "one_cycle", "plateau")
SPLITS = ("train", "test")
CROPS = ("shift", "area", "scale")
BORDERS = ("mean", "edge", "reflect")
NORMALIZATIONS = ("channels", "zca")
INITIALIZATIONS = ("network", "he_fan_in", "he_fan_out")
# Batch augmentations by random layers of Keras, in this order.
BATCH_CHANGES = ("rand_augment", "random_erasing", "mixup", "cutmix")


def _field(help_text: str, **more):
    return dataclasses.field(metadata={"help": help_text}, **more)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a training run apart from the network and the data.

    The metadata of a field describes it; the command line builds its options from these descriptions.

    Attributes:
        name: the name in `recipes`. A recipe with changed fields keeps it: `changed_fields` lists them.
        source: where the values come from, and which of them are ours.

    Raises:
        ValueError: a field breaks its rule; the message names it, its value and the rule.
    """

    epochs: int = _field("passes over the training split")
    learning_rate: float = _field("initial learning rate, after any warm-up; peak rate for one_cycle")
    weight_decay: float = _field(
        "decay d: adds d * w to the gradient of every trainable weight w, once per stored tensor"
    )
    schedule: str = _field(
        "'step': multiply by decay_factor at the milestones; 'cosine': cosine decay to 0; 'one_cycle': linear warm-up, "
        "then cosine decay; 'plateau': multiply by decay_factor when the error stops improving",
        default="step",
    )
    milestones: tuple[float, ...] = _field("epochs at which the rate drops, as fractions of all epochs", default=())
    decay_factor: float = _field("factor applied to the rate at each milestone or plateau", default=0.1)
    patience: int = _field("epochs without a new lowest error before the rate drops", default=10)
    watch: str = _field("'train' or 'test': the split whose error is monitored for a plateau", default="train")
    rise: float = _field("fraction of the steps in which the rate of one_cycle rises", default=0.3)
    warmup_epochs: int = _field("epochs of linear warm-up from 0", default=0)
    batch_size: int = _field("images per step", default=128)
    momentum: float = _field("momentum of SGD; other optimizers use their own", default=0.9)
    nesterov: bool = _field("use Nesterov momentum with SGD", default=True)
    label_smoothing: float = _field("fraction of each label spread uniformly over all classes", default=0.0)
    dropout: float = _field("`dropout_rate` of networks that support it; 0: the default of the network", default=0.0)
    crop: str = _field(
        "'shift': pad, then crop to the original size; 'area': crop 8 to 100 % of the area at an aspect ratio of 3:4 "
        "to 4:3, then resize; 'scale': resize to 1 to 1.25 times the size, then crop",
        default="shift",
    )
    crop_size: int = _field("side of the crops of 'area' and 'scale'; 0: the side of the images", default=0)
    pad: int = _field("pixels of padding on each side before a random crop to the original size", default=4)
    border: str = _field(
        "padding: 'mean' (0 after normalization), 'edge' (repeated), or 'reflect' (mirrored)", default="mean"
    )
    flip: bool = _field("flip images horizontally at random", default=True)
    jitter: float = _field("maximum relative change of brightness, contrast, and saturation", default=0.0)
    lighting: float = _field(
        "standard deviation of PCA color noise, with the principal components of ImageNet", default=0.0
    )
    normalization: str = _field(
        "'channels': mean 0 and variance 1 per channel; 'zca': contrast normalization per image, then whitening",
        default="channels",
    )
    initialization: str = _field(
        "'network': the default of the network; 'he_fan_in', 'he_fan_out': He initialization of all (ordinary) "
        "convolutions",
        default="network",
    )
    optimizer: str = _field("name of a class in keras.optimizers", default="SGD")
    decoupled_decay: bool = _field(
        "decouple weight decay from the gradient; always on for AdamW and Muon", default=False
    )
    decay_scales: bool = _field("also decay scales and biases (all weights with one axis)", default=True)
    clip_norm: float = _field("maximum global norm of the gradients; 0 disables clipping", default=0.0)
    accumulate: int = _field("number of batches whose gradients are averaged into one optimizer step", default=1)
    ema: float = _field(
        "momentum of an exponential moving average of the weights, which is then evaluated and saved; for example "
        "0.999; 0 disables it",
        default=0.0,
    )
    early_stopping: int = _field(
        "stop after this many epochs without a new highest accuracy on the held-out images; 0 disables it", default=0
    )
    mixup: float = _field("alpha of MixUp, which blends pairs of images and their labels; 0 disables it", default=0.0)
    cutmix: float = _field(
        "alpha of CutMix, which pastes a patch of another image; alternates with `mixup`; 0 disables it", default=0.0
    )
    rand_augment: float = _field(
        "strength of RandAugment, up to 1: two random geometric or color transforms per batch; 0 disables it",
        default=0.0,
    )
    random_erasing: float = _field(
        "fraction of images in which a rectangle is replaced with noise; 0 disables it", default=0.0
    )
    teacher_weight: float = _field("weight of the distillation loss in the total loss, with a teacher", default=0.5)
    temperature: float = _field(
        "distillation temperature, which divides the logits of teacher and student", default=4.0
    )
    name: str = "own"
    source: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, as_tuples(getattr(self, field.name)))
        for name in ("epochs", "batch_size", "patience", "accumulate"):
            _checks.positive(name, getattr(self, name))
        for name in ("learning_rate", "temperature"):
            _checks.above_zero(name, getattr(self, name))
        for name, allowed in _WORDS.items():
            _checks.one_of(name, getattr(self, name), allowed)
        for name in ("momentum", "label_smoothing", "dropout", "weight_decay", "jitter", "lighting", "ema"):
            _checks.rate(name, getattr(self, name))
        for name in (*BATCH_CHANGES, "teacher_weight"):
            _checks.share(name, getattr(self, name))
        if self.clip_norm:
            _checks.above_zero("clip_norm", self.clip_norm)
        for name in ("nesterov", "flip", "decoupled_decay", "decay_scales"):
            _checks.boolean(name, getattr(self, name))
        for name, limit in (
            ("warmup_epochs", self.epochs),
            ("pad", None),
            ("crop_size", None),
            ("early_stopping", None),
        ):
            _at_least_zero(name, getattr(self, name), limit)
        if not 0 < self.rise < 1:
            raise ValueError(f"`rise` (={self.rise!r}) must be above 0 and below 1.")
        if not 0 < self.decay_factor <= 1:
            raise ValueError(f"`decay_factor` (={self.decay_factor!r}) must be above 0 and at most 1.")
        milestones = tuple(self.milestones)
        if list(milestones) != sorted(set(milestones)) or any(not 0 < fraction < 1 for fraction in milestones):
            raise ValueError(
                f"`milestones` (={milestones}) must be increasing fractions of all epochs, between 0 and 1."
            )
        object.__setattr__(self, "milestones", milestones)
        self._check_together()

    def _check_together(self) -> None:
        if self.warmup_epochs and self.schedule in ("one_cycle", "plateau"):
            raise ValueError(f"`warmup_epochs` (={self.warmup_epochs}) must be 0 for the schedule {self.schedule!r}.")
        if self.crop_size and self.crop == "shift":
            raise ValueError(
                f"`crop_size` (={self.crop_size}) must be 0 for the crop 'shift', which keeps the original size."
            )
        if self.normalization == "zca" and self.crop_size:
            raise ValueError(f"`crop_size` (={self.crop_size}) must be 0 for the normalization 'zca'.")


_WORDS = {
    "schedule": SCHEDULES,
    "watch": SPLITS,
    "crop": CROPS,
    "border": BORDERS,
    "normalization": NORMALIZATIONS,
    "initialization": INITIALIZATIONS,
}
OPTIONS = tuple(field for field in dataclasses.fields(Recipe) if field.metadata)
# Fields that few recipes set; model cards and errors mention them only where they differ from the default.
PARTS = ("optimizer", "decoupled_decay", "decay_scales", "clip_norm", "accumulate", "ema", "early_stopping")
PARTS += BATCH_CHANGES

# Fields that have no effect unless another field has one of these values.
_NEEDS = {
    "milestones": ("schedule", ("step",)),
    "decay_factor": ("schedule", ("step", "plateau")),
    "warmup_epochs": ("schedule", ("step", "cosine")),
    "rise": ("schedule", ("one_cycle",)),
    "patience": ("schedule", ("plateau",)),
    "watch": ("schedule", ("plateau",)),
    "momentum": ("optimizer", ("SGD",)),
    "nesterov": ("optimizer", ("SGD",)),
    "pad": ("crop", ("shift",)),
    "border": ("crop", ("shift",)),
}


def unused_fields(recipe: Recipe) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The fields that have no effect in a recipe: for each, another field, and the values that it would need.

    >>> unused_fields(Recipe(9, 0.1, 0.0, "cosine", optimizer="sgd", crop="area"))["milestones"]
    ('schedule', ('step',))
    """
    return {
        name: (other, values)
        for name, (other, values) in _NEEDS.items()
        if getattr(recipe, other).lower() not in map(str.lower, values)
    }


def _at_least_zero(name: str, value: object, limit: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (limit is not None and value >= limit):
        below = f" and below `epochs` (={limit})" if limit is not None else ""
        raise ValueError(f"`{name}` (={value!r}) must be a non-negative integer{below}.")
