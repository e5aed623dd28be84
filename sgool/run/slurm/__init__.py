"""SLURM: makes a batch script of a run, which goes on after time limits, and submits it."""

from __future__ import annotations

from sgool.run.slurm.script import Resources, batch_script
from sgool.run.slurm.submit import Submission, prepare, submit

__all__ = ["Resources", "Submission", "batch_script", "prepare", "submit"]
