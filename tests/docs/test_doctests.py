"""The examples in the docstrings of the public names run, as a reader would paste them."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

import sgool

NAMES = [name for name in sgool.__all__ if not name.startswith("__")]


def examples(name: str) -> doctest.DocTest:
    """The examples of a public name, with nothing imported: they stand on their own."""
    text = getattr(sgool, name).__doc__
    return doctest.DocTestParser().get_doctest(text, {}, f"sgool.{name}", None, None)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    test = examples(name)
    assert any(example.want for example in test.examples), f"sgool.{name} has no example with a result"
    found: list[str] = []
    failures = doctest.DocTestRunner(verbose=False).run(test, out=found.append).failed
    assert failures == 0, "\n".join(found)
    # The site shows a section of this name as code, and one called "Example:" as prose.
    assert re.search(r"^ *Examples:$", getattr(sgool, name).__doc__, re.MULTILINE)
