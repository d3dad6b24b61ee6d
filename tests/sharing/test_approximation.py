"""Approximation of kernels by each scheme, compared with an independent alternating least squares."""

import keras
import numpy as np
import pytest
from harness import pseudo_random, slow_after
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_sharenets as ksn
from keras_sharenets.analysis.graph import calls
from keras_sharenets.ops import kernels, permutations
from keras_sharenets.sharing import ShareChannels, chains, products, proposals, shared_kernels
from keras_sharenets.sharing.places import Place

SEEDS = st.integers(0, 10**6)


def layer_kernel(layer, channels, factors=None):
    """The effective kernel of a library layer as a matrix, optionally with the given stored kernels."""
    layer.build((None, 4, 4, channels))
    if factors is not None:
        layer.set_weights([factor[None, None] for factor in factors])
    return keras.ops.convert_to_numpy(layer.effective_kernel())[0, 0].astype("float64")


def relative_error(kernel, target):
    return np.sum((kernel - target) ** 2) / np.sum(target**2)


def apply_chain(factors):
    """`Y_i = [X_i, Y_(i-1)] W_i` for the unit vectors; the factors determine the sizes of the groups of `X`."""
    filters = factors[0].shape[1]
    ends = np.cumsum([len(factors[0]), *(len(factor) - filters for factor in factors[1:])])
    outputs, start = [], 0
    for factor, end in zip(factors, ends, strict=True):
        read = np.eye(ends[-1])[:, start:end]
        outputs.append((np.concatenate([read, outputs[-1]], axis=1) if outputs else read) @ factor)
        start = end
    return np.concatenate(outputs, axis=1)


def apply_product(factors):
    """Group convolutions with shuffles in between, for the unit vectors."""
    channels, x = factors[0].shape[1], np.eye(factors[0].shape[1])
    for factor, order in zip(
        factors, permutations.interleaved(channels, [len(each) for each in factors], channels), strict=True
    ):
        parts = np.split(x, channels // len(factor), axis=1)
        kernels_ = np.split(factor, channels // len(factor), axis=1)
        x = np.concatenate([part @ kernel for part, kernel in zip(parts, kernels_, strict=True)], axis=1)[:, order]
    return x


def plain_als(compose, shapes, target, seed, rounds=30):
    """The error after solving for each factor in turn, with derivatives computed entry by entry."""
    random = np.random.default_rng(seed)
    factors = [random.standard_normal(shape) for shape in shapes]
    for _ in range(rounds):
        for place, factor in enumerate(factors):

            def with_factor(values, place=place, factor=factor):
                return compose([*factors[:place], values.reshape(factor.shape), *factors[place + 1 :]]).reshape(-1)

            nothing = with_factor(np.zeros(factor.size))
            derivative = np.stack([with_factor(unit) - nothing for unit in np.eye(factor.size)], axis=1)
            solution = np.linalg.lstsq(derivative, target.reshape(-1) - nothing, rcond=None)[0]
            factors[place] = solution.reshape(factor.shape)
    return relative_error(compose(factors), target)


CHAINS = st.tuples(st.integers(2, 4), st.integers(1, 5), st.integers(4, 14))
PRODUCTS = st.sampled_from([((2, 3), 1), ((4, 4), 2), ((2, 3, 2), 1), ((3, 3), 1), ((2, 2, 3), 2), ((5, 3), 3)])


@pytest.mark.parametrize("ridge", [0.0, chains.INT8])
@settings(max_examples=5)
@given(CHAINS, SEEDS)
def test_exact_chain_is_recovered(ridge, shape, seed):
    groups, each, channels = shape
    keras.utils.set_random_seed(seed)
    layer = ksn.layers.HierarchicalGroupConv2D(groups * each, groups=groups)
    target = layer_kernel(layer, channels)
    factors, error = chains.fit_chain(target, layer.sizes, ridge=ridge)
    again = layer_kernel(ksn.layers.HierarchicalGroupConv2D(groups * each, groups=groups), channels, factors)
    assert max(error, relative_error(again, target)) < 1e-8  # A squared error: 1e-4 of the norm.
    np.testing.assert_allclose(chains.compose(factors, layer.sizes), again, atol=1e-5 * np.abs(target).max())


@settings(max_examples=6)
@given(PRODUCTS, SEEDS)
def test_exact_product_is_recovered(shape, seed):
    sizes, widening = shape
    channels = int(np.prod(sizes))
    keras.utils.set_random_seed(seed)
    target = layer_kernel(ksn.layers.InterleavedGroupConv2D(widening * channels, branch_channels=sizes), channels)
    factors, error = products.fit_product(target, sizes)
    again = ksn.layers.InterleavedGroupConv2D(widening * channels, branch_channels=sizes)
    assert max(error, relative_error(layer_kernel(again, channels, factors), target)) < 1e-8


def test_two_factors_follow_the_images():
    """The start is the best product for the weights, not for inputs of which some are far stronger than others."""
    random, sizes = np.random.default_rng(0), (2, 3)
    target, inputs = random.standard_normal((6, 6)), random.standard_normal((50, 6)) * [9, 1, 1, 9, 1, 1]
    orders = permutations.interleaved(6, sizes, 6)

    def error(gram):
        factors, _ = products.fit_product(target, sizes, gram=gram)
        fitted = products.compose([products.branches(factor, 6) for factor in factors], orders)
        return np.square(inputs @ (fitted - target)).sum() / np.square(inputs @ target).sum()

    assert error(inputs.T @ inputs) < 0.8 * error(None)


@pytest.mark.parametrize(("seed", "starts"), slow_after(1, [(0, 2), (0, 20), (1, 20), (2, 20)]))
def test_fit_is_at_least_as_good_as_random_starts(seed, starts):
    target = np.random.default_rng(seed).standard_normal((6, 6))
    best = min(plain_als(apply_chain, [(2, 2), (4, 2), (4, 2)], target, start) for start in range(starts))
    assert chains.fit_chain(target, (2, 2, 2))[1] <= best * (1 + 1e-5)
    # With the ridge for int8, which `share` uses.
    assert chains.fit_chain(target, (2, 2, 2), ridge=chains.INT8)[1] <= best * (1 + 2e-3)
    target = np.random.default_rng(seed).standard_normal((8, 8))
    best = min(plain_als(apply_product, [(2, 8), (2, 8), (2, 8)], target, start) for start in range(starts))
    assert products.fit_product(target, (2, 2, 2))[1] <= best * (1 + 1e-5)


def second_moments(random, size):
    rows = random.standard_normal((3 * size, size)) * random.uniform(0.1, 3, size)
    return rows.T @ rows / len(rows)


@settings(max_examples=2)
@given(SEEDS)
def test_second_moments_reduce_output_error(seed):
    random = np.random.default_rng(seed)
    target, gram = random.standard_normal((6, 6)), second_moments(random, 6)
    for fit, sizes in ((chains.fit_chain, (2, 2, 2)), (products.fit_product, (2, 3))):
        factors, error = fit(target, sizes, gram=gram)
        without, _ = fit(target, sizes)

        compose = apply_chain if fit is chains.fit_chain else apply_product
        assert abs(error - shared_kernels.squared_error([target], [compose(factors)], [gram])) < 1e-9
        assert error <= shared_kernels.squared_error([target], [compose(without)], [gram]) + 1e-9


@pytest.mark.parametrize("weighted", [False, True])
def test_chain_with_widening_groups_has_minimum_error(weighted):
    """If a group has as many outputs as there are inputs up to it, only the rows of later groups are lost."""
    random = np.random.default_rng(0)
    target, gram = random.standard_normal((12, 24)), second_moments(random, 12)
    least = np.zeros_like(target)
    root = np.linalg.cholesky(gram).T if weighted else np.eye(12)
    for columns, end in ((slice(12), 6), (slice(12, 24), 12)):
        least[:end, columns] = np.linalg.lstsq(root[:, :end], root @ target[:, columns], rcond=None)[0]
    factors, error = chains.fit_chain(target, (6, 6), gram=gram if weighted else None)
    np.testing.assert_allclose(apply_chain(factors), least, atol=1e-8)
    np.testing.assert_allclose(error, relative_error(root @ least, root @ target), rtol=1e-8)


def test_chains_with_a_ridge_survive_int8():
    """Nearly singular chains have large weights, of which int8 rounds each column to 127 steps of its maximum."""
    target = np.random.default_rng(2).standard_normal((16, 16))
    left, _, right = np.linalg.svd(target[:8, :8])
    target[:8, :8] = left * np.geomspace(5, 5e-3, 8) @ right
    errors = []
    for ridge in (0.0, chains.INT8):
        factors, error = chains.fit_chain(target, (8, 8), ridge=ridge)
        steps = [np.abs(factor).max(axis=0) / 127 for factor in factors]
        rounded = apply_chain([np.round(factor / step) * step for factor, step in zip(factors, steps, strict=True)])
        errors.append((error, relative_error(rounded, target)))
    (exact, exact_int8), (small, small_int8) = errors
    assert exact <= small < 1.01 * exact
    assert exact_int8 > 1.5 * exact
    assert small_int8 < 1.05 * small


def test_singular_equations_have_minimum_norm_solution():
    random = np.random.default_rng(0)
    rows, right = random.standard_normal((3, 5)), random.standard_normal((5, 2))
    for square in (rows.T @ rows, rows.T @ rows + np.eye(5)):
        expected = np.linalg.pinv(square, rcond=1e-10) @ right
        np.testing.assert_allclose(shared_kernels.solve_symmetric(square, right), expected, rtol=1e-6)


def make_place(filters, size, channels, groups=1, seed=0):
    keras.utils.set_random_seed(seed)
    layer = keras.layers.Conv2D(filters, size, groups=groups, use_bias=False, name="conv")
    inputs = keras.Input((8, 8, channels))
    model = keras.Model(inputs, layer(inputs))
    return Place(layer, calls(model), (), 0, (8, 8))


@pytest.mark.parametrize(
    ("scheme", "groups"),
    [
        (ShareChannels(arrangements=2), 1),
        (ShareChannels(groups=4, channel_repeats=2), 1),
        (ShareChannels(groups=4, channel_repeats=2, arrangements=2), 2),
    ],
)
def test_repeats_and_arrangements_are_least_squares_solutions(scheme, groups):
    """The stored kernel is the least squares solution of the layer's linear map, computed entry by entry."""
    place = make_place(8, 2, 16, groups)
    (change,), _ = proposals.propose(scheme, [place], {})
    layer = change.make("again")
    layer.build((None, 8, 8, 16))
    shape = layer.kernel.shape
    columns = []
    dense = ksn.layers.HighlySharedConv2D(8, 2, groups=groups)
    dense.build((None, 8, 8, 16))
    for entry in range(int(np.prod(shape))):
        unit = np.zeros(int(np.prod(shape)))
        unit[entry] = 1
        layer.kernel.assign(unit.reshape(shape))
        columns.append(_dense(layer).reshape(-1))
    dense.kernel.assign(place.kernel)
    expected = np.linalg.lstsq(np.stack(columns, axis=1), _dense(dense).reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(change.weights[0].reshape(-1), expected, atol=1e-6)


def _dense(layer):
    return keras.ops.convert_to_numpy(kernels.block_diagonal(layer.effective_kernel(), layer.groups))


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [3, 1, 2, 0], [1, 0, 1, -1]])
def test_collect_is_the_adjoint_of_expand(index):
    index, stored, kernel = np.reshape(index, (2, 2)), pseudo_random((4,)), pseudo_random((2, 2), 1)
    uses = np.eye(5)[index.reshape(-1)][:, :4]  # A negative index uses no stored weight.
    np.testing.assert_array_equal(shared_kernels.expand(stored, index), (uses @ stored).reshape(2, 2))
    np.testing.assert_allclose(shared_kernels.collect(kernel, index, 4), uses.T @ kernel.reshape(-1), rtol=1e-6)


@settings(max_examples=6)
@given(SEEDS, st.booleans())
def test_exact_shared_kernel_is_recovered(seed, blending):
    random = np.random.default_rng(seed)
    common = random.standard_normal((18, 4))
    mixes = random.standard_normal((3, 4, 4)) if blending else random.choice([-2.0, 0.5, 1.5], (3, 4))
    targets = [common @ mix if blending else common * mix for mix in mixes]
    index = np.arange(common.size).reshape(common.shape)
    for grams in (None, [second_moments(random, 18) for _ in targets]):
        mixing = "blend" if blending else "scale"
        fit = shared_kernels.fit_shared_kernel(targets, index, index.size, mixing=mixing, grams=grams)
        assert fit.error < 1e-8


def test_scales_without_a_sign_are_positive():
    """A normalization without a scale cannot change the sign: opposite kernels are then approximated worse."""
    kernel = np.random.default_rng(0).standard_normal((6, 3))
    targets, index = [2 * kernel, -kernel], np.arange(18).reshape(6, 3)
    signed, unsigned = (
        shared_kernels.fit_shared_kernel(targets, index, 18, mixing="scale", signed=each) for each in (True, False)
    )
    assert signed.error < 1e-8
    assert unsigned.error > 0.1
    assert min(mix.min() for mix in unsigned.mixes) > 0


def test_scales_are_balanced_and_mostly_positive():
    """The common kernel takes the size and the sign of the scales of each output."""
    mixes, index = [np.array([-2.0, 4.0]), np.array([-4.0, 3.0]), np.array([4.0, 0.0])], np.arange(6).reshape(3, 2)
    stored = np.arange(1.0, 7.0)
    balanced, scales = shared_kernels.balance_scales(stored, mixes, index, 6)
    np.testing.assert_allclose(np.mean(np.square(scales), axis=0), 1)
    np.testing.assert_array_equal(np.sign(scales), [[1, 1], [1, 1], [-1, 0]])
    for before, after in zip(mixes, scales, strict=True):
        np.testing.assert_allclose(balanced[index] * after, stored[index] * before)
