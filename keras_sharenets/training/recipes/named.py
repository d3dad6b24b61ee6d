"""Named training recipes: one per paper and data set, with the values of the papers, and five of our own.

`strong` was chosen from runs of 30 to 120 epochs (docs/results.md) and is not yet measured at its own length: it is
`one-cycle-60` with more epochs. A decay of 1e-4 instead of 5e-4 made no difference for ResNet-8 and cost every other
network 0.3 to 1.2 points. Twice the epochs gained 1.3 points for ResNet-8. Networks with so few weights underfit rather
than overfit, so it uses neither mixing nor erasing.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Collection, Iterable

from keras_sharenets import _checks
from keras_sharenets.training.recipes.recipe import OPTIONS, Recipe

# For small data sets; measured in docs/training.md.
FEWEST_STEPS, SMALLEST = 20, 8  # Per epoch; smallest batch size with usable normalization statistics.
FEWEST_STEPS_IN_ALL = 1_000  # Per run, with the default recipe of a network.
HIGHEST_RATE = 0.1  # Before the division by one of the next two; as in `default`, with which they were measured.
FEW_IMAGES = 2  # Divisor of the rate if batches are smaller than in the recipe; with `one_cycle`.
FINE_TUNING = 10  # Divisor of the rate for pretrained networks.
_CIFAR_STEPS = {"milestones": (0.3, 0.6, 0.8), "decay_factor": 0.2}
_LATE_STEPS = {"milestones": (0.5, 0.75, 0.875), "decay_factor": 0.1}


def _hscnet(
    data: str, *figures, source: str = "section 4; pad and flip are ours (it refers to common practice)", **more
) -> Recipe:
    return Recipe(*figures, name=f"hscnet-{data}", source=f"HSC-Net, {source}", **more)


def _mobile(data: str, *figures) -> Recipe:
    source = "HSC-Net, section 4: other mobile networks train for 400 epochs; everything else as for HSC-Net"
    return Recipe(400, *figures, name=f"mobile-{data}", source=source, **_CIFAR_STEPS)


def _hgcnet(data: str) -> Recipe:
    source = "HGC, section 5; the momentum is illegible in our copy, 0.9 is from the papers that it follows"
    return Recipe(300, 0.1, 1e-4, "cosine", name=f"hgcnet-{data}", source=source)


def _igcnet(data: str, epochs: int, source: str = "section 4.1", **more) -> Recipe:
    source = f"IGC-V2, {source}"
    return Recipe(epochs, 0.1, 1e-4, batch_size=64, name=f"igcnet-{data}", source=source, **_LATE_STEPS, **more)


def _sharesnet(data: str, whitening: str = "mean and variance replace its whitening", **more) -> Recipe:
    source = (
        "ShaResNet, section 4.3 and the trainer that it names, which uses Nesterov momentum (equations 4 and 5 are "
    )
    source += f"plain: `--no-nesterov`); {whitening}"
    more = {"border": "reflect", "initialization": "he_fan_out", **_CIFAR_STEPS} | more
    return Recipe(200, 0.1, 5e-4, name=f"sharesnet-{data}", source=source, **more)


def _shardnet(data: str, epochs: int, learning_rate: float, source: str, **more) -> Recipe:
    source = f"ShardNet, section A.4; {source}. Patience and the monitored split are ours"
    return Recipe(
        epochs, learning_rate, 5e-4, "plateau", nesterov=False, name=f"shardnet-{data}", source=source, **more
    )


_SHARDNET_CIFAR = {"decay_factor": 0.5, "patience": 10}
_SHARDNET_CROPS = {"decay_factor": 0.1, "patience": 5, "crop": "area"}
_WHITENED = {"normalization": "zca", "whitening": "the paper's whitening, with the constants of PyLearn2"}
_OUR_TEST = "testing on the center of images enlarged by 8/7 is ours"
_TEN_CROPS = "test it with `evaluate --crops ten`"

RECIPES = {
    recipe.name: recipe
    for recipe in (
        _hscnet("cifar10", 200, 0.1, 2e-4, **_CIFAR_STEPS),
        _hscnet("cifar100", 200, 0.1, 5e-4, **_CIFAR_STEPS),
        _hscnet("imagenet32", 40, 0.01, 5e-4, milestones=(0.25, 0.5, 0.75), decay_factor=0.2),
        _hscnet("cinic10", 200, 0.1, 1e-4, **_LATE_STEPS),
        _hscnet("tiny-imagenet", 200, 0.1, 1e-4, **_LATE_STEPS),
        _hscnet(
            "imagenet",
            *(120, 0.1, 1e-4, "cosine"),
            source=f"section 4: epochs and batch; everything else is ours; {_OUR_TEST}",
            crop="area",
            crop_size=224,
        ),
        _mobile("cifar10", 0.1, 2e-4),
        _mobile("cifar100", 0.1, 5e-4),
        _hgcnet("cifar10"),
        _hgcnet("cifar100"),
        _igcnet("cifar10", 400),
        _igcnet("cifar100", 400),
        _igcnet("tiny-imagenet", 200, f"section 4.1; {_OUR_TEST}", crop="scale", crop_size=64),
        _sharesnet("cifar10"),
        _sharesnet("cifar10-zca", **_WHITENED),
        _sharesnet("cifar100"),
        _sharesnet("cifar100-wide", dropout=0.3),
        _sharesnet("cifar100-wide-zca", dropout=0.3, **_WHITENED),
        Recipe(
            90,
            0.1,
            1e-4,
            milestones=(1 / 3, 2 / 3),
            batch_size=256,
            crop="area",
            crop_size=224,
            jitter=0.4,
            lighting=0.1,
            initialization="he_fan_out",
            name="sharesnet-imagenet",
            source="ShaResNet, section 4.3: the usual training of Torch ResNets on ImageNet, options from memory",
        ),
        _shardnet("cifar10", 200, 0.05, "batch is ours", **_SHARDNET_CIFAR),
        _shardnet("cifar100", 200, 0.05, "batch is ours", **_SHARDNET_CIFAR),
        _shardnet("tiny-imagenet", 100, 0.05, f"batch is ours; {_TEN_CROPS}", crop_size=56, **_SHARDNET_CROPS),
        _shardnet("tiny-imagenet-vgg", 100, 0.01, f"batch is ours; {_TEN_CROPS}", crop_size=56, **_SHARDNET_CROPS),
        _shardnet(
            "imagenet", 100, 0.1, f"batch is ours; {_TEN_CROPS}", batch_size=256, crop_size=224, **_SHARDNET_CROPS
        ),
        Recipe(
            15,
            0.4,
            1e-4,
            "one_cycle",
            rise=0.15,
            label_smoothing=0.1,
            decay_scales=False,
            name="fast",
            source="ours: short, for any data set and most networks; not for ShardNet's VGGNets (docs/training.md)",
        ),
        Recipe(
            60,
            0.3,
            5e-4,
            "one_cycle",
            rise=0.15,
            batch_size=256,
            label_smoothing=0.1,
            border="reflect",
            decay_scales=False,
            name="one-cycle-60",
            source="ours: for the published networks, except for the changes in their records",
        ),
        Recipe(
            200,
            0.3,
            5e-4,
            "one_cycle",
            rise=0.15,
            batch_size=256,
            label_smoothing=0.1,
            border="reflect",
            decay_scales=False,
            name="strong",
            source="ours: long, for small networks; one-cycle-60 with more epochs; not measured at this length",
        ),
        Recipe(
            40,
            0.1,
            5e-4,
            "cosine",
            batch_size=64,
            pad=1,
            flip=False,
            name="digits",
            source="ours: no flips, as a mirrored digit is not a digit; small shifts, as one of eight pixels is a lot",
        ),
        Recipe(100, 0.1, 5e-4, "cosine", name="default", source="ours: for data sets that the paper does not use"),
    )
}

# Default recipe of a network on a data set: the first line whose pattern matches `family/network data`.
DEFAULTS = (
    ("* digits", "digits"),
    ("hscnet/* cifar10", "hscnet-cifar10"),
    ("hscnet/* cifar100", "hscnet-cifar100"),
    ("hscnet/* imagenet32", "hscnet-imagenet32"),
    ("hscnet/* cinic10", "hscnet-cinic10"),
    ("hscnet/* tiny_imagenet", "hscnet-tiny-imagenet"),
    ("hscnet/* imagenet", "hscnet-imagenet"),
    # Residual networks in a table of baselines use the recipe of that paper.
    ("mobile_baselines/resnet_*_cifar cifar10", "shardnet-cifar10"),
    ("mobile_baselines/resnet_*_cifar cifar100", "shardnet-cifar100"),
    ("mobile_baselines/resnet_[15]* cifar10", "hgcnet-cifar10"),
    ("mobile_baselines/resnet_[15]* cifar100", "hgcnet-cifar100"),
    ("mobile_baselines/preact_resnet_18 cifar10", "hscnet-cifar10"),
    ("mobile_baselines/preact_resnet_18 cifar100", "hscnet-cifar100"),
    ("mobile_baselines/* cifar10", "mobile-cifar10"),
    ("mobile_baselines/* cifar100", "mobile-cifar100"),
    # The baselines of the paper use the recipe of its own networks.
    ("mobile_baselines/* imagenet32", "hscnet-imagenet32"),
    ("mobile_baselines/* cinic10", "hscnet-cinic10"),
    ("mobile_baselines/* tiny_imagenet", "hscnet-tiny-imagenet"),
    ("mobile_baselines/* imagenet", "hscnet-imagenet"),
    ("sharesnet/wrn_* imagenet32", "hscnet-imagenet32"),
    ("sharesnet/wrn_* cinic10", "hscnet-cinic10"),
    ("sharesnet/wrn_* tiny_imagenet", "hscnet-tiny-imagenet"),
    ("hgcnet/* cifar10", "hgcnet-cifar10"),
    ("hgcnet/* cifar100", "hgcnet-cifar100"),
    ("igcnet/* cifar10", "igcnet-cifar10"),
    ("igcnet/* cifar100", "igcnet-cifar100"),
    ("igcnet/* tiny_imagenet", "igcnet-tiny-imagenet"),
    ("sharesnet/* cifar10", "sharesnet-cifar10"),
    ("sharesnet/*wrn_2?_10 cifar100", "sharesnet-cifar100-wide"),
    ("sharesnet/* cifar100", "sharesnet-cifar100"),
    ("sharesnet/* imagenet", "sharesnet-imagenet"),
    ("shardnet/* cifar10", "shardnet-cifar10"),
    ("shardnet/* cifar100", "shardnet-cifar100"),
    ("shardnet/*vggnet* tiny_imagenet", "shardnet-tiny-imagenet-vgg"),
    ("shardnet/* tiny_imagenet", "shardnet-tiny-imagenet"),
    ("shardnet/* imagenet", "shardnet-imagenet"),
    ("*", "default"),
)


def recipe_for(model_name: str, data_name: str) -> Recipe:
    """The recipe of a named network for a data set: from its paper if there is one, else ours.

    A folder of images counts by its name: a folder `cinic10` gets the recipe for CINIC-10.

    Raises:
        ValueError: the network does not exist; the nearest names are suggested.

    >>> recipe_for("hscnet_m128_g16_r8_a2", "cifar100").weight_decay
    0.0005
    """
    from keras_sharenets.models import find_family

    asked = f"{find_family(model_name)}/{model_name} {data_name}"
    return RECIPES[next(name for pattern, name in DEFAULTS if fnmatch.fnmatchcase(asked, pattern))]


def find_recipe(name: str) -> Recipe:
    """The recipe with this name; a `ValueError` with the nearest names if there is none.

    >>> find_recipe("shardnet-cifar10").schedule
    'plateau'
    """
    if name not in RECIPES:
        raise ValueError(f"`recipe` (={name!r}) is not a known recipe. {_checks.suggestion(name, sorted(RECIPES))}")
    return RECIPES[name]


def override(recipe: Recipe, **changes: object) -> Recipe:
    """The recipe with some fields changed; it keeps its name.

    Raises:
        ValueError: the field does not exist (the nearest name is suggested), or a value is invalid.

    >>> override(recipe_for("hscnet_m128_g16_r8_a2", "cifar10"), epochs=10).milestones
    (0.3, 0.6, 0.8)
    """
    known = [field.name for field in OPTIONS]
    for name in changes:
        if name not in known:
            raise ValueError(f"`{name}` is not a field of a recipe. {_checks.suggestion(name, known)}")
    return dataclasses.replace(recipe, **changes)


def changed_fields(recipe: Recipe) -> tuple[str, ...]:
    """The names of the fields that differ from the named recipe, in order.

    >>> changed_fields(override(find_recipe("fast"), epochs=3, flip=True))
    ('epochs',)
    """
    return differing_fields([recipe, RECIPES.get(recipe.name, recipe)])


def describe_changes(recipe: Recipe) -> dict[str, str]:
    """The fields that differ from the named recipe, by name, as phrases such as "batch 64" or "no flip".

    >>> describe_changes(override(find_recipe("fast"), batch_size=64, flip=False))
    {'batch_size': 'batch 64', 'flip': 'no flip'}
    """
    return {name: _phrase(name, getattr(recipe, name)) for name in changed_fields(recipe)}


def _phrase(name, value):
    label = "batch" if name == "batch_size" else name.replace("_", " ")
    if isinstance(value, bool):
        return label if value else f"no {label}"
    return f"{label} {value}"


def differing_fields(recipes: Iterable[Recipe]) -> tuple[str, ...]:
    """The names of the fields that differ between recipes, in order, without their names and sources.

    >>> differing_fields([find_recipe("one-cycle-60"), find_recipe("strong")])
    ('epochs',)
    """
    recipes = list(recipes)
    names = [field.name for field in OPTIONS]
    return tuple(name for name in names if any(getattr(each, name) != getattr(recipes[0], name) for each in recipes))


def batch_size_for(images: int, most: int, *, steps: int = 2 * FEWEST_STEPS) -> int:
    """The batch size: `most`, or with fewer than 20 steps per epoch, a power of two that gives `steps`.

    >>> batch_size_for(50_000, 128), batch_size_for(1_000, 128), batch_size_for(432, 128), batch_size_for(30, 4)
    (128, 16, 8, 4)
    """
    if images >= FEWEST_STEPS * most:
        return most
    return min(most, max(SMALLEST, 2 ** max(images // steps, 1).bit_length() // 2))


def adapt(recipe: Recipe, images: int, *, given: Collection[str], named: bool, trained: bool) -> Recipe:
    """Adapts batch size, steps, rate, and schedule of a recipe to the number of images.

    Batches are small for few images. For small batches, half the rate of batches of 128, with a warm-up, worked best;
    for pretrained networks, which have a low rate anyway, it was worse. Recipes with higher rates than 0.1 need large
    batches and new networks: 15 epochs of `fast` on 432 images reach 63.6 % at its own rate and 77.4 % at 0.05.

    Args:
        recipe: recipe for a network and a data set, with the given fields.
        images: number of training images.
        given: names of fields to keep unchanged.
        named: whether the recipe was selected by name: this keeps the schedule and the number of epochs.
        trained: whether the network is pretrained.

    >>> adapt(Recipe(100, 0.1, 5e-4, "cosine"), 432, given=(), named=False, trained=False).learning_rate
    0.05
    >>> adapt(find_recipe("one-cycle-60"), 432, given=(), named=True, trained=True).learning_rate
    0.01
    """
    size, epochs, rate, schedule = recipe.batch_size, recipe.epochs, recipe.learning_rate, recipe.schedule
    if "batch_size" not in given:
        size = batch_size_for(images, size, steps=FEWEST_STEPS if trained else 2 * FEWEST_STEPS)
    if not named:
        epochs = max(epochs, math.ceil(FEWEST_STEPS_IN_ALL / max(images // size, 1)))
    if trained:
        rate = min(rate, HIGHEST_RATE) / FINE_TUNING
    elif size < recipe.batch_size and not recipe.warmup_epochs:
        rate = min(rate, HIGHEST_RATE) / FEW_IMAGES
        schedule = schedule if named else "one_cycle"
    changed = {"batch_size": size, "epochs": epochs, "schedule": schedule, "learning_rate": rate}
    return override(recipe, **{name: value for name, value in changed.items() if name not in given})
