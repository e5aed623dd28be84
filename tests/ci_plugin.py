"""Pytest plugin, on through ``-p`` in pyproject.toml: in CI, a test may not be skipped for want of a program."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator

import pytest

_MISSING = "missing program: "


def require_program(name: str, package: str | None = None) -> str:
    """The path of a program; without it the test is skipped, and fails where CI=true.

    Args:
        name: As called on the command line.
        package: Debian package that has it, if of another name.
    """
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{_MISSING}{name} (apt-get install {package or name}; .ci/run should do it)")
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns such a skip into a failure, however the test expressed it (call, fixture or mark)."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple) and os.environ.get("CI", "").lower() == "true":
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason.startswith(_MISSING):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: skipped for want of a program, which CI must have: {reason}"
    return report
