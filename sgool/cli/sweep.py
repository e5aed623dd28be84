"""``sgool fit -m``: a run for each combination of choices, started by one of Hydra's launchers."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sgool.cli.base import USER_ERROR, print_config, show_error
from sgool.config.compose import config_folders, hydra_reads, search_path
from sgool.config.overrides import is_launch_setting
from sgool.config.quoting import hydra_quoted, without_references
from sgool.config.suggest import did_you_mean
from sgool.config.words import counted
from sgool.errors import ConfigError, SgoolError
from sgool.run.config import load_config, with_quoted_prompts
from sgool.run.interrupt import INTERRUPTED

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

_LONGEST_NAME = 100
#: How the names of launchers and sweepers that packages bring begin -> the package.
_PACKAGES = {
    "submitit": "hydra-submitit-launcher",
    "joblib": "hydra-joblib-launcher",
    "ray": "hydra-ray-launcher",
    "rq": "hydra-rq-launcher",
    "optuna": "hydra-optuna-sweeper",
    "ax": "hydra-ax-sweeper",
    "nevergrad": "hydra-nevergrad-sweeper",
}
#: Hydra's files lie in the folder around the runs; its logging is left out, since sgool shows its own progress.
_HYDRA = {
    "hydra/hydra_logging": "none",
    "hydra/job_logging": "none",
    "hydra.output_subdir": "null",
    "hydra.sweep.subdir": ".",
}


@dataclass(frozen=True)
class Command:
    """What ``sgool fit -m`` was called with.

    Attributes:
        lines: The overrides, some of them with several values, and Hydra's own (``hydra/launcher=...``).
        config_dir: As for ``sgool fit``.
        accept_changes: As for ``sgool fit``.
        debug: Whether errors show their traceback.
    """

    lines: tuple[str, ...]
    config_dir: str | None = None
    accept_changes: bool = False
    debug: bool = False

    @classmethod
    def of(cls, lines: Sequence[str], config_dir: Path | None, accept_changes: bool, debug: bool) -> Command:
        """Makes a command of the command line's arguments; other processes may carry it out."""
        place = None if config_dir is None else os.path.abspath(config_dir)
        return cls(tuple(with_quoted_prompts(lines)), place, accept_changes, debug)

    @property
    def ours(self) -> list[str]:
        """The overrides of the runs."""
        return [line for line in self.lines if not is_launch_setting(line)]

    @property
    def hydras(self) -> list[str]:
        """The overrides of Hydra's launcher and sweeper."""
        return [line for line in self.lines if is_launch_setting(line)]

    def launched_elsewhere(self) -> bool:
        """Whether another launcher than Hydra's own starts the runs, one that may use other machines."""
        return any(re.match(r"\+?hydra/launcher=(?!basic$)", line) for line in self.hydras)


def choices(command: Command) -> list[list[str]]:
    """Returns the overrides of each run: all combinations of the values, the last override's changing fastest.

    Raises:
        ConfigError: A range has no steps, or a value stands there twice.
    """
    options: dict[str, list[str]] = {}  # of overrides of one key the last one counts, as in Hydra's own sweeper
    for line in command.ours:
        override = _parsed(line, command)
        if override is None or not override.is_sweep_override():
            options[override.get_key_element() if override else line] = [line]
            continue
        if not override.is_discrete_sweep():
            raise ConfigError([f"`{line}`: expected values with commas, range(...) or glob(...), got an interval"])
        key = override.get_key_element()
        options[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        if len(set(options[key])) < len(options[key]):
            raise ConfigError([f"`{line}`: a value stands there twice; once is enough"])
    return [list(lines) for lines in itertools.product(*options.values())]


def swept_keys(command: Command) -> list[str]:
    """Returns the keys that have several values, without ``run_dir``."""
    swept = [override for line in command.ours if (override := _parsed(line, command)) and override.is_sweep_override()]
    return [key for override in swept if (key := override.get_key_element()) != "run_dir"]


def load(lines: Sequence[str], command: Command, swept: Sequence[str]) -> DictConfig:
    """Composes and checks the configuration of one run; its folder lies in the command's ``run_dir``.

    Args:
        lines: The run's overrides.
        command: The command that the run belongs to.
        swept: From `swept_keys`.

    Raises:
        ConfigError: It has problems.
    """
    from omegaconf import OmegaConf

    config = load_config(lines, command.config_dir)
    OmegaConf.set_readonly(config, False)
    if name := run_name(lines, swept):
        config.run_dir = without_references(f"{config.run_dir}/{name}")
    if command.launched_elsewhere() and config.trainer.shard == "auto":
        config.trainer.shard = "1/1"  # the launcher's array tasks are whole runs, no shares of one
    OmegaConf.set_readonly(config, True)
    return config


def run_name(lines: Sequence[str], swept: Sequence[str]) -> str:
    """Returns what tells a run from the others, as the name of its folder: ``optimization.lr=1,sampler=edict``.

    A hash follows where the values hold what no folder's name should. Empty: no key but ``run_dir`` has several values.
    """
    text = ",".join(line for line in lines if line.partition("=")[0] in swept)
    plain = re.sub(r"[^\w.=,+@-]+", "-", text, flags=re.ASCII)[:_LONGEST_NAME]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def load_all(command: Command) -> list[DictConfig]:
    """Composes and checks the configurations of all runs.

    Raises:
        ConfigError: Some have problems; it lists all of them, each once.
    """
    configs: list[DictConfig] = []
    problems: dict[str, None] = {}
    swept = swept_keys(command)
    for lines in choices(command):
        try:
            configs.append(load(lines, command, swept))
        except ConfigError as error:
            problems.update(dict.fromkeys(error.problems))
    if problems:
        raise ConfigError(list(problems))
    return configs


def launcher_problems(command: Command) -> list[str]:
    """Returns a sentence for each of Hydra's launchers or sweepers that is named but not installed."""
    from hydra.core.global_hydra import GlobalHydra

    problems = []
    folders = config_folders(command.config_dir)
    for line in command.hydras:
        group, _, name = line.lstrip("+").partition("=")
        if group not in ("hydra/launcher", "hydra/sweeper") or not name:
            continue
        with hydra_reads(folders):
            loader = GlobalHydra.instance().config_loader()
            known = loader.get_group_options(group, config_name="config", overrides=search_path(folders))
        if name not in known:
            package = next((package for start, package in _PACKAGES.items() if re.match(rf"{start}(_|$)", name)), None)
            mend = f"; it comes with a package: pip install {package}." if package else did_you_mean(name, known) or "."
            problems.append(f"`{group}`: there is no choice {name!r}{mend} Choices here: {', '.join(known)}.")
    return problems


def _checked(command: Command) -> list[DictConfig]:
    """Returns what `load_all` does, or raises its problems together with those of `launcher_problems`."""
    problems = launcher_problems(command)
    try:
        configs = load_all(command)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    return configs


def show_sweep(command: Command) -> int:
    """Prints the configurations of all runs, as YAML's documents, and returns exit code 0.

    Raises:
        ConfigError: Some have problems; it lists all of them, each once.
    """
    for config in _checked(command):
        typer.echo("---")
        print_config(config)
    return 0


def sweep(command: Command) -> int:
    """Makes all runs of a sweep with Hydra's launcher, or the one that ``hydra/launcher`` names.

    Runs that are done are skipped, as by ``sgool fit``; so the same command goes on with an interrupted sweep.

    Returns:
        The exit code: the worst of the runs'.

    Raises:
        ConfigError: A run's configuration has problems. Then none starts.
        SgoolError: Hydra or its launcher refuses.
    """
    from hydra.core.global_hydra import GlobalHydra

    configs = _checked(command)
    folders = [str(config.run_dir) for config in configs]
    place = Path(folders[0]).parent if len(folders) > 1 else Path(folders[0])
    quiet = _is_helper()
    if not quiet:
        typer.echo(f"{counted(len(configs), 'run')}: {', '.join(folders)}")
    own = {**_HYDRA, "hydra.sweep.dir": hydra_quoted(os.path.abspath(place))}
    given = {line.partition("=")[0].lstrip("+") for line in command.hydras}
    settings = [f"{key}={value}" for key, value in own.items() if key not in given]
    folders_of_hydra = config_folders(command.config_dir)
    with hydra_reads(folders_of_hydra):
        overrides = [*command.ours, *search_path(folders_of_hydra), *settings, *command.hydras]
        returned = GlobalHydra.instance().hydra.multirun("config", Run(command), overrides)  # type: ignore[union-attr]
    if not quiet:
        typer.echo(f"all runs together: sgool report {' '.join(map(shlex.quote, folders))}")
    codes = [job.return_value for batch in returned or () for job in batch]
    return max((code for code in codes if isinstance(code, int)), default=0)


@dataclass(frozen=True)
class Run:
    """One run of a sweep, as Hydra's launchers call it: here, or in a job on another machine."""

    command: Command

    def __call__(self, _: Any) -> int:
        """Makes the run and returns its exit code.

        Raises:
            SystemExit: A signal has interrupted it; then the runs after it do not start here.
        """
        from hydra.core.hydra_config import HydraConfig

        from sgool.cli.console import ConsoleProgress, print_outcome
        from sgool.run.fit import run_experiment

        lines = list(HydraConfig.get().overrides.task)
        try:
            config = load(lines, self.command, swept_keys(self.command))
            with ConsoleProgress() as progress:
                if not _is_helper():
                    progress.console.print(f"\n{config.run_dir}", markup=False, soft_wrap=True)
                outcome = run_experiment(config, progress, accept_changes=self.command.accept_changes)
            if outcome.rank == 0 and not _is_helper():
                print_outcome(outcome, progress.console)
        except SgoolError as error:
            if self.command.debug:
                raise
            show_error(error)
            return USER_ERROR
        if outcome.exit_code == INTERRUPTED:
            raise SystemExit(INTERRUPTED)
        return outcome.exit_code


def _parsed(line: str, command: Command) -> Override | None:
    """Reads an override; None if it cannot be read, which `load_config` reports."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        with hydra_reads(config_folders(command.config_dir)):
            loader = GlobalHydra.instance().config_loader()
            return OverridesParser.create(config_loader=loader).parse_overrides([line])[0]
    except (HydraException, ConfigError):
        return None


def _is_helper() -> bool:
    """Whether a run over several devices has started this process, which goes through the whole sweep to get there."""
    if "SGOOL_RUN_OF_PARENT" not in os.environ:
        return False
    from sgool.run.world import is_launched

    return is_launched()
