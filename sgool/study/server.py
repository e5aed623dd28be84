"""A server for the study on this machine: it sends the page's files and takes votes at one address."""

from __future__ import annotations

import errno
import ipaddress
import json
import logging
import os
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sgool.errors import SgoolError
from sgool.study.build import Study
from sgool.study.votes import VoteFile, make_vote

_logger = logging.getLogger(__name__)

MOST_BODY = 4096
"""The most bytes of a vote; usually there are about 400."""

TIMEOUT = 15.0
"""Seconds that a connection may keep a thread waiting."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class StudyServer(ThreadingHTTPServer):
    """An HTTP server that sends the page's files, listed at its start, and appends votes to a file.

    Args:
        study: From ``build_study``.
        host: The address to listen at.
        port: The port to listen at; 0: any free one.
        votes: The file of votes; None: ``votes.csv`` in the study's folder.
    """

    daemon_threads = True

    def __init__(self, study: Study, host: str = "127.0.0.1", port: int = 0, votes: Path | None = None) -> None:
        self.study = study
        self.votes = VoteFile(votes or study.folder / "votes.csv")
        self.host = host
        # Only these files are sent: whatever else a request names, with .., %2e or links, is not among them.
        self.files = {"/" + str(path.relative_to(study.page).as_posix()): path for path in _plain_files(study.page)}
        self.files["/"] = study.page / "index.html"
        super().__init__((host, port), _Handler)

    @property
    def port(self) -> int:
        """The port at which the server listens."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """The address that raters on this machine open."""
        host = "127.0.0.1" if self.host in ("", "0.0.0.0") else f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/"

    def knows_host(self, host: str) -> bool:
        """Whether the Host of a request is this server.

        Hosts are localhost, the name that ``--host`` gave, loopback addresses, and other addresses if the server
        listens beyond loopback. Other names are refused, since anyone's DNS may point here (DNS rebinding).
        """
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port or 80
        except ValueError:
            return False
        if port != self.port or parts.username is not None or parts.path:
            return False
        return name in ("localhost", self.host) or _is_address(name, loopback_alone=is_loopback(self.host))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs an error quietly: a connection that breaks off is ordinary, and raters see no tracebacks."""
        _logger.debug("a request from %s ended early", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: StudyServer
    timeout = TIMEOUT
    server_version = "study"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(self._send_file)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self._take_vote)

    def do_PUT(self) -> None:
        self._answer(self._refuse_method)

    do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = do_PUT

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers malformed requests, which the standard library refuses, in the same form as other refusals."""
        self.close_connection = True
        self._send(code, _json({"error": "the request cannot be understood"}), "application/json")

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, so that no rater's address is kept."""

    def _answer(self, action: Callable[[], None]) -> None:
        try:
            self._check_origin()
            action()
        except _Refusal as refusal:
            self._send(refusal.status, _json({"error": refusal.reason}), "application/json")

    def _check_origin(self) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.knows_host(hosts[0]):
            raise _Refusal(421, "this server does not answer to that host name")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{hosts[0]}":
            raise _Refusal(403, "requests from other pages are refused")
        # Another page may link to this one, but it may not send votes.
        if self.command == "POST" and self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise _Refusal(403, "requests from other pages are refused")

    def _refuse_method(self) -> None:
        raise _Refusal(405, "only GET, HEAD and POST are answered")

    def _send_file(self) -> None:
        path = self.server.files.get(self.path.partition("?")[0])
        if path is None:
            raise _Refusal(405 if self._is_votes() else 404, "there is nothing here")
        try:
            # O_NOFOLLOW: a link put in place of the file since the start is not followed.
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
            with os.fdopen(descriptor, "rb") as stream:
                data = stream.read()
        except OSError:
            raise _Refusal(404, "there is nothing here") from None
        self._send(200, data, _TYPES[path.suffix])

    def _take_vote(self) -> None:
        if not self._is_votes():
            raise _Refusal(405 if self.path in self.server.files else 404, "votes go to /votes")
        if self.headers.get_content_type() != "application/json" or "Content-Type" not in self.headers:
            raise _Refusal(415, "a vote is sent as application/json")
        try:
            # parse_constant: NaN and infinity are not JSON.
            values = json.loads(self._body().decode("utf-8"), parse_constant=_no_constant)
            if not isinstance(values, dict):
                raise ValueError("expected a JSON object")
            vote = make_vote(values, self.server.study.key)
        except (ValueError, RecursionError) as error:
            raise _Refusal(400, f"not a vote: {error}") from None
        if self.server.study.rater not in (None, vote.rater):
            raise _Refusal(403, "this page is for another rater")
        try:
            self.server.votes.append(vote)
        except OSError as error:
            _logger.error("A vote of %s could not be saved: %s", vote.rater, error)
            raise _Refusal(507, "the vote could not be saved; tell who runs the study") from None
        self._send(201, _json({"saved": vote.item}), "application/json")

    def _is_votes(self) -> bool:
        return self.path == "/votes"

    def _body(self) -> bytes:
        lengths = self.headers.get_all("Content-Length", [])
        if len(lengths) != 1 or not lengths[0].isascii() or not lengths[0].isdecimal() or len(lengths[0]) > 12:
            raise _Refusal(411, "a vote says its length")
        if "Transfer-Encoding" in self.headers:
            raise _Refusal(411, "a vote says its length")
        if int(lengths[0]) > MOST_BODY:
            raise _Refusal(413, f"a vote has at most {MOST_BODY} bytes")
        return self.rfile.read(int(lengths[0]))

    def _send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if status == 405:
            self.send_header("Allow", "POST" if self._is_votes() else "GET, HEAD")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def serve_study(
    study: Study,
    host: str = "127.0.0.1",
    port: int = 8000,
    votes: Path | None = None,
    announce: Callable[[StudyServer], None] = lambda server: None,
) -> None:
    """Serve a study until Ctrl-C; a vote that is being written is finished first.

    Args:
        study: From ``build_study``.
        host: The address to listen at.
        port: The port to listen at; 0: any free one.
        votes: As in ``StudyServer``.
        announce: Called with the server once it listens.

    Raises:
        SgoolError: The port is taken, or the address is not this machine's.
    """
    try:
        server = StudyServer(study, host, port, votes)
    except OSError as error:
        reason = "another program listens there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise SgoolError(f"Cannot listen at {host}:{port}: {reason}. Use another --port (0: any).") from error
    except OverflowError:
        raise SgoolError(f"--port: expected 0 to 65535, got {port}.") from None
    try:
        announce(server)
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass  # Ctrl-C is how a server in a terminal ends
    finally:
        server.server_close()
        if server.votes.path.exists():
            with server.votes.locked():
                pass  # once the lock is free, no vote is half written


def is_loopback(host: str) -> bool:
    """Whether an address to listen at can be reached only from this machine."""
    return host == "localhost" or _is_address(host, loopback_alone=True)


def _is_address(name: str, loopback_alone: bool) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback_alone


def _plain_files(folder: Path) -> list[Path]:
    found = [folder, *sorted(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())]
    paths = [path for inner in found for path in inner.iterdir()]
    return [path for path in paths if path.is_file() and not path.is_symlink() and path.suffix in _TYPES]


def _json(values: dict[str, str]) -> bytes:
    return json.dumps(values).encode()  # ASCII, quotes escaped; sent as JSON, which browsers do not show as a page


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")
