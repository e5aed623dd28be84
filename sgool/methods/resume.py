"""Our part of a Lightning checkpoint, and the checks whether a fit can go on from one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from sgool.callbacks import BatchCheckpoint
from sgool.config.words import counted
from sgool.errors import SgoolError
from sgool.types import PromptSeed

#: Where an object's text says where it lies in memory.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_STAGES = {"predict": "prediction", "test": "test"}
_SAME = "use the same prompts, seeds, pairs_per_fit and num_optimization_steps, or start without a checkpoint"


def saved(module: Any) -> dict[str, Any]:
    """Returns what a `LatentPairModule` adds to a checkpoint: its data, and the batch under way."""
    batch = module.batch
    under_way = batch is not None and not batch.is_over and not module.in_update
    return {
        "ranks": getattr(module.trainer.strategy, "num_pair_ranks", 1),
        "data": _data_of(module),
        # An exception or a signal may make Lightning save where the latents have moved and their update is not done.
        "in_update": module.in_update,
        "pairs": {**module.batch_state(), "seconds": module.seconds, "columns": _columns(module)}
        if under_way
        else None,
    }


def columns_of(pair: PromptSeed) -> str:
    """Returns a pair's other columns (`PromptSeed.metadata`) as a text that is the same in every process.

    Targets may depend on them: the questions about an image, its class, what a saliency map looks for.
    """
    return json.dumps(_plain(pair.metadata), sort_keys=True)


def resumed(module: Any, checkpoint: dict[str, Any]) -> Mapping[str, Any] | None:
    """Returns the batch under way in a checkpoint; None if it was written between two batches.

    Raises:
        SgoolError: The checkpoint is of several processes, of other data, or from the middle of an update.
    """
    ranks = max(checkpoint.get("ranks", 1), getattr(module.trainer.strategy, "num_pair_ranks", 1))
    if ranks > 1:
        raise SgoolError(
            f"`ckpt_path`: expected a checkpoint of one process, got one of {ranks}: it holds the pairs of one of "
            "them alone; `sgool fit` continues runs of several devices"
        )
    if checkpoint["in_update"]:
        raise SgoolError(
            "`ckpt_path`: the checkpoint was written in the middle of an update, where an exception or a signal ended "
            "the fit; use one that was written before, or start without a checkpoint"
        )
    own = _data_of(module)
    if checkpoint["data"] != own:
        raise SgoolError(
            f"`ckpt_path`: the checkpoint is of {_described(checkpoint['data'])}, and this fit is of "
            f"{_described(own)}; {_SAME}"
        )
    # Lightning takes an epoch whose last step is done for one whose end is done, and the means are logged there.
    checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
    state: Mapping[str, Any] | None = checkpoint["pairs"]
    return state


def check_batch(state: Mapping[str, Any], module: Any) -> None:
    """Checks that the data module serves the batch of a checkpoint, at its next update.

    Raises:
        SgoolError: It does not: its batches come from somewhere else than the order of its pairs, or the pairs have
            other columns now.
    """
    expected = [pair.pair_id for pair in module.pairs]
    if state["pairs"] != expected or state["update"] != module.update:
        raise SgoolError(
            f"`ckpt_path`: the checkpoint is of the pairs {', '.join(state['pairs'])} after {state['update']} updates, "
            f"and the data module serves {', '.join(expected)} at update {module.update}; {_SAME}"
        )
    own = _columns(module)
    if state.get("columns", own) != own:  # a file of an earlier version has none
        was = dict(zip(expected, state["columns"], strict=True))
        name, now = next((name, text) for name, text in zip(expected, own, strict=True) if was[name] != text)
        raise SgoolError(
            f"`ckpt_path`: the pair {name} has other columns than at the checkpoint: was {was[name][:200]}, is "
            f"{now[:200]}; use the same prompt file, or start without a checkpoint"
        )


def warn_of_unfinished(module: Any, stage: str = "fit") -> None:
    """Warns where a fit, prediction or test ends in the middle of a batch and keeps no checkpoint of it itself."""
    batch, trainer = module.batch, module.trainer
    kept = any(isinstance(callback, BatchCheckpoint) for callback in trainer.callbacks)
    if batch is None or batch.is_over or kept or trainer.fast_dev_run:
        return
    made, pairs = f"{batch.update + 1} of {batch.updates}", counted(len(batch.pairs), "pair")
    if stage == "fit":
        rank_zero_warn(
            f"the fit ended after update {made} of {pairs}, which leaves them without a result: go on with ckpt_path, "
            "or let the fit make a multiple of num_optimization_steps"
        )
        return
    rank_zero_warn(
        f"the {_STAGES[stage]} ended after round {made} of {pairs}, which leaves them without a result: leave "
        f"limit_{stage}_batches out, or raise it to a multiple of {batch.updates} (it counts rounds, not pairs)"
    )


def _data_of(module: Any) -> dict[str, Any]:
    """What decides on which update of which pairs comes when."""
    pairs = module.all_pairs
    ids = "\n".join(pair.pair_id for pair in pairs)
    return {
        "pairs": len(pairs),
        "digest": hashlib.sha256(ids.encode()).hexdigest()[:12],
        "pairs_per_fit": module.pairs_per_fit,
        "updates": module.num_optimization_steps,
    }


def _described(data: Mapping[str, Any]) -> str:
    return (
        f"{data['pairs']} pairs (digest {data['digest']}), {data['pairs_per_fit']} side by side, {data['updates']} "
        "updates each"
    )


def _columns(module: Any) -> list[str]:
    return [columns_of(pair) for pair in module.pairs]


def _plain(value: Any) -> Any:
    """A value of a column in JSON's types."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (set, frozenset)):  # in another order in each process
        return sorted(json.dumps(_plain(entry), sort_keys=True) for entry in value)
    if hasattr(value, "tolist"):  # of NumPy and torch
        return _plain(value.tolist())
    return _ADDRESS.sub("", repr(value))
