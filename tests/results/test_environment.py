"""Provenance: the commit is that of the checkout itself, and a machine always has a name."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sgool.results.environment import describe_environment, device_name, git_commit


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_of_a_checkout_and_its_changes(tmp_path: Path) -> None:
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None  # no commit yet
    (tmp_path / "file").write_text("1")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert git_commit(tmp_path) == f"{commit}+changes"


def test_no_commit_of_somebody_elses_checkout(tmp_path: Path) -> None:
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    inside = tmp_path / "site-packages"
    inside.mkdir()
    assert git_commit(inside) is None
    assert git_commit(tmp_path / "missing") is None


def test_no_git(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit(tmp_path) is None


def test_device_has_a_name() -> None:
    assert device_name()
    assert describe_environment()["device"] == device_name()
    assert describe_environment("a device")["device"] == "a device"
    assert describe_environment("a device")["cpu_count"] >= 1
