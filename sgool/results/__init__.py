"""The run folder: what a run leaves behind, written so that a crash never leaves half a result."""

from sgool.results.compare import NOT_COMPARED
from sgool.results.facts import RunFacts
from sgool.results.folder import RunFolder
from sgool.results.records import RecordError
from sgool.results.scan import Scan

__all__ = ["NOT_COMPARED", "RecordError", "RunFacts", "RunFolder", "Scan"]
