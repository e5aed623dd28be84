"""A study's server in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from sgool.study import Study
from sgool.study.server import StudyServer


@contextmanager
def serving(study: Study, **options: Any) -> Iterator[StudyServer]:
    """Serves until the end of the block."""
    made = StudyServer(study, **options)
    thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
