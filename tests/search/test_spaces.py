import itertools
import math

import pytest
from harness import counts_only, without_weights

import keras_sharenets as ksn
from keras_sharenets.models.hscnet.module import Options
from keras_sharenets.models.sharesnet import stage_blocks
from keras_sharenets.ops import connectivity, hierarchical, permutations
from keras_sharenets.search.spaces import NAMES, find_space
from keras_sharenets.search.spaces.space import build, check, count, draw, points

IMAGE_SHAPES = {"digits": (8, 8, 1), "cifar": (32, 32, 3), "odd": (37, 45, 1), "large": (224, 160, 3)}
ALL = pytest.mark.parametrize("name", NAMES)


def _hscnet_shapes(point):
    counts = {name: point[name] for name in ("groups", "channel_repeats", "arrangements", "alpha")}
    # T applies to theta1, theta2, and theta4, as in algorithm 1, and in the star networks to theta3.
    sharing = ("LA", "A", "A" if point["star"] else "", "CLA", "L")
    fixed = {"shuffle_groups": 2, "plane_orders": "distinct", "sharing": sharing}
    fixed |= {"arrange_in_transition": "expand", "share_in_transition": True, "spatial_order": "group_major"}
    fixed |= {"stride_on": "spatial", "shortcut": "projection", "projection_input": "activated", "dropout_rate": 0.0}
    options = Options(**counts, **fixed, kernel_initializer="he_normal")
    times = point["arrangements"]
    for stage in range(3):
        width = point["width"] * 2**stage
        hidden = options.hidden_width(width)
        # Filters and input planes of theta1, theta2, and, in each of G groups, theta4.
        for filters, planes in ((hidden, width), (width, hidden), (hidden // point["groups"],) * 2):
            assert filters % times == 0
            assert len({tuple(order) for order in permutations.arrangements(planes, times)}) == times


def _hgcnet_shapes(point):
    filters = point["growth"] * point["bottleneck"]
    assert filters % point["groups"] == 0
    assert filters % (point["squeeze_excite"] or 1) == 0
    channels = 16
    for stage, modules in enumerate(point["blocks_per_stage"]):
        channels = int(point["compression"] * channels) if stage else channels
        for _ in range(modules):
            hierarchical.split_sizes(channels, point["groups"])
            channels += point["growth"] * 2**stage


def _igcv2_shapes(point):
    channels = point["width"]
    assert point["blocks_per_stage"] % 2 == 0
    for stage, sizes in enumerate(point["branch_channels"]):
        width = point["width"] * 2**stage
        permutations.interleaving(channels, sizes, width)
        permutations.interleaving(width, sizes, width)
        channels = width


def _sharesnet_shapes(point):
    blocks = stage_blocks(point["network"], point["depth"])
    assert point["share"] == "none" or min(blocks) > 1
    assert (point["network"], point["share"]) != ("resnet", "all") or point["depth"] == 34


def _shardnet_shapes(point, input_shape):
    side = min(input_shape[:2])
    assert point["width"] >= input_shape[2]
    strides = {"shard_resnet": 4, "shard_deep_resnet": 32 if side >= 112 else 8}
    assert side >= strides.get(point["network"], 2 ** (len(point.get("convs_per_block", ())) - 1))


def _assert_buildable(name, point, input_shape):
    if name == "shardnet":
        _shardnet_shapes(point, input_shape)
    else:
        globals()[f"_{name}_shapes"](point)


@ALL
@pytest.mark.parametrize("draws", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_points_are_valid_for_the_layers(name, draws):
    space, shapes = find_space(name), itertools.cycle(IMAGE_SHAPES.values())
    for seed, input_shape in zip(range(draws), shapes, strict=False):
        point = draw(space, seed, input_shape=input_shape)
        check(space, point, input_shape=input_shape)
        _assert_buildable(name, point, input_shape)


def _shallow(name, point):
    """The point with fewer blocks; in HGC-Net, all modules differ."""
    depth = {"hscnet": {"blocks_per_stage": 2}, "igcv2": {"blocks_per_stage": 2}}
    return {**point, **depth.get(name, {})}


def _values(point):
    """The values of the choices; those of stages or blocks separately."""
    for name, value in point.items():
        entries = value if isinstance(value, tuple) else (value,)
        yield from ((name, place, entry) for place, entry in enumerate(entries))


def _covering(sampled, size):
    """The points that contain a combination of so many values that no point before them does."""
    seen = set()
    for point in sampled:
        combinations = set(itertools.combinations(_values(point), size))
        if combinations - seen:
            seen |= combinations
            yield point


@pytest.mark.slow
@ALL
def test_every_pair_of_values_is_built_without_weights(name):
    """Every pair that occurs in 10,000 random points; in IGCV2, whose branches have hundreds, every value."""
    space, input_shape = find_space(name), IMAGE_SHAPES["digits"]
    sampled = (_shallow(name, draw(space, seed, input_shape=input_shape)) for seed in range(10_000))
    covering = list(_covering(sampled, 1 if name == "igcv2" else 2))
    assert len(covering) > 100
    for first in range(0, len(covering), 50):
        with without_weights():
            for point in covering[first : first + 50]:
                model = build(space, point, input_shape=input_shape)
                assert model.output_shape == (None, 10)
                stored = sum(math.prod(weight.shape) for weight in model.trainable_variables)
                assert stored == count(space, point, input_shape=input_shape).stored_parameters, point
            del model


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "igcv2" else []) for name in NAMES]
)
def test_points_are_distinct_and_include_random_points(name):
    space = find_space(name)
    names, everything, number = {}, set(), 0
    for point in points(space):
        given = names.setdefault(point.get("network"), tuple(point))
        assert tuple(point) == given
        assert all(len(value) == 3 for key, value in point.items() if key == "branch_channels")
        everything.add(repr(sorted(point.items())))
        number += 1
    assert len(everything) == number
    assert all(repr(sorted(draw(space, seed).items())) in everything for seed in range(100))


def _is_cheap(space, point, most):
    """Whether the network has few layers, which take time to build."""
    network, arguments = point.get("network"), {key: value for key, value in point.items() if key != "network"}
    large = {"igcv2": arguments.get("blocks_per_stage"), "shardnet": arguments.get("width", 0) // 64}
    if large.get(space.name, 0) > 4:
        return False
    return sum(1 for _ in space.costs(network, arguments, (32, 32, 3), 10)) <= most


def _assert_counts(space, seeds, number, most=math.inf):
    """Compares the counts of random networks with their profiles, for images of all sizes in turn."""
    seeds_and_shapes = zip(seeds, itertools.cycle(IMAGE_SHAPES.values()), strict=False)
    sampled = ((draw(space, seed, input_shape=shape), shape) for seed, shape in seeds_and_shapes)
    cheap = itertools.islice((pair for pair in sampled if _is_cheap(space, pair[0], most)), number)
    for classes, (point, shape) in zip(itertools.cycle((10, 100, 200)), cheap, strict=False):
        sizes = {"input_shape": shape, "num_classes": classes}
        profile = ksn.profile(build(space, point, **sizes))
        counted = count(space, point, **sizes)
        assert (counted.stored_parameters, counted.multiply_adds) == (
            profile.stored_parameters,
            profile.multiply_adds,
        ), (point, sizes)


@counts_only
@ALL
def test_counts_match_built_networks(name):
    _assert_counts(find_space(name), range(10_000), 4, most=80)


@pytest.mark.slow
@ALL
def test_counts_match_many_built_networks(name):
    _assert_counts(find_space(name), range(20_000, 90_000), 50, most=250)


@pytest.mark.parametrize("draws", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_density_of_igcv2_matches_connectivity(draws):
    space = find_space("igcv2")
    for seed in range(draws):
        point = draw(space, seed)
        if point["width"] > 64:
            continue
        widths = [point["width"] * 2**stage for stage in range(3)]
        found = [connectivity.connectivity(*pair) for pair in zip(widths, point["branch_channels"], strict=True)]
        counted = count(space, point)
        assert counted.density == min(stage.density for stage in found)
        assert counted.one_path == all(stage.one_path for stage in found)


def test_counts_of_named_networks():
    igcv2 = {"width": 64, "blocks_per_stage": 2, "branch_channels": ((8, 8), (16, 16), (32, 32))}
    shared = {"network": "shard_resnet", "width": 128, "share": "spatial", "blocks_per_stage": 3}
    hscnet = {"width": 128, "alpha": 2, "groups": 16, "channel_repeats": 8, "arrangements": 2}
    hscnet |= {"blocks_per_stage": 4, "star": False}
    # The paper's table counts kernels only; normalization (stem, blocks, shortcuts) and the classifier are added.
    more = 2 * (64 + 2 * (64 + 128 + 256) + 128 + 256) + 256 * 10 + 10
    assert count(find_space("igcv2"), igcv2).stored_parameters == 47_232 + more
    assert count(find_space("hscnet"), hscnet).stored_parameters == 1_778_970
    assert count(find_space("hscnet"), hscnet, num_classes=100).stored_parameters == 1_825_140
    assert count(find_space("shardnet"), shared).stored_parameters == 186_762
    wide = {"network": "wide_resnet", "depth": 28, "width_multiplier": 10, "share": "rest"}
    assert count(find_space("sharesnet"), wide, num_classes=100).stored_parameters == 26_860_084


HSCNET = {"width": 32, "alpha": 2, "groups": 4, "channel_repeats": 2, "arrangements": 2, "blocks_per_stage": 1}
HSCNET |= {"star": False}
IGCV2 = {"width": 64, "blocks_per_stage": 2, "branch_channels": ((8, 8), (16, 16), (32, 32))}


@pytest.mark.parametrize(
    ("name", "point", "message"),
    [
        ("hscnet", {**HSCNET, "channel_repeats": 8}, r"`channel_repeats` \(=8\) must divide `groups` \(=4\)\."),
        ("hscnet", {**HSCNET, "groups": 32}, r"`groups` \(=32\) must divide the bottleneck .*`width` \(=32\)"),
        ("hscnet", {**HSCNET, "alpha": 1.75}, r"`alpha` \(=1\.75\) must divide `width` \(=32\) into an integer"),
        (
            "hscnet",
            {**HSCNET, "groups": 8, "arrangements": 4},
            r"`arrangements` \(=4\) must divide .* for `width` .*=32",
        ),
        ("hscnet", {**HSCNET, "arrangements": 1, "star": True}, r"`star` \(=True\) must be False"),
        ("hscnet", {**HSCNET, "blocks_per_stage": True}, r"`blocks_per_stage` \(=True\) must be one of 1, 2"),
        ("hscnet", {**HSCNET, "color": 1}, r"`color` \(=1\) must be one of 'width'"),
        ("igcv2", {**IGCV2, "branch_channels": ((8, 8), (16, 16))}, r"`branch_channels\[2\]` \(=None\) must be one of"),
        (
            "igcv2",
            {**IGCV2, "branch_channels": ((8, 8), (16, 16), (2, 2))},
            r"must have a product of half to 5 times",
        ),
        ("igcv2", {**IGCV2, "branch_channels": ((8, 7), (16, 16), (32, 32))}, r"`branch_channels\[0\]` \(=\(8, 7\)\)"),
        ("igcv2", {**IGCV2, "branch_channels": (*IGCV2["branch_channels"], (8, 8))}, r"must have 3 entries"),
        ("igcv2", {"width": 64}, r"`blocks_per_stage` must be given in a point of the space 'igcv2'"),
        ("shardnet", {"network": "vgg"}, r"`network` \(='vgg'\) must be one of 'shard_resnet'"),
    ],
)
def test_bad_points(name, point, message):
    with pytest.raises(ValueError, match=message):
        check(find_space(name), point)
    with pytest.raises(ValueError, match=message):
        build(find_space(name), point)


def test_points_that_need_larger_images():
    sharesnet, shardnet = find_space("sharesnet"), find_space("shardnet")
    large = {"network": "resnet", "depth": 34, "width": 8, "share": "all"}
    check(sharesnet, large, input_shape=(32, 32, 3))
    with pytest.raises(ValueError, match=r"`network` \(='resnet'\) must not be 'resnet' for images smaller"):
        check(sharesnet, large, input_shape=(31, 64, 3))
    deep = {"network": "shard_vggnet", "width": 16, "share": "spatial", "blending": True}
    check(shardnet, {**deep, "convs_per_block": (1, 1, 1, 1)}, input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"`convs_per_block` \(=\(1, 1, 1, 1, 1\)\) must have at most one block more"):
        check(shardnet, {**deep, "convs_per_block": (1, 1, 1, 1, 1)}, input_shape=(8, 8, 1))
    with pytest.raises(ValueError, match=r"`width` \(=16\) must be at least the channels of the image"):
        check(shardnet, {**deep, "convs_per_block": (1, 1)}, input_shape=(8, 8, 20))


@pytest.mark.parametrize("input_shape", [(3, 8, 1), (8, 8), (8, 8, 0)])
def test_bad_input_shape(input_shape):
    with pytest.raises(ValueError, match="input_shape"):
        draw(find_space("hscnet"), 0, input_shape=input_shape)


def test_unknown_space():
    with pytest.raises(ValueError, match=r"`space` \(='hsc'\) must be one of 'hscnet', 'hgcnet', 'igcv2'"):
        find_space("hsc")
