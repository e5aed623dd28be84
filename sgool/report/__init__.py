"""The report on one or more runs: tables, figures and a page with a gallery."""

from sgool.report.page import build_report
from sgool.report.stats import PairedDifference, paired_difference, summary_rows

__all__ = ["PairedDifference", "build_report", "paired_difference", "summary_rows"]
