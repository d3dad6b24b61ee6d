"""What a training run needs to know beside the network and the data, as one record."""

from __future__ import annotations

import dataclasses

from keras_sharenets import _checks

SCHEDULES = ("step", "cosine", "one_cycle", "plateau")
SPLITS = ("train", "test")
CROPS = ("shift", "area", "scale")
BORDERS = ("mean", "edge", "reflect")
NORMALIZATIONS = ("channels", "zca")
INITIALIZATIONS = ("network", "he_fan_in", "he_fan_out")
# What random layers of Keras change in a batch, in this order.
BATCH_CHANGES = ("rand_augment", "random_erasing", "mixup", "cutmix")


def _field(help_text: str, **more):
    return dataclasses.field(metadata={"help": help_text}, **more)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a training run needs to know beside the network and the data.

    Each field but the first two is described by its metadata; the command line makes its options from these.

    Attributes:
        name: what `recipes` lists it under. One with changed fields keeps it: `changed_fields` tells which.
        source: where the figures come from and which of them are ours.

    Raises:
        ValueError: a field breaks its rule; the message names it, its value and the rule.
    """

    epochs: int = _field("passes over the training split")
    learning_rate: float = _field("learning rate at the start, or after the warm-up; the highest of one_cycle")
    weight_decay: float = _field("d: every trained weight w adds d * w to its gradient, once per stored tensor")
    schedule: str = _field(
        "'step': the rate falls at the milestones; 'cosine': to 0 along half a cosine; 'one_cycle': up first, then "
        "that cosine; 'plateau': it falls when the error does not",
        default="step",
    )
    milestones: tuple[float, ...] = _field("where the rate falls, as fractions of all epochs", default=())
    decay_factor: float = _field("what the rate is multiplied by at each milestone or plateau", default=0.1)
    patience: int = _field("epochs without a new lowest error that are a plateau", default=10)
    watch: str = _field("'train' or 'test': the split whose error is watched for a plateau", default="train")
    rise: float = _field("part of the steps in which the rate of one_cycle rises", default=0.3)
    warmup_epochs: int = _field("epochs over which the rate rises linearly from 0 first", default=0)
    batch_size: int = _field("images per step", default=128)
    momentum: float = _field("momentum of SGD; other optimizers have their own", default=0.9)
    nesterov: bool = _field("Nesterov's momentum, of SGD", default=True)
    label_smoothing: float = _field("part of each label that is spread over all classes", default=0.0)
    dropout: float = _field("`dropout_rate` of networks that have one; 0: the network's own", default=0.0)
    crop: str = _field(
        "'shift': pad, then a crop of the old size; 'area': 8 to 100 % of the image at a ratio of 3:4 to 4:3, "
        "resized; 'scale': resized to 1 to 1.25 times the size, then a crop",
        default="shift",
    )
    crop_size: int = _field("side of what 'area' and 'scale' crop; 0: that of the images", default=0)
    pad: int = _field("pixels of padding on each side before a random crop of the old size", default=4)
    border: str = _field(
        "what pads: 'mean' (0 when normalized), 'edge' (repeated) or 'reflect' (mirrored)", default="mean"
    )
    flip: bool = _field("mirror images left to right at random", default=True)
    jitter: float = _field(
        "brightness, contrast and saturation change by up to this part, in random order", default=0.0
    )
    lighting: float = _field("deviation of the shift along the principal colors of ImageNet", default=0.0)
    normalization: str = _field(
        "'channels': mean 0 and variance 1 per channel; 'zca': contrast per image, then whitened pixels",
        default="channels",
    )
    initialization: str = _field(
        "'network': the network's own; 'he_fan_in', 'he_fan_out': He's for all (ordinary) convolutions",
        default="network",
    )
    optimizer: str = _field("a class of keras.optimizers", default="SGD")
    decoupled_decay: bool = _field(
        "the optimizer shrinks the weights by itself, beside the gradient; AdamW and Muon always do", default=False
    )
    decay_scales: bool = _field("scales and biases, all weights with one axis, decay as well", default=True)
    clip_norm: float = _field("longest that all gradients together may be; longer ones are scaled; 0: any", default=0.0)
    accumulate: int = _field("batches whose mean gradient makes one step of the optimizer", default=1)
    ema: float = _field(
        "momentum of a moving average of the weights, which is what is tested and saved, 0.999 for one; 0: none",
        default=0.0,
    )
    early_stopping: int = _field(
        "epochs without a new highest accuracy on the held-out images after which training ends; 0: never", default=0
    )
    mixup: float = _field("alpha of MixUp, which blends images and their labels in pairs; 0: none", default=0.0)
    cutmix: float = _field(
        "alpha of CutMix, which pastes a part of another image; with `mixup` they take turns; 0: none", default=0.0
    )
    rand_augment: float = _field(
        "strength of RandAugment, up to 1: two random changes of form or color a batch; 0: none", default=0.0
    )
    random_erasing: float = _field("part of the images of which a rectangle becomes noise; 0: none", default=0.0)
    teacher_weight: float = _field("part of the loss that compares with the teacher, where there is one", default=0.5)
    temperature: float = _field("what teacher and student divide their logits by to be compared", default=4.0)
    name: str = "own"
    source: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
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
                f"`milestones` (={milestones}) must rise and lie between 0 and 1, fractions of all epochs."
            )
        object.__setattr__(self, "milestones", milestones)
        self._check_together()

    def _check_together(self) -> None:
        if self.warmup_epochs and self.schedule in ("one_cycle", "plateau"):
            raise ValueError(f"`warmup_epochs` (={self.warmup_epochs}) must be 0 for the schedule {self.schedule!r}.")
        if self.crop_size and self.crop == "shift":
            raise ValueError(
                f"`crop_size` (={self.crop_size}) must be 0 for the crop 'shift', which keeps the old size."
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
# What most recipes have not; a card or a refusal speaks of it only where it differs from the default.
PARTS = ("optimizer", "decoupled_decay", "decay_scales", "clip_norm", "accumulate", "ema", "early_stopping")
PARTS += BATCH_CHANGES


def _at_least_zero(name: str, value: object, limit: int | None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (limit is not None and value >= limit):
        below = f" and below `epochs` (={limit})" if limit is not None else ""
        raise ValueError(f"`{name}` (={value!r}) must be a non-negative integer{below}.")
