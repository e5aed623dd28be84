"""The run folder: it holds one configuration, and records that are written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgool.errors import SgoolError
from sgool.results.artifacts import ARTIFACTS, encode_artifacts, encode_pictures
from sgool.results.atomic import atomic_write, explain_os_errors, remove_leftovers, sync_folder
from sgool.results.claims import has_active_runner, sole_writer
from sgool.results.collate import collate
from sgool.results.compare import (
    NOT_COMPARED,
    changed_keys,
    config_digest,
    config_text,
    join_methods,
    plain_config,
    read_config,
    refuse_other_config,
)
from sgool.results.environment import describe_environment
from sgool.results.facts import RunFacts
from sgool.results.records import RecordError, encode_record, read_record
from sgool.results.scan import Scan, scan_folder
from sgool.types import PairRecord

if TYPE_CHECKING:
    from sgool.results.artifacts import Array

_logger = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEPT = "Finished pairs are kept: mend that and run the same command again."


class RunFolder(RunFacts):
    """The folder of a run, with its configuration, its records and their files.

    ::

        RUN/config.yaml  RUN/environment.json  RUN/metrics.json  RUN/networks.json
        RUN/pairs/METHOD/PAIR_ID/   initial.png final.png saliency.png history.csv latents.safetensors record.json
        RUN/results.csv

    Several processes may write different pairs of one folder at the same time.

    Args:
        path: The folder; it need not exist before ``open``.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        self._warned: set[str] = set()

    def open(
        self,
        config: Mapping[str, Any],
        *,
        device: str | None = None,
        not_compared: Sequence[str] = NOT_COMPARED,
        accept_changes: bool = False,
        complete: Callable[[dict[str, Any]], None] | None = None,
    ) -> RunFolder:
        """Make the folder for a configuration, or continue a folder that was made for the same one.

        Writes ``config.yaml`` and ``environment.json``. A continued folder gets the newest ``config.yaml`` (its methods
        joined with the earlier ones), and ``environment-HASH.json`` if it is continued in another environment.

        Args:
            config: The resolved configuration, plain or OmegaConf's.
            device: Name of the device for ``environment.json``; None: it is found out.
            not_compared: Dotted keys that may change between runs in one folder.
            accept_changes: Continue with another configuration; the earlier one is kept as ``config-HASH.yaml``.
            complete: Adds to the folder's configuration, in place, the defaults of keys that an earlier version did not
                know, so that they do not count as changes.

        Returns:
            This object.

        Raises:
            SgoolError: The folder cannot be made or written, or holds results without ``config.yaml``.
            ConfigError: The folder has records of another configuration; lists the changed keys.
        """
        with sole_writer(self.path):
            self._set_config(plain_config(config), not_compared, accept_changes, complete or (lambda config: None))
            self._write_environment(describe_environment(device))
        return self

    @property
    def config_path(self) -> Path:
        """The path of ``RUN/config.yaml``."""
        return self.path / "config.yaml"

    @property
    def results_path(self) -> Path:
        """The path of ``RUN/results.csv``."""
        return self.path / "results.csv"

    def config(self) -> dict[str, Any]:
        """Read the folder's configuration; raises SgoolError if there is none."""
        return read_config(self.config_path)

    def environments(self) -> list[dict[str, Any]]:
        """Read the environments in which the run was made, the first one first; an unreadable file gives a warning."""
        found = []
        for path in sorted(self.path.glob("environment*.json"), key=lambda path: (len(path.name), path.name)):
            try:
                found.append(dict(json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError) as error:
                _logger.warning("%s is unreadable: %s", path, error)
        return found

    def pair_folder(self, method: str, pair_id: str) -> Path:
        """The path ``RUN/pairs/METHOD/PAIR_ID``; raises ValueError for names that are not plain file names."""
        for kind, name in (("method", method), ("pair id", pair_id)):
            if not _NAME.fullmatch(name):
                raise ValueError(f"a {kind} must be letters, digits, '.', '_' and '-', got {name!r}")
        return self.path / "pairs" / method / pair_id

    def is_done(self, method: str, pair_id: str, *, retry_failed: bool = False) -> bool:
        """Whether the pair has a valid record.

        Args:
            method: The method's name.
            pair_id: The pair's id.
            retry_failed: Count a pair that ended with an error as not done.
        """
        record = self.record(method, pair_id)
        return record is not None and not (retry_failed and record.status == "failed")

    def record(self, method: str, pair_id: str) -> PairRecord | None:
        """Read the pair's record; None if the pair is not done, with a warning if its record is invalid."""
        path = self.pair_folder(method, pair_id) / "record.json"
        try:
            return read_record(path)
        except FileNotFoundError:
            return None
        except RecordError as error:
            self._warn(str(error))
            return None

    def write(
        self,
        record: PairRecord,
        images: Mapping[str, Array] | None = None,
        saliency_map: Array | None = None,
        history: Sequence[Mapping[str, float]] = (),
        latents: Mapping[str, Array] | None = None,
        snapshots: Sequence[tuple[int, Array]] = (),
        further: Mapping[str, Array] | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write a pair's results, with ``record.json`` last: after a crash at any point the pair counts as not done.

        An earlier result of the same pair and method is replaced. Returns the pair's folder.

        Args:
            record: What becomes ``record.json``.
            images: ``initial`` and ``final``, each (3, H, W), nominally in [0, 1], any float dtype; a video
                (3, F, H, W) becomes a contact sheet and an animation.
            saliency_map: (H, W) or (1, H, W) in [0, 1]; resized to the image's size if it differs; of a video
                (1, F, H, W), for each frame.
            history: One mapping of name to number per update; empty: no file.
            latents: ``initial``, ``best``, ``last``, any shape; stored in float32.
            snapshots: (update, image) along the trajectory, for ``snapshots/UPDATE.png``.
            further: More images, by the names of their files without ``.png``.
            origin: For the PNG files' texts, what the record lacks; see `sgool.results.png_text.picture_texts`.

        Raises:
            SgoolError: The file system refuses (no space, no permission).
            ValueError: A shape is wrong, a value is not finite, or a name is unknown.
        """
        folder = self.pair_folder(record.method, record.pair_id)
        files = encode_artifacts(record, images or {}, saliency_map, history, latents or {}, origin)
        files |= encode_pictures(record, further or {}, origin)
        pictures = encode_pictures(record, {f"{update:04d}": image for update, image in snapshots}, origin)
        text = encode_record(record)  # before anything is touched: a bad record must not cost the old one
        with explain_os_errors(f"write the results of {record.method}/{record.pair_id} to {folder}", _KEPT):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "record.json").unlink(missing_ok=True)
            sync_folder(folder)
            remove_leftovers(folder)
            for name in dict.fromkeys((*ARTIFACTS, *files)):
                if name in files:
                    atomic_write(folder / name, files[name])
                else:
                    (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / "snapshots", ignore_errors=True)
            for name, picture in pictures.items():
                (folder / "snapshots").mkdir(exist_ok=True)
                atomic_write(folder / "snapshots" / name, picture)
            atomic_write(folder / "record.json", text.encode())
        return folder

    def replace_record(self, record: PairRecord) -> None:
        """Replace a finished pair's record, for example to change its metrics; its other files stay as they are."""
        path = self.pair_folder(record.method, record.pair_id) / "record.json"
        with explain_os_errors(f"write {path}", _KEPT):
            atomic_write(path, encode_record(record).encode())

    def scan(self) -> Scan:
        """Read all records of the folder that belong to its data set, without importing torch."""
        return scan_folder(self.path, self.dataset())

    def records(self) -> list[PairRecord]:
        """Read the valid records of `scan`; a warning is logged for each invalid one."""
        scan = self.scan()
        for problem in scan.problems:
            self._warn(problem)
        return list(scan.records)

    def collate(self) -> Path:
        """Write ``results.csv`` from the records, atomically; the same records give the same bytes.

        Raises:
            SgoolError: It cannot be written.
        """
        # Two runners may end together: whoever writes last must also have read last.
        with sole_writer(self.path):
            self._write_if_changed(self.results_path, collate(self.records()))
        return self.results_path

    def _warn(self, problem: str) -> None:
        """Log a problem once, since the same record is read again and again."""
        if problem not in self._warned:
            self._warned.add(problem)
            _logger.warning("%s", problem)

    def _set_config(
        self,
        new: dict[str, Any],
        not_compared: Sequence[str],
        accept_changes: bool,
        complete: Callable[[dict[str, Any]], None],
    ) -> None:
        has_records = any(self.path.glob("pairs/*/*/record.json"))
        # A runner may work for hours before it writes its first record.
        in_use = has_records or has_active_runner(self.path)
        if self.config_path.exists():
            try:
                old = read_config(self.config_path)
                complete(known := deepcopy(old))
                if not accept_changes:
                    refuse_other_config(self.path, known, new, not_compared)
                elif in_use and changed_keys(known, new, not_compared):
                    # Named by all keys: which of them count depends on the configuration that comes next.
                    earlier = self.path / f"config-{config_digest(old, ())}.yaml"
                    self._write_if_changed(earlier, config_text(old))
                new = join_methods(old, new) if in_use else new
            except SgoolError:
                if in_use:  # else there is nothing to mix: a failed start must not keep the mended command out
                    raise
        elif has_records:
            raise SgoolError(
                f"{self.path} holds results but no config.yaml, so nobody can tell what made them. "
                "Use another run_dir, or delete the folder."
            )
        self._write_if_changed(self.config_path, config_text(new))

    def _write_environment(self, environment: dict[str, Any]) -> None:
        """The first environment keeps its file; another one (but for the date) gets a file of its own."""
        identity = {key: value for key, value in environment.items() if key != "date"}
        known = [{key: value for key, value in seen.items() if key != "date"} for seen in self.environments()]
        if identity in known:
            return
        path = self.path / "environment.json"
        if path.exists():
            digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
            path = self.path / f"environment-{digest}.json"
        self._write_if_changed(path, json.dumps(environment, indent=2, ensure_ascii=False) + "\n")

    def _write_if_changed(self, path: Path, text: str) -> None:
        with explain_os_errors(f"write {path}", _KEPT):
            if not path.exists() or path.read_bytes() != text.encode():
                atomic_write(path, text.encode())
