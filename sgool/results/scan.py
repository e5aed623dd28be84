"""Reads all records of a run folder, and leaves out those of pairs that are no longer in its data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sgool.results.records import RecordError, read_record
from sgool.types import DataIds, PairRecord

_SHOWN = 3


@dataclass(frozen=True)
class Scan:
    """What a run folder holds.

    Attributes:
        records: The valid records of pairs of the data set, by method and pair.
        problems: One sentence per record that is truncated or invalid (the pair counts as not done).
        unfinished: ``METHOD/PAIR_ID`` of begun pairs without a record: a runner works on them, or was interrupted.
        left_out: The valid records of pairs that are no longer in the data set, for example because a line was
            inserted into the prompt file; their files stay.
    """

    records: tuple[PairRecord, ...]
    problems: tuple[str, ...]
    unfinished: tuple[str, ...]
    left_out: tuple[PairRecord, ...] = ()

    def note(self, run_dir: Path) -> str:
        """Returns a sentence on the records that are left out; empty where there are none."""
        if not self.left_out:
            return ""
        names = [f"{record.method}/{record.pair_id}" for record in self.left_out]
        some = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        what = "1 record is of a pair" if len(names) == 1 else f"{len(names)} records are of pairs"
        return (
            f"{what} that the data set of {run_dir} no longer has, and left out of results, means and reports "
            f"({some}); nothing is deleted"
        )


def scan_folder(path: Path, dataset: DataIds | None) -> Scan:
    """Reads all records of a run folder.

    Args:
        path: The run folder.
        dataset: Which pairs count; None: all do.
    """
    records: list[PairRecord] = []
    left_out: list[PairRecord] = []
    problems = []
    for file in sorted(path.glob("pairs/*/*/record.json"), key=lambda file: file.parts[-3:]):
        known = dataset is None or file.parts[-2] in dataset
        try:
            (records if known else left_out).append(read_record(file))
        except FileNotFoundError:  # a retry has just removed it
            continue
        except RecordError as error:
            if known:
                problems.append(str(error))
    folders = [folder for folder in path.glob("pairs/*/*") if folder.is_dir()]
    unfinished = sorted(
        f"{folder.parent.name}/{folder.name}"
        for folder in folders
        if (dataset is None or folder.name in dataset) and not (folder / "record.json").exists()
    )
    return Scan(tuple(records), tuple(problems), tuple(unfinished), tuple(left_out))
