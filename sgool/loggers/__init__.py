"""Where a run's curves, scores and images go beside its run folder: CSV files, or Weights & Biases.

The names below are imported from their modules on first use: `sgool.loggers.options` needs no run folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgool.config.lazy import lazy_exports

if TYPE_CHECKING:
    from sgool.loggers.logs import RunLogs as RunLogs
    from sgool.loggers.make_up import make_up_logs as make_up_logs
    from sgool.loggers.process import Process as Process
    from sgool.loggers.wandb_login import check_logger as check_logger

_MODULES = {"Process": "process", "RunLogs": "logs", "check_logger": "wandb_login", "make_up_logs": "make_up"}

__all__ = ["Process", "RunLogs", "check_logger", "make_up_logs"]

__getattr__ = lazy_exports(__name__, _MODULES)
