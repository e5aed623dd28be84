"""Which pairs of a batch make no more updates, and what they had cost when they stopped."""

from __future__ import annotations

from sgool.diffusion import Chain


class StoppedPairs:
    """The part of `sgool.methods.LatentPairModule` that knows which pairs have failed, stopped or been put back."""

    batch_chain: Chain
    #: Pair index -> why it failed; failed pairs keep their last good latents.
    failures: dict[int, str]
    #: Pair index -> (update at which it was put back, what was not finite there).
    retries: dict[int, tuple[int, str]]
    #: Pair index -> (update at which it was stopped, network calls until then, backward passes until then).
    stopped: dict[int, tuple[int, int, int]]

    def stop(self, index: int, update: int) -> None:
        """Ends the updates of a pair at ``update``; what it costs ends here."""
        self.stopped[index] = (update, self.batch_chain.calls, self.batch_chain.network.backward_calls)

    def fail(self, index: int, update: int, reason: str) -> None:
        """Ends the updates of a pair that has failed, and keeps the reason."""
        self.failures[index] = reason
        self.stop(index, update)

    def is_stopped(self, index: int) -> bool:
        """Whether a pair has failed or was stopped: its latents stay."""
        return index in self.failures or index in self.stopped

    def is_held(self, index: int, update: int) -> bool:
        """Whether a pair makes no step at an update: it has stopped, or is put back by half of its last step."""
        return self.is_stopped(index) or (index in self.retries and self.retries[index][0] == update)

    def was_stopped_before(self, index: int, update: int) -> bool:
        """Whether a pair was stopped at an earlier update."""
        return index in self.stopped and self.stopped[index][0] < update
