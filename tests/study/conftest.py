"""A small study, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from sgool.study import Study, StudyOptions, build_study
from tests.fake_run import make_fake_run


@pytest.fixture(scope="session")
def study_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three methods on six pairs: 18 comparisons."""
    return make_fake_run(tmp_path_factory.mktemp("runs") / "run").path


@pytest.fixture(scope="session")
def study(study_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Read only."""
    return build_study([study_run], StudyOptions(per_rater=9, out=tmp_path_factory.mktemp("study")))
