import json

import keras
import numpy as np
import pytest
from few_layers import tiny_network, unshared_counts
from harness import assert_close, counts_only, pseudo_random, slow_after

import keras_sharenets as ksn
from benchmarks import peers, training, workloads
from benchmarks.cli import main
from benchmarks.peers import Contender, beside
from keras_sharenets.analysis.graph import calls
from keras_sharenets.timing import take_turns

QUICK = "hscnet_m32_g4_r2_b1_a2"
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="convolutions of TensorFlow")
SHARED = {
    "hscnet": lambda: ksn.create_model(QUICK),
    "hscnet of three modules": lambda: ksn.models.HSCNet(
        width=(16, 32), groups=2, channel_repeats=2, blocks_per_stage=(1, 3), star=True, input_shape=(8, 8, 3)
    ),
    "sharesnet": lambda: ksn.models.PreActResNet(depth=29, width=4, share="rest", input_shape=(8, 8, 3)),
    "shardnet": lambda: ksn.models.ShardResNet(width=8, blocks_per_stage=1, input_shape=(8, 8, 3)),
}


# By default: every kind of module, and shared layers.
FEW = ("hscnet of three modules",)


def unshared_module(channels, width, pixels_in, pixels_out, groups):
    """`(normalized channels, [(weights, pixels) of every convolution])` of a transition, from the paper."""
    hidden = width // 2
    spatial = [(9 * hidden * hidden // groups, pixels_out), (hidden * hidden // groups, pixels_out)]
    dense = [(channels * width, pixels_out), (channels * hidden, pixels_in)]
    dense += 2 * [(hidden * width, pixels_out)] + [(width * hidden, pixels_out)]
    return channels + width + 4 * hidden, dense + 2 * spatial


def unshared_quick():
    """`(trainable weights, moving statistics, multiply-adds)` of the unshared baseline of `QUICK`."""
    normalized, convolutions, channels, pixels = 128, [(9 * 3 * 16, 32 * 32)], 16, 32 * 32
    for width in (32, 64, 128):
        pixels_out = 32 * 32 // (width // 32) ** 2
        numbers, more = unshared_module(channels, width, pixels, pixels_out, groups=4)
        normalized, convolutions = normalized + numbers, convolutions + more
        channels, pixels = width, pixels_out
    weights = sum(count for count, _ in convolutions) + 2 * normalized + 129 * 10
    return weights, 2 * normalized, sum(count * places for count, places in convolutions) + 128 * 10


@pytest.fixture(scope="module", params=["tiny", pytest.param("named", marks=pytest.mark.slow)])
def quick(request, tmp_path_factory):
    """The output of `training --quick`, the times, and the counts of the unshared baseline.

    Peak memory is computed once in this process instead of new ones. By default, a tiny network replaces the named one.
    """
    folder, done, times = tmp_path_factory.mktemp("training"), [], {}

    def peak_memory(function, *given):
        if not done:
            done.append(function(*given))
        return 4321

    def turns(calls, *given, **options):
        times.update(take_turns(calls, *given, **options))
        return times

    with pytest.MonkeyPatch.context() as patch:
        if request.param == "tiny":
            patch.setattr(ksn, "create_model", tiny_network)
            patch.setitem(peers.MAKES, "", tiny_network)
        patch.setattr(training.timing, "peak_memory", peak_memory)
        patch.setattr(training, "take_turns", turns)
        assert main(["training", "--quick", "--memory", "--batch-size", "3", "--output", str(folder)]) == 0
    return folder, times, unshared_counts() if request.param == "tiny" else unshared_quick()


def test_table(quick):
    folder, times, (weights, statistics, products) = quick
    rows = json.loads((folder / "training.json").read_text())["rows"]
    references = ["reference"] if keras.backend.backend() == "tensorflow" else []
    assert [row["contender"] for row in rows] == [QUICK, *references, "unshared"]
    assert [row["peer"] for row in rows] == [False, *[True for _ in rows[1:]]]
    for row in rows:
        assert row["multiply_adds"] == products
        # The forward pass and the gradients of inputs and weights, for three images.
        assert row["multiply_adds_per_second"] == pytest.approx(9 * products / (row["milliseconds"] / 1000))
        assert row["ratio"] == pytest.approx(np.median(np.divide(times[row["contender"]], times[QUICK])))
        assert row["to_peer"] == pytest.approx(np.median(np.divide(times[QUICK], times[row["contender"]])))
        assert row["peak_memory_bytes"] == 4321
        assert row["paper_training"] is row["paper_test"] is None
    assert len({round(row["multiply_adds_per_second"] / row["share_of_peak"]) for row in rows}) == 1
    for row in rows[1:]:
        assert row["weight_bytes"] == 4 * (weights + statistics)
        # A momentum for every weight, and a few values such as the learning rate.
        assert 0 <= row["optimizer_bytes"] - 4 * weights < 32
    assert rows[0]["weight_bytes"] < rows[1]["weight_bytes"]
    assert rows[0]["ratio"] == rows[0]["to_peer"] == 1
    assert {row["compiled_text"] for row in rows} == {"no" if references else "yes"}


def test_claims_of_the_table(quick):
    folder, *_ = quick
    made = json.loads((folder / "training.json").read_text())["claims"]
    assert [claim["text"].split()[0] for claim in made] == ["step", "weight", "optimizer"]
    assert all(claim["holds"] for claim in made[1:])
    assert "| weight bytes: network / baseline |" in (folder / "training.md").read_text()
    assert (folder / "training.png").stat().st_size > 1000


def copy_weights(model, baseline):
    """Sets the weights of a baseline so that it has the same outputs as the network."""
    for call, same in zip(calls(model), calls(baseline), strict=True):
        if hasattr(call.operation, "effective_kernel"):
            same.operation.set_weights([keras.ops.convert_to_numpy(call.operation.effective_kernel())])
        elif getattr(call.operation, "weights", ()):
            same.operation.set_weights(call.operation.get_weights())


@pytest.mark.parametrize("make", ["unshared", pytest.param("reference", marks=[on_tensorflow, pytest.mark.slow])])
@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in FEW else pytest.mark.slow) for name in SHARED])
def test_baseline_matches_the_network_with_more_weights(name, make):
    if make == "reference" and not name.startswith("hscnet"):
        pytest.skip("only HSC-Net has a reference")
    model = SHARED[name]()
    model.compile("sgd", "mse")
    baseline = getattr(peers, make)(model)
    assert len({id(call.operation) for call in calls(baseline)}) == len(calls(baseline))
    assert [call.output_shapes for call in calls(baseline)] == [call.output_shapes for call in calls(model)]
    copy_weights(model, baseline)
    images = pseudo_random((4, *model.input_shape[1:]))
    for training_mode in (False, True):
        outputs = [keras.ops.convert_to_numpy(network(images, training=training_mode)) for network in (baseline, model)]
        assert_close(*outputs, 1e-4)
    ours, theirs = ksn.profile(model), ksn.profile(baseline)
    assert theirs.stored_parameters == theirs.effective_parameters == ours.effective_parameters > ours.stored_parameters
    assert theirs.multiply_adds == ours.multiply_adds
    assert not baseline.compiled


def test_shares_layers():
    plain = ksn.models.PreActResNet(depth=29, width=4, share="none", input_shape=(8, 8, 3))
    assert not peers.shares_layers(plain)
    assert all(peers.shares_layers(SHARED[name]()) for name in ("sharesnet", "shardnet"))


def test_baseline_equals_the_network_built_without_sharing():
    model = SHARED["sharesnet"]()
    plain = ksn.models.PreActResNet(depth=29, width=4, share="none", input_shape=(8, 8, 3))
    assert [weight.shape for weight in peers.unshared(model).weights] == [weight.shape for weight in plain.weights]


@on_tensorflow
def test_reference_consists_of_keras_layers():
    kinds = {type(layer) for layer in peers.reference(SHARED["hscnet"]()).layers}
    assert {kind for kind in kinds if not kind.__module__.startswith("keras.")} == {peers.NativeConv2D}


def test_baseline_keeps_the_dtype_policy():
    model = Contender(QUICK, "unshared", "baseline").build("mixed_bfloat16")
    *rest, classifier = model.layers
    assert {layer.compute_dtype for layer in rest} == {"bfloat16"}
    assert classifier.compute_dtype == "float32"
    assert {weight.dtype for weight in model.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"


def test_dtype_policy_is_restored_after_an_error():
    with pytest.raises(ValueError, match="not a known model"):
        Contender("nothing").build("mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"


def test_training_step_uses_nesterov_momentum(monkeypatch):
    """A linear classifier of the channel means, compared with numpy."""
    inputs = keras.Input((4, 4, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5, activation="softmax", use_bias=False)(pooled))
    given, train = [], model.train_on_batch
    monkeypatch.setattr(model, "train_on_batch", lambda *batch: given.append(batch) or train(*batch))
    step = workloads.training_step(model, 6, jit_compile=False)
    kernel = model.get_weights()[0].astype("float64")
    start = kernel.copy()
    step()
    step()
    (images, labels), (images_again, labels_again) = given
    assert images is images_again
    assert labels is labels_again
    assert images.shape == (6, 4, 4, 3)
    assert labels.shape == (6,)
    means, momentum = images.astype("float64").mean((1, 2)), 0
    for _ in range(2):
        exponentials = np.exp(means @ kernel)
        error = exponentials / exponentials.sum(1, keepdims=True) - np.eye(5)[labels]
        change = -1e-4 * means.T @ error / 6
        momentum = 0.9 * momentum + change
        kernel = kernel + 0.9 * momentum + change
    np.testing.assert_allclose(model.get_weights()[0] - start, kernel - start, atol=0.02 * np.abs(kernel - start).max())


@on_tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_jit_compile_argument(jit_compile):
    model = Contender(QUICK).build()
    workloads.training_step(model, 2, jit_compile=jit_compile)
    assert model.jit_compile == jit_compile


def test_activation_bytes():
    inputs = keras.Input((6, 6, 3))
    x = keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D(dtype="float32")(x))
    assert workloads.activation_bytes(model, 5) == 5 * (2 * 4 * 4 * 4 + 4 * 4)


def test_contenders_of_a_network():
    mobile = ("mobilenet_v2_1_0", "igcv3_d_1_0", "shufflenet_v2_2_0")
    labels = [contender.label for contender in beside("hscnet_m96_g8_r4_a2", shared=True, references=True)]
    mobile_labels = [f"{peer}{suffix}" for peer in mobile for suffix in ("", ", 8x8")]
    assert labels == ["hscnet_m96_g8_r4_a2", "reference", "unshared", *mobile_labels]
    assert [contender.label for contender in beside(QUICK, shared=True, references=False)] == [QUICK, "unshared"]
    assert [contender.label for contender in beside("resnet_164", shared=False, references=True)] == ["resnet_164"]
    assert [contender.role for contender in beside("sha_wrn_40_4", shared=True, references=True)] == [
        "network",
        "baseline",
    ]
    assert peers.PAPER["igcv3_d_1_0"] == (3.24, 3.60)


@pytest.mark.slow
@counts_only
@pytest.mark.parametrize("name", sorted(peers.NAMED))
def test_named_peers(name):
    """A peer without the chain has fewer weights; the peers of IGC-V2 have about as many."""
    network, *others = beside(name, shared=False, references=True)
    assert {peer.role for peer in others} == {"peer"}
    stored = [ksn.profile(contender.build()).stored_parameters for contender in (network, *others)]
    for peer in stored[1:]:
        assert 0.65 < peer / stored[0] < 1.2


# For 224x224 pixels, the papers report 300.8, 313.0, and 583.3 million.
@counts_only
@pytest.mark.parametrize(
    ("name", "millions"),
    slow_after(1, [("mobilenet_v2_1_0", 297.7), ("igcv3_d_1_0", 311.8), ("shufflenet_v2_2_0", 742.2)]),
)
def test_later_strides_give_an_8x8_map(name, millions):
    model = Contender(name, "8x8").build()
    assert model.get_layer("pool").input.shape[1:3] == (8, 8)
    assert ksn.profile(model).multiply_adds / 1e6 == pytest.approx(millions, abs=0.1)


def make_row(network, role, to_peer=1.0, weight_bytes=100, optimizer_bytes=90):
    columns = {"weight_bytes": weight_bytes, "optimizer_bytes": optimizer_bytes}
    return {"network": network, "role": role, "to_peer": to_peer, **columns}


def test_claims():
    m96 = "hscnet_m96_g8_r4_a2"
    rows = [
        make_row(m96, "network"),
        make_row(m96, "reference", 0.7),
        make_row(m96, "baseline", 1.02, 200, 90),
        make_row(m96, "peer", 3.0),
    ]
    rows += [make_row(QUICK, "network"), make_row(QUICK, "reference", 0.9), make_row(QUICK, "baseline", 1.04, 125, 100)]
    made = [(claim.where, claim.value, claim.limit, claim.holds) for claim in training.claims(rows)]
    assert made == [
        (m96, 0.7, 0.62, False),
        (m96, 1.02, 1.03, True),
        (m96, 0.5, 0.99, True),
        (m96, 1.0, 0.99, False),
        (QUICK, 1.04, 1.03, False),
        (QUICK, 0.8, 0.99, True),
        (QUICK, 0.9, 0.99, True),
    ]


def test_options_are_passed_to_the_step(monkeypatch, tmp_path):
    measured = []
    monkeypatch.setattr(training, "measure", lambda name, **how: measured.append((name, how)) or [])
    monkeypatch.setattr(training.timing, "matmul_peak", lambda **_: 1.0)
    monkeypatch.setattr(training, "write", lambda *_: None)
    options = ["--mixed-precision", "--jit-compile", "true", "--batch-size", "5", "--repetitions", "4"]
    arguments = ["--models", QUICK, "vggnet", QUICK, *options, "--output", str(tmp_path)]
    assert main(["training", *arguments]) == 0
    how = {"batch_size": 5, "policy": "mixed_bfloat16", "jit_compile": True, "repetitions": 4, "memory": False}
    assert measured == [(QUICK, how), ("vggnet", how)]
