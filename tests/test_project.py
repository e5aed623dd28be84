"""The project's files agree with each other."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sgool

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _requirements() -> dict[str, Requirement]:
    lines = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["dev"]]
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def _tested() -> dict[str, Requirement]:
    lines = (ROOT / "constraints" / "tested.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def _tested_version(name: str) -> str:
    return str(_tested()[name].specifier).removeprefix("==")


def test_every_dependency_has_a_tested_release_within_its_bounds() -> None:
    required = _requirements()
    assert [name for name in required if name not in _tested()] == []
    assert [name for name, need in required.items() if not need.specifier.contains(_tested_version(name))] == []


def test_every_tested_release_is_exact() -> None:
    assert [name for name, need in _tested().items() if not re.fullmatch(r"==[\d.]+", str(need.specifier))] == []


def test_dependencies_have_lower_bounds_and_no_upper_ones() -> None:
    operators = {name: {s.operator for s in need.specifier} for name, need in _requirements().items()}
    assert [name for name, found in operators.items() if found - {">="}] == []
    runtime = [canonicalize_name(Requirement(line).name) for line in PROJECT["project"]["dependencies"]]
    assert [name for name in runtime if not operators[name]] == []


def test_torch_and_torchvision_match() -> None:
    """torchvision 0.N belongs to torch 2.(N - 15): the numbers have moved in step since torch 2.0."""
    torch, vision = _tested_version("torch").split("."), _tested_version("torchvision").split(".")
    assert (int(vision[1]) - int(torch[1]), vision[2]) == (15, torch[2])


def test_the_installed_version_is_the_source_s() -> None:
    from importlib import metadata

    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", sgool.__version__)
    installed = [dist.version for dist in metadata.distributions(name="sgool")]
    assert all(version == sgool.__version__ for version in installed)


def test_the_changelog_has_the_changes_to_come() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}$", text, flags=re.MULTILINE)
    assert released == sorted(released, key=lambda version: [int(part) for part in version.split(".")], reverse=True)


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == sgool.__version__
    assert (citation["license"], citation["cff-version"]) == (PROJECT["project"]["license"], "1.2.0")


def test_workflows_call_what_the_makefile_has() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*)(?=[ :])", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for file in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
        steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
        makes = [shlex.split(command) for step in steps for command in step.splitlines() if "make " in command]
        called = {word for words in makes for word in words[words.index("make") + 1 :] if "=" not in word}
        assert called <= targets, file.name
        assert called or file.name != "test.yml"


def test_every_python_of_the_classifiers_is_tested_by_a_workflow() -> None:
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    prefix = "Programming Language :: Python :: 3."
    pythons = {item.removeprefix(prefix[:-2]) for item in PROJECT["project"]["classifiers"] if item.startswith(prefix)}
    assert pythons == set(re.findall(r'"(3\.\d+)"', text))


@pytest.mark.parametrize("name", sgool.__all__)
def test_every_export_exists(name: str) -> None:
    assert getattr(sgool, name) is not None
    assert name in dir(sgool)


def test_an_unknown_export_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'sgool' has no attribute 'load_modles'"):
        sgool.load_modles  # noqa: B018 - the access is the test


def test_the_licence_and_its_notices_are_there() -> None:
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for words in (
        "Noto Emoji",
        "Google",
        "emoji-datasource-google 16.0.0",
        "MIT License",
        "not part of this repository",
    ):
        assert words in notice
    assert (ROOT / "sgool" / "py.typed").is_file()


@pytest.mark.parametrize("target", ["demo", "docs", "test", "test-slow", "lint", "format", "bench", "clean", "help"])
def test_make_targets(target: str) -> None:
    """A dry run: make understands the target, and what it would install follows CONSTRAINTS."""
    make = ["make", "--dry-run", "--no-print-directory", "VENV=/nowhere/venv", target]
    tested = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, timeout=60)
    free = subprocess.run([*make, "CONSTRAINTS="], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (tested.returncode, free.returncode) == (0, 0), tested.stderr + free.stderr
    installs = "pip install" in tested.stdout
    assert installs == (target not in ("clean", "help"))
    assert ("--constraint constraints/tested.txt" in tested.stdout) == installs
    assert "--constraint" not in free.stdout


def test_tests_reach_for_no_network(tmp_path: Path) -> None:
    """With a stand-in for Python: what does make give to pytest?"""
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text('#!/bin/sh\necho "$HF_HUB_OFFLINE $WANDB_MODE $*"\n', encoding="utf-8")
    (folder / "python").chmod(0o755)
    make = ["make", "--no-print-directory", f"VENV={folder.parent}", "test"]
    result = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "1 offline -m pytest -m not slow" in result.stdout


def test_the_help_counts_the_demo_s_prompts() -> None:
    from sgool.prompts import read_prompts

    assert len(read_prompts("emoji_world/demo")) == 8
    assert "repair eight prompts" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_a_half_made_environment_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (tmp_path / "bin" / "python").chmod(0o755)
    make = ["make", "--no-print-directory", f"VENV={tmp_path}", "PYTHON=echo made", "install"]
    result = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert f"made -m venv --clear {tmp_path}" in result.stdout and result.returncode != 0


def test_the_ci_script_is_sound() -> None:
    script = ROOT / ".ci" / "run"
    assert subprocess.run(["bash", "-n", str(script)], timeout=60).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert "make lint" in text and "make test" in text
