from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgool.errors import SgoolError
from sgool.prompts.batches import in_batches, share
from sgool.results.shards import batch_name, part_of


@given(st.lists(st.integers(), max_size=40), st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))
def test_parts_and_ranks_share_everything_once(items: list[int], size: int, parts: int, ranks: int) -> None:
    batches = in_batches(list(enumerate(items)), size)
    shares = [share(share(batches, part, parts), rank, ranks) for part in range(parts) for rank in range(ranks)]
    assert sorted(item for mine in shares for batch in mine for item in batch) == list(enumerate(items))
    # Pairs have the same mates, however the batches are shared.
    assert all(batch in batches for mine in shares for batch in mine)
    assert max(map(len, shares)) - min(map(len, shares)) <= 2  # of two divisions, each uneven by one at most


def _array(task: int, first: int, last: int, count: int) -> dict[str, str]:
    names = {"ID": task, "MIN": first, "MAX": last, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}


@pytest.mark.parametrize(
    ("shard", "environ", "expected"),
    [
        ("auto", {}, (1, 1)),
        ("auto", {"SLURM_JOB_ID": "7"}, (1, 1)),
        ("2/4", _array(0, 0, 3, 4), (2, 4)),
        ("auto", _array(0, 0, 3, 4), (1, 4)),
        ("auto", _array(3, 0, 3, 4), (4, 4)),
        ("auto", _array(5, 1, 9, 3), (2, 3)),  # --array=1-9:4
        ("auto", _array(7, 7, 7, 1), (1, 1)),
    ],
)
def test_part_of(shard: str, environ: dict[str, str], expected: tuple[int, int]) -> None:
    assert part_of(shard, environ) == expected


def test_a_part_beyond_the_parts() -> None:
    with pytest.raises(SgoolError, match="expected a part of at most 4, got 5/4"):
        part_of("5/4", {})


@pytest.mark.parametrize("environ", [_array(5, 0, 7, 3), _array(2, 0, 4, 3) | {"SLURM_ARRAY_TASK_ID": "1"}])
def test_an_array_with_holes(environ: dict[str, str]) -> None:
    with pytest.raises(SgoolError, match=r"evenly spaced tasks.*trainer.shard=PART/PARTS"):
        part_of("auto", environ)


def test_names_of_batches() -> None:
    assert batch_name(["a-s0"]) == "a-s0"
    names = {batch_name(["a", "b"]), batch_name(["a", "c"]), batch_name(["a", "b", "c"]), batch_name(["a"])}
    assert len(names) == 4
    assert batch_name(["a", "b"]) == batch_name(["a", "b"])
