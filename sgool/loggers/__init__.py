"""Where a run's curves, scores and images go beside its run folder: CSV files, or Weights & Biases."""

from sgool.loggers.logs import RunLogs
from sgool.loggers.make_up import make_up_logs
from sgool.loggers.process import Process
from sgool.loggers.wandb_login import check_logger

__all__ = ["Process", "RunLogs", "check_logger", "make_up_logs"]
