"""Tables and the gallery page of one or more runs."""

from sgool.report.page import build_report
from sgool.report.stats import PairedDifference, paired_difference, summary_rows

__all__ = ["PairedDifference", "build_report", "paired_difference", "summary_rows"]
