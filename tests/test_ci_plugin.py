"""In CI a missing program is a failure, elsewhere a skip."""

from __future__ import annotations

import pytest

from tests.ci_plugin import require_program

pytest_plugins = "pytester"

_TESTS = """
import shutil
import pytest
from tests.ci_plugin import require_program

def test_called():
    require_program("no-such-program", "some-package")

@pytest.fixture
def program():
    return require_program("no-such-program")

def test_fixture(program):
    pass

@pytest.mark.skipif(True, reason="missing program: no-such-program")
def test_mark():
    pass

def test_other_skip():
    pytest.skip("no accelerator")

def test_there():
    assert require_program("sh")
"""


@pytest.mark.parametrize(
    ("ci", "outcomes"),
    [("true", {"passed": 1, "skipped": 1, "failed": 1, "errors": 2}), ("", {"passed": 1, "skipped": 4})],
)
def test_skips_for_want_of_a_program(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, outcomes: dict[str, int]
) -> None:
    monkeypatch.setenv("CI", ci)
    pytester.makepyfile(_TESTS)
    result = pytester.runpytest_inprocess("-p", "tests.ci_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(**outcomes)
    if ci:
        result.stdout.fnmatch_lines("*no-such-program (apt-get install some-package; .ci/run should do it)*")


def test_a_program_that_is_there() -> None:
    assert require_program("sh").endswith("/sh")
