"""Memory planning: the order of operations, the offsets of tensors in the arena, and files with a stored plan."""

import itertools
import zipfile

import keras
import numpy as np
import pytest
from mobile_networks import NAMES, convert

import keras_sharenets as ksn
from keras_sharenets.mobile import export_tflite, size_report
from keras_sharenets.mobile.inspect import arena, file
from keras_sharenets.mobile.inspect.arena import Program, Step, arena_bytes, program_of, read_plan

KILO = 1024


def random_program(seed, count=6):
    """Steps that read one or two earlier values; those that read two may work in place."""
    random = np.random.default_rng(seed)
    steps, open_values = [], {0}
    for number in range(1, count + 1):
        read = random.choice(
            sorted({0, *range(max(0, number - 3), number)}), min(number, 1 + number % 2), replace=False
        )
        steps.append(Step(tuple(map(int, read)), (number,), len(read) == 2))
        open_values = (open_values | {number}) - set(map(int, read))
    steps.append(Step(tuple(sorted(open_values - {0})), (count + 1,)))
    sizes = {number: 16 * int(size) for number, size in enumerate(random.integers(1, 5, count + 2))}
    return Program(tuple(steps), sizes, (0,), (count + 1,))


def peak_memory(program, order, in_place):
    """Simulates the steps in order and frees each value after its last use; `None` if the order is invalid."""
    there, most = {0}, 0
    steps = [program.steps[number] for number in order]
    for number, step in enumerate(steps):
        if not there.issuperset(step.inputs):
            return None
        later = {value for other in steps[number + 1 :] for value in other.inputs} | set(program.outputs)
        (made,) = step.outputs
        over = [value for value in step.inputs if value not in later and program.sizes[value] == program.sizes[made]]
        saved = program.sizes[made] if in_place and step.in_place and over else 0
        there.add(made)
        most = max(most, sum(program.sizes[value] for value in there) - saved)
        there &= later
    return most


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_best_order_has_minimum_peak_memory(seed, in_place):
    program = random_program(seed)
    if not in_place:
        steps = tuple(Step(step.inputs, step.outputs) for step in program.steps)
        program = Program(steps, program.sizes, program.inputs, program.outputs)
    every = itertools.permutations(range(len(program.steps)))
    possible = [most for order in every if (most := peak_memory(program, order, in_place)) is not None]
    assert peak_memory(program, arena.best_order(program), in_place) == min(possible)
    assert min(possible) < max(possible)


def test_steps_are_not_reordered_without_a_benefit():
    """The first half determines the peak; a better order of the second half would not reduce it."""
    first = [Step((0,), (1,)), Step((0,), (2,)), Step((1, 2), (3,))]
    second = [Step((3,), (4,)), Step((3,), (5,)), Step((5,), (6,)), Step((4, 6), (7,))]
    sizes = {0: 640, 1: 640, 2: 640, 3: 32, 4: 64, 5: 128, 6: 16, 7: 16}
    program = Program((*first, *second), sizes, (0,), (7,))
    assert arena.best_order(program) == tuple(range(7))


@pytest.mark.parametrize("seed", range(6))
def test_values_with_overlapping_lifetimes_do_not_overlap_in_memory(seed):
    program = random_program(seed, count=24)
    offsets, lives, over = arena.best_offsets(program), arena.lifetimes(program), arena.overwritten(program)
    assert set(offsets) == set(program.sizes)
    for value, other in itertools.combinations(offsets, 2):
        together = lives[value][0] <= lives[other][1] and lives[other][0] <= lives[value][1]
        apart = offsets[value] + program.sizes[value] <= offsets[other]
        apart |= offsets[other] + program.sizes[other] <= offsets[value]
        # A value may reuse the memory of another one from the other's last use on.
        replaced = over.get(other) == value and lives[value][1] == lives[other][0] and offsets[value] == offsets[other]
        assert apart or replaced or not together


def test_outputs_are_not_overwritten():
    """Not even by the last step, as by the ReLU of a network that also returns its input."""
    steps = Step((0,), (1,), in_place=True), Step((1,), (2,), in_place=True)
    program = Program(steps, dict.fromkeys(range(3), 64), (0,), (1, 2))
    assert arena.overwritten(program) == {1: 0}
    offsets = arena.best_offsets(program)
    assert offsets[0] == offsets[1] != offsets[2]


def residual_network():
    """The first layers of `sl3_resnet_64` on 32x32 images, whose plan in the microcontroller interpreter is known."""
    steps, skip = [Step((0,), (1,)), Step((1,), (2,)), Step((2,), (3,))], 3
    for _ in range(3):
        number = steps[-1].outputs[0]
        steps += [Step((number,), (number + 1,)), Step((number + 1,), (number + 2,))]
        steps.append(Step((skip, number + 2), (number + 3,), in_place=True))
        skip = number + 3
    steps += [Step((skip,), (skip + 1,)), Step((skip + 1,), (skip + 2,))]
    sizes = {value: 64 * KILO for step in steps for value in step.outputs}
    return Program(tuple(steps), sizes | {0: 3 * KILO, 1: 3 * KILO, skip + 2: 16 * KILO}, (0,), (skip + 2,))


def test_arena_of_residual_network():
    """At most three values live at a time; the planner on the device places later values first and needs four."""
    program = residual_network()
    assert arena.peak_bytes(program) == 192 * KILO
    assert arena.arena_size(program.sizes, arena.micro_offsets(program)) == 256 * KILO
    assert arena.arena_size(program.sizes, arena.best_offsets(program)) == 192 * KILO


@pytest.fixture(scope="module")
def residual():
    """Two residual blocks that share one layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(16, 3, padding="same")(keras.layers.Rescaling(1 / 255)(inputs))
    shared = ksn.layers.HighlySharedConv2D(16, 3, groups=4, channel_repeats=2, arrangements=2)
    for _ in range(2):
        x = keras.layers.add([x, shared(keras.layers.ReLU()(shared(x)))])
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def test_prefer_memory_reduces_arena_without_changing_outputs(residual, digits):
    images, answers, parsed = digits[0][:16].astype("float32"), {}, {}
    for prefer in ("size", "speed", "memory"):
        data = convert(residual, images, quantization="int8", prefer=prefer)
        interpreter = file.open_bytes(data, "The file")
        (end,) = interpreter.get_output_details()
        (answers[prefer],) = file.run_examples(interpreter, (images,), [end["index"]])
        parsed[prefer] = file.parse(data)
    assert any(np.array_equal(answers["memory"], answers[other]) for other in ("size", "speed"))
    assert len(np.unique(answers["memory"])) > 10
    sizes = {prefer: arena_bytes(model) for prefer, model in parsed.items()}
    assert sizes["memory"] <= min(sizes["size"], sizes["speed"])
    assert sizes["memory"] < sizes["speed"]
    program, _ = program_of(parsed["memory"])
    plan = read_plan(parsed["memory"])
    assert set(plan) == set(program.sizes)
    assert not read_plan(parsed["speed"])
    assert all(offset % arena.ALIGNMENT == 0 for offset in plan.values())


def test_file_with_memory_plan_has_report_and_labels(trained, digits, tmp_path):
    images, path = digits[0][:32].astype("float32"), tmp_path / "net.tflite"
    report = export_tflite(
        trained, path, "int8", representative_data=images, class_names=NAMES, prefer="memory", input_type="int8"
    )
    assert report.prefer == "memory"
    assert report.arena_bytes == size_report(path).arena_bytes == arena_bytes(file.parse(path.read_bytes()))
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().split() == list(NAMES)
        # Bytes after the archive would shift its offsets for readers on phones.
        assert path.read_bytes().endswith(archive.comment)
    assert read_plan(file.parse(path.read_bytes()))


def test_dequantized_constants_are_not_counted_in_the_arena(trained, digits):
    """Constants in float16 and their float32 copies are constants."""
    sizes = [arena_bytes(file.parse(convert(trained, quantization=kind))) for kind in (None, "float16")]
    assert sizes[0] == sizes[1]
    half = convert(trained, quantization="float16", prefer="memory")
    plain = convert(trained, quantization="float16", prefer="speed")
    images = digits[0][:8]
    outputs = []
    for data in (half, plain):
        interpreter = file.open_bytes(data, "The file")
        outputs += file.run_examples(interpreter, (images,), [interpreter.get_output_details()[0]["index"]])
    np.testing.assert_allclose(*outputs, atol=1e-6)


def test_shared_float16_kernel_is_dequantized_before_its_first_call():
    """A layer called at three image sizes: the order of the calls determines the peak memory."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, padding="same")(x)
    shared = keras.layers.Conv2D(6, 3, padding="same", name="shared")
    sizes = [x, keras.layers.MaxPooling2D(2)(x), keras.layers.AveragePooling2D(4)(x)]
    maps = [keras.layers.Flatten()(keras.layers.Conv2D(3, 1)(shared(each))) for each in sizes]
    model = keras.Model(inputs, keras.layers.Concatenate()(maps))
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype("float32")
    orders, outputs = {}, {}
    for prefer in ("size", "memory"):
        data = convert(model, quantization="float16", prefer=prefer)
        parsed, interpreter = file.parse(data), file.open_bytes(data, "The file")
        made = [file.tensor_shape(parsed, end[0]) for name, _, end in file.operators(parsed) if name == "CONV_2D"]
        orders[prefer] = [shape[1] for shape in made if shape[-1] == 6]
        (outputs[prefer],) = file.run_examples(interpreter, (images,), [interpreter.get_output_details()[0]["index"]])
    assert sorted(orders["size"]) == sorted(orders["memory"]) == [4, 8, 16]
    assert orders["size"][0] != orders["memory"][0]
    np.testing.assert_allclose(outputs["memory"], outputs["size"], atol=1e-5)
    np.testing.assert_allclose(outputs["memory"], model(images), atol=0.02)
