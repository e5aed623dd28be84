"""SLURM: a run's configuration becomes a batch script that survives time limits, and is submitted."""

from __future__ import annotations

from sgool.run.slurm.script import Resources, batch_script
from sgool.run.slurm.submit import Submission, prepare, submit

__all__ = ["Resources", "Submission", "batch_script", "prepare", "submit"]
