"""The human study: a blind page of pairwise choices, its server, and the scoring of the votes."""

from sgool.study.build import Study, StudyOptions, build_study
from sgool.study.results import study_results
from sgool.study.run import run_study
from sgool.study.server import serve_study
from sgool.study.show import results_json, show_results

__all__ = [
    "Study",
    "StudyOptions",
    "build_study",
    "results_json",
    "run_study",
    "serve_study",
    "show_results",
    "study_results",
]
