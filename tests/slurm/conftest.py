"""A SLURM cluster for the tests that need one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.ci_plugin import require_program
from tests.slurm.cluster import Cluster, run_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A private cluster of two nodes, stopped when the tests end, however they end."""
    with pytest.MonkeyPatch.context() as patch:
        # The daemons' folder is not on every user's path.
        patch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin")
        require_program("munged", "munge")
        for name in ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel"):
            require_program(name, "slurm-wlm")
        with run_cluster(nodes=2, cpus=2) as running:
            yield running
