"""The command that seeds faults into the library, on a small tree; and whether its faults still match the source."""

import subprocess

import pytest

from tools.faults import FAULTS
from tools.seeded_faults import PASSED, ROOT, Fault, copy_tree, find, run_tests, seeded, verdict

ROOMS = {"ops", "layers", "models", "analysis", "export", "compress", "training", "search"}
DOUBLE = Fault("ops", "return 2 * x", "return 3 * x", ("tests/test_double.py",))
IDLE = Fault("ops", "# a remark", "# another remark", ("tests/test_double.py::test_double",))


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "keras_sharenets").mkdir()
    (tmp_path / "keras_sharenets" / "__init__.py").write_text("")
    (tmp_path / "keras_sharenets" / "double.py").write_text("# a remark\ndef double(x):\n    return 2 * x\n")
    test = "from keras_sharenets.double import double\n\n\ndef test_double():\n    assert double(2) == 4\n"
    (tmp_path / "tests" / "test_double.py").write_text(test)
    return tmp_path


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_matches_its_source_and_tests(name):
    fault = FAULTS[name]
    find(ROOT, fault)
    assert fault.tests
    for test in fault.tests:
        file, _, function = test.partition("::")
        assert f"\ndef {function.partition('[')[0]}" in (ROOT / file).read_text(), test


def test_slow_tests_catch_no_fault(request):
    """They do not run in `make test`; neither does a case that no longer exists."""
    running = [item.nodeid for item in request.session.items]
    if len({node.partition("::")[0] for node in running}) < 200 or request.config.option.keyword:
        pytest.skip("needs a run of the whole suite")
    for name, fault in FAULTS.items():
        for test in fault.tests:
            assert any(node == test or node.startswith((f"{test}[", f"{test}::")) for node in running), (name, test)


def test_every_package_has_faults():
    assert {fault.room for fault in FAULTS.values()} == ROOMS
    assert len({(fault.old, fault.new) for fault in FAULTS.values()}) == len(FAULTS) >= 20


def test_a_fault_is_caught_and_goes_away_again(tree):
    before = (tree / "keras_sharenets" / "double.py").read_text()
    assert run_tests(tree, DOUBLE.tests)[0] == PASSED
    with seeded(tree, DOUBLE) as path:
        assert path.read_text() == before.replace("2 * x", "3 * x")
        assert verdict(*run_tests(tree, DOUBLE.tests)) == "caught: tests/test_double.py::test_double"
    assert path.read_text() == before
    with seeded(tree, IDLE):
        assert verdict(*run_tests(tree, IDLE.tests)) == "NOT CAUGHT"


def test_tests_that_do_not_run_catch_nothing(tree):
    with seeded(tree, Fault("ops", "return 2 * x", "return 2 *", DOUBLE.tests)):
        assert verdict(*run_tests(tree, DOUBLE.tests)).startswith("NOT CAUGHT: the tests ended with 2")
    assert verdict(*run_tests(tree, ["tests/test_gone.py"])).startswith("NOT CAUGHT: the tests ended with 4")


def test_a_missing_or_duplicate_line_is_named(tree):
    with pytest.raises(LookupError, match=r"'return 5 \* x' must stand in the library once, .* nowhere"):
        find(tree, Fault("ops", "return 5 * x", "return 6 * x", ()))
    (tree / "keras_sharenets" / "again.py").write_text("def again(x):\n    return 2 * x\n")
    with pytest.raises(LookupError, match=r"it stands in keras_sharenets/again.py, keras_sharenets/double.py"):
        find(tree, DOUBLE)


def test_the_copy_has_what_git_has_and_what_is_new(tree, tmp_path_factory):
    subprocess.run(["git", "init", "--quiet", str(tree)], check=True)
    (tree / ".gitignore").write_text("*.log\n")
    (tree / "noise.log").write_text("")
    target = tmp_path_factory.mktemp("copy")
    copy_tree(tree, target)
    copied = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    names = ("__init__", "double")
    assert copied == {".gitignore", "tests/test_double.py", *(f"keras_sharenets/{name}.py" for name in names)}
