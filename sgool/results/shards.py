"""Parts of a run (``trainer.shard``, SLURM array tasks), and the names of batches."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from sgool.errors import SgoolError


def part_of(shard: str, environ: Mapping[str, str]) -> tuple[int, int]:
    """Returns (part, parts), counted from 1, for a value of ``trainer.shard``.

    Args:
        shard: "PART/PARTS", or "auto": then a task of a SLURM array takes its place among the array's tasks, and any
            other process takes the whole run.
        environ: Environment variables.

    Raises:
        SgoolError: The part is larger than the number of parts, or the ids of the array's tasks are not evenly spaced.
    """
    if shard != "auto":
        part, parts = map(int, shard.split("/"))
        if part > parts:
            raise SgoolError(f"`trainer.shard`: expected a part of at most {parts}, got {shard}; parts count from 1")
        return part, parts
    if "SLURM_ARRAY_TASK_ID" not in environ:
        return 1, 1
    task, first, last, count = (
        int(environ.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", "0"), ("MIN", "0"), ("MAX", "0"), ("COUNT", "1"))
    )
    step = (last - first) // (count - 1) if count > 1 else 1
    if first + step * (count - 1) != last or (task - first) % max(step, 1):
        raise SgoolError(
            f"`trainer.shard`: expected a SLURM array of evenly spaced tasks, got {count} tasks from {first} to "
            f"{last}, so this task cannot tell its share. To finish what is left submit an array of any even size, "
            "or give each task its own trainer.shard=PART/PARTS"
        )
    return (task - first) // max(step, 1) + 1, count


def batch_name(pair_ids: Sequence[str]) -> str:
    """Returns the file name of a batch, which is the same in every start; for a single pair it is the pair's id."""
    if len(pair_ids) == 1:
        return pair_ids[0]
    digest = hashlib.sha256("\n".join(pair_ids).encode()).hexdigest()[:8]
    return f"{pair_ids[0]}+{len(pair_ids) - 1}-{digest}"
