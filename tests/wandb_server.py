"""The parts of W&B's server that `wandb sync` needs, on a local port: it keeps a run's history by line, as W&B does."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Holds runs: id -> line number -> row."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lines: dict[str, dict[int, dict[str, Any]]] = {}
        self.summaries: dict[str, dict[str, Any]] = {}
        #: Names of the files in uploaded artifacts.
        self.uploaded: list[str] = []

    @property
    def address(self) -> str:
        """For WANDB_BASE_URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """W&B's client closes connections as it likes."""

    def take(self, run: str, files: dict[str, Any]) -> None:
        """Takes lines of a run's files; a line that is there already is overwritten."""
        for name, sent in files.items():
            if name == "wandb-history.jsonl":
                lines = self.lines.setdefault(run, {})
                lines.update({sent["offset"] + i: json.loads(text) for i, text in enumerate(sent["content"])})
            elif name == "wandb-summary.json":
                self.summaries[run] = json.loads(sent["content"][-1])

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL operation's answer."""
        node = {"id": "1", "name": "x", "displayName": "x", "uploadHeaders": [], "uploadMultipartUrls": None}
        node |= {"storagePath": "x", "artifact": {"id": "1"}}
        manifest = {"artifactManifest": {"id": "1", "file": node | {"uploadUrl": f"{self.address}/manifest"}}}
        if operation == "UpsertBucket":
            project = {"id": "1", "name": "sgool", "entity": {"id": "1", "name": "somebody"}}
            run = {"id": "1", "name": variables["name"], "displayName": "", "description": None, "config": "{}"}
            run |= {"sweepName": None, "historyLineCount": 0, "project": project}
            return {"upsertBucket": {"bucket": run, "inserted": variables["name"] not in self.lines}}
        if operation == "RunResumeStatus":
            return {
                "model": {"id": "1", "name": "sgool", "entity": {"id": "1", "name": "somebody"}} | self._run(variables)
            }
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.address}/file/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
        if operation == "CreateArtifact":
            artifact = {"id": "1", "state": "PENDING", "artifactSequence": {"id": "1", "latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            return {operation[0].lower() + operation[1:]: manifest}
        if operation == "CreateArtifactFiles":
            names = [wanted["name"] for wanted in variables["input"]["artifactFiles"]]
            self.uploaded += names
            edges = [
                {"node": node | {"name": n, "displayName": n, "uploadUrl": f"{self.address}/a/{n}"}} for n in names
            ]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "1", "digest": "1"}}}
        viewer = {"id": "1", "username": "somebody", "entity": "somebody", "flags": "{}", "teams": {"edges": []}}
        return {"viewer": viewer, "serverInfo": {"features": [], "cliVersionInfo": {}, "latestLocalVersionInfo": {}}}

    def _run(self, variables: dict[str, Any]) -> dict[str, Any]:
        """What a client that resumes a run wants to know."""
        lines = self.lines.get(variables["name"])
        if not lines:
            return {"bucket": None}
        last = json.dumps(lines[max(lines)])
        run = {"id": "1", "name": variables["name"], "displayName": "", "summaryMetrics": last, "config": "{}"}
        run |= {"historyLineCount": len(lines), "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "tags": []}
        return {"bucket": run | {"historyTail": json.dumps([last]), "wandbConfig": json.dumps({"t": 1})}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def _reply(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/graphql"):
            asked = json.loads(body)
            data = self.server.answer(asked.get("operationName") or "", asked.get("variables") or {})
            self._reply({"data": data})
            return
        if self.path.endswith("/file_stream"):
            self.server.take(self.path.split("/")[-2], json.loads(body).get("files") or {})
        self._reply({})

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server for the block."""
    server = WandbServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
