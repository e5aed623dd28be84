"""What every method looks at where one of the Trainer's loops begins and where it ends."""

from __future__ import annotations

import lightning as L

from sgool.methods.resume import warn_of_unfinished
from sgool.methods.trainer_checks import check_loader


class CheckedLoops(L.LightningModule):
    """A module that refuses plain data loaders, and warns of pairs that a loop leaves in the middle of their work."""

    def on_train_start(self) -> None:
        """Refuses a plain data loader before the first network call."""
        check_loader(self.trainer.train_dataloader)

    def on_predict_start(self) -> None:
        """Refuses a plain data loader before the first network call."""
        check_loader(self.trainer.predict_dataloaders)

    def on_test_start(self) -> None:
        """Refuses a plain data loader before the first network call."""
        check_loader(self.trainer.test_dataloaders)

    def on_train_end(self) -> None:
        """Warns of pairs that a switch of the Trainer (``limit_train_batches``, ...) has left without a result."""
        warn_of_unfinished(self, "fit")

    def on_predict_end(self) -> None:
        """Warns of pairs that ``limit_predict_batches`` has left without a result."""
        warn_of_unfinished(self, "predict")

    def on_test_end(self) -> None:
        """Warns of pairs that ``limit_test_batches`` has left without a result."""
        warn_of_unfinished(self, "test")
