import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_sharenets.ops import balance, connectivity

# C, ln(SC), S K_1 = K_2 for L=3, the paper's S K_1, K_2, K_3, then K and Q after a depthwise convolution for L=3, and
# Q for the paper's K.
WORKED = [
    (98, 6.78, 9.59, (18, 7, 7), 9.90, 2822, 3136),
    (162, 7.28, 11.34, (18, 9, 9), 12.73, 5582, 5832),
    (242, 7.69, 12.96, (18, 11, 11), 15.56, 9707, 9680),
    (100, 6.80, 9.65, (9, 10, 10), 10, 2900, 2900),
    (169, 7.33, 11.50, (9, 13, 13), 13, 5915, 5915),
    (256, 7.74, 13.21, (9, 16, 16), 16, 10496, 10496),
    (144, 7.17, 10.90, (9, 12, 12), 12, 4752, 4752),
    (361, 8.09, 14.81, (9, 19, 19), 19, 16967, 16967),
]


@pytest.mark.parametrize(("channels", "best", "size", "paper", "separated_size", "separated", "printed"), WORKED)
def test_worked_numbers(channels, best, size, paper, separated_size, separated, printed):
    whole = balance.balance(channels, convolutions=3)
    assert whole.branch_channels == pytest.approx(size, abs=0.005)
    assert whole.spatial_branch * 9 == pytest.approx(whole.branch_channels)
    assert whole.parameters == pytest.approx(channels * 3 * (9 * channels) ** (1 / 3))
    assert balance.balance(channels).convolutions == pytest.approx(best, abs=0.005)
    apart = balance.separated_balance(channels, convolutions=3)
    assert apart.branch_channels == pytest.approx(separated_size, abs=0.005)
    assert apart.parameters == pytest.approx(separated, abs=0.5)
    spatial, *sizes = paper
    assert balance.parameters(channels, sizes, spatial_branch=spatial // 9) == printed


@given(channels=st.integers(8, 500), kernel_area=st.sampled_from([1, 9, 25]), step=st.floats(-0.5, 1.0))
def test_no_other_number_of_convolutions_has_fewer_weights(channels, kernel_area, step):
    best = balance.balance(channels, kernel_area=kernel_area)
    assert best.branch_channels == pytest.approx(math.e)
    convolutions = best.convolutions * (1 + step)
    assert best.parameters <= channels * convolutions * (kernel_area * channels) ** (1 / convolutions) * (1 + 1e-9)
    apart = balance.separated_balance(channels, kernel_area=kernel_area)
    assert apart.convolutions == pytest.approx(1 + math.log(channels))
    for convolutions in range(2, 10):
        other = balance.separated_balance(channels, convolutions, kernel_area=kernel_area)
        assert apart.parameters <= other.parameters * (1 + 1e-9)


@given(channels=st.integers(8, 500), convolutions=st.integers(2, 5), shift=st.floats(0.5, 2))
def test_unequal_convolutions_have_more_weights(channels, convolutions, shift):
    even = balance.balance(channels, convolutions)
    sizes = [even.branch_channels] * (convolutions - 1)
    assert balance.parameters(channels, sizes, even.spatial_branch) == pytest.approx(even.parameters)
    sizes[0] *= shift
    uneven = balance.parameters(channels, sizes, even.spatial_branch / shift)
    assert uneven >= even.parameters * (1 - 1e-9)


def factorizations(channels, least=2):
    """All factorizations of `channels`, with factors in increasing order."""
    yield (channels,)
    for size in range(least, channels):
        if channels % size == 0 and channels // size >= size:
            yield from ((size, *rest) for rest in factorizations(channels // size, size) if min(rest) >= size)


@given(channels=st.integers(2, 300))
def test_best_integer_is_the_best_of_all(channels):
    ways = list(factorizations(channels))
    assert all(math.prod(way) == channels for way in ways)
    best = balance.best_integer(channels)
    assert best.branch_channels in ways
    assert best.parameters == channels * (9 + sum(best.branch_channels)) == channels * (9 + min(map(sum, ways)))
    for count, group in itertools.groupby(sorted(ways, key=len), key=len):
        best = balance.best_integer(channels, count)
        assert len(best.branch_channels) == count
        assert math.prod(best.branch_channels) == channels
        assert best.parameters == channels * (9 + min(map(sum, group)))


def test_best_integer_of_the_papers_widths():
    assert balance.best_integer(144, 2).branch_channels == (12, 12)
    assert balance.best_integer(98, 2, kernel_area=25) == balance.Factors((7, 14), 98 * (25 + 21))
    assert balance.best_integer(216, 3).branch_channels == (6, 6, 6)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("balance", (1,), r"`channels` \(=1\) must be at least 2"),
        ("balance", (64, 0), r"`convolutions` \(=0\) must be a positive integer\."),
        ("separated_balance", (64, 1), r"`convolutions - 1` \(=0\) must be a positive integer\."),
        ("best_integer", (7.5,), r"`channels` \(=7\.5\) must be a positive integer\."),
        (
            "best_integer",
            (6, 3),
            r"`group_convolutions` \(=3\) must be at most the number of prime factors .* \(=6\)\.",
        ),
        ("best_integer", (6, 0), r"`group_convolutions` \(=0\) must be a positive integer\."),
    ],
)
def test_bad_arguments(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(balance, function)(*arguments)


@pytest.mark.parametrize("function", [balance.balance, balance.separated_balance, balance.best_integer])
def test_bad_kernel_area(function):
    with pytest.raises(ValueError, match=r"`kernel_area` \(=0\) must be a positive integer\."):
        function(64, 3, kernel_area=0)


# Blocks with a given number of weights (figures 2 and 3 of the paper)


def weights(channels, convolutions, size, kernel_area=9):
    """Section 3.2: `C S` for the depthwise convolution, `C K` for each of the L - 1 others."""
    return channels * kernel_area + (convolutions - 1) * channels * size


@given(
    limit=st.integers(1, 3000),
    convolutions=st.integers(2, 6),
    size=st.integers(1, 20),
    area=st.sampled_from([1, 9, 25]),
)
def test_widest_is_the_last_multiple_that_fits(limit, convolutions, size, area):
    fitting = [c for c in range(size, limit + 1, size) if weights(c, convolutions, size, area) <= limit]
    if not fitting:
        with pytest.raises(ValueError, match=rf"`max_parameters` \(={limit}\) must be at least \d+, for one branch"):
            balance.widest(limit, convolutions, size, kernel_area=area)
        return
    block = balance.widest(limit, convolutions, size, kernel_area=area)
    assert (block.channels, block.branch_channels, block.convolutions) == (fitting[-1], size, convolutions)
    assert block.parameters == weights(block.channels, convolutions, size, area)


@given(limit=st.integers(60, 700), convolutions=st.integers(2, 4))
def test_widest_dense_is_the_widest_of_all_that_are_dense(limit, convolutions):
    dense = [
        channels
        for size in range(2, 30)
        for channels in range(size, limit, size)
        if size ** (convolutions - 1) >= channels and weights(channels, convolutions, size) <= limit
    ]
    block = balance.widest_dense(limit, convolutions)
    assert block.channels == max(dense)
    assert connectivity.connectivity(block.channels, (block.branch_channels,) * (convolutions - 1)).dense


@pytest.mark.parametrize(("limit", "convolutions", "size"), [(4752, 3, 8), (4752, 3, 12), (4752, 4, 5), (2000, 5, 3)])
def test_density_is_that_of_the_shuffled_convolutions(limit, convolutions, size):
    block = balance.widest(limit, convolutions, size)
    found = connectivity.connectivity(block.channels, (size,) * (convolutions - 1))
    assert block.density == pytest.approx(found.density)
    assert found.fewest_paths <= block.paths <= found.most_paths


def test_non_sparsity_is_the_share_of_the_dense_kernel():
    """Table 2's C = 144 and K = 12: 4752 weights, and a dense 3x3 kernel of 9 x 144 x 144."""
    assert balance.Block(144, 3, 12).non_sparsity == pytest.approx(4752 / 186_624)
    assert balance.Block(64, 2, 64, kernel_area=1).non_sparsity == pytest.approx((1 + 64) / 64)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((0, 3, 2), r"`max_parameters` \(=0\) must be a positive integer"),
        ((100, 1, 2), r"`convolutions - 1` \(=0\) must be a positive integer"),
        ((100, 3, 2.5), r"`branch_channels` \(=2.5\) must be a positive integer"),
        ((100, 3, 8), r"`max_parameters` \(=100\) must be at least 200, for one branch of `branch_channels` \(=8\)"),
    ],
)
def test_bad_arguments_of_widest(words, message):
    with pytest.raises(ValueError, match=message):
        balance.widest(*words)
