"""The real server on a free port of loopback: what it serves, what it takes, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread

import pytest

from sgool.errors import SgoolError
from sgool.study import Study, serve_study
from sgool.study.results import last_votes
from sgool.study.run import run_study
from sgool.study.server import MOST_BODY, StudyServer, is_loopback
from sgool.study.votes import COLUMNS, Vote, VoteFile, read_votes
from tests.study.serving import serving
from tests.study.votes import walk

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def server(study: Study, tmp_path: Path) -> Iterator[StudyServer]:
    with serving(study, votes=tmp_path / "votes.csv") as made:
        yield made


@pytest.fixture
def some_votes(study: Study) -> list[Vote]:
    return walk(study, ["r1"])


def ask(
    server: StudyServer, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; the path goes out as it is written."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
        for name, value in ({"Content-Length": str(len(body))} if body is not None else {}).items():
            if name not in (headers or {}):
                connection.putheader(name, value)
        for name, value in (headers or {}).items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


def post(server: StudyServer, vote: Vote, **headers: str) -> int:
    body = json.dumps(asdict(vote)).encode()
    return ask(server, "POST", "/votes", body, JSON | {name.replace("_", "-"): v for name, v in headers.items()})[0]


class TestFiles:
    def test_everything_of_the_page_and_nothing_else(self, server: StudyServer, study: Study) -> None:
        for path in study.page.rglob("*"):
            if path.is_file():
                status, headers, body = ask(server, "GET", "/" + path.relative_to(study.page).as_posix())
                assert (status, body) == (200, path.read_bytes())
                assert headers["X-Content-Type-Options"] == "nosniff"
        assert ask(server, "GET", "/")[2] == (study.page / "index.html").read_bytes()
        assert ask(server, "GET", "/?rater=r1")[0] == 200

    def test_headers(self, server: StudyServer) -> None:
        _, headers, _ = ask(server, "GET", "/")
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Python" not in headers["Server"]
        assert "Access-Control-Allow-Origin" not in headers

    def test_head_has_no_body(self, server: StudyServer, study: Study) -> None:
        status, headers, body = ask(server, "HEAD", "/app.js")
        assert (status, body) == (200, b"")
        assert headers["Content-Length"] == str((study.page / "app.js").stat().st_size)

    @pytest.mark.parametrize(
        "path",
        [
            "/../key.json", "/images/../../key.json", "/%2e%2e/key.json", "/..%2fkey.json", "/%2e%2e%2fkey.json",
            "/%252e%252e/key.json", "/..\\key.json", "/..%5ckey.json", "//key.json", "/./../key.json", "/key.json",
            "/page/../../key.json", "/votes.csv", "/../votes.csv", "/etc/passwd", "//etc/passwd", "/%00",
            "/index.html%00.jpg", "/images", "/images/", "/.", "/..", "../key.json", "/INDEX.HTML",
            "file:///etc/passwd", "http://127.0.0.1/../key.json", "/\u00e9",
        ],
    )  # fmt: skip
    def test_paths_outside_the_page(self, server: StudyServer, study: Study, path: str) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
            answer = b""
            while part := raw.recv(65536):
                answer += part
        assert b" 404 " in answer.splitlines()[0]
        assert study.key.salt.encode() not in answer
        assert b"root:" not in answer

    def test_links_are_not_followed(self, study: Study, tmp_path: Path) -> None:
        page = tmp_path / "page"
        shutil.copytree(study.page, page)
        (page / "link.js").symlink_to(study.folder / "key.json")
        (page / "outside").symlink_to(study.folder)
        copy = replace(study, page=page)
        with serving(copy, votes=tmp_path / "votes.csv") as server:
            assert not {"/link.js", "/outside/key.json"} & set(server.files)
            (page / "app.js").unlink()  # swapped after the start
            (page / "app.js").symlink_to(study.folder / "key.json")
            assert [ask(server, "GET", path)[0] for path in ("/link.js", "/outside/key.json", "/app.js")] == [404] * 3


class TestVotes:
    def test_a_vote_is_a_line_and_both_are_kept_when_it_is_corrected(
        self, server: StudyServer, study: Study, some_votes: list[Vote]
    ) -> None:
        first = some_votes[0]
        corrected = replace(first, match="tie", answered_at="2025-01-31T12:00:09.000Z")
        assert post(server, first) == 201
        before = server.votes.path.read_bytes()
        assert post(server, corrected) == 201
        assert server.votes.path.read_bytes().startswith(before)
        votes, problems = read_votes(server.votes.path, study.key)
        assert (votes, problems) == ([first, corrected], [])
        assert last_votes(votes) == [corrected]

    def test_votes_from_many_threads_all_land_whole(self, server: StudyServer, study: Study) -> None:
        votes = walk(study, [f"r{number}" for number in range(8)])
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda one: post(server, one), votes)) == {201}
        found, problems = read_votes(server.votes.path, study.key)
        assert problems == []
        assert sorted(found, key=str) == sorted(votes, key=str)
        with server.votes.path.open(newline="") as stream:
            assert tuple(next(csv.reader(stream))) == COLUMNS

    def test_several_processes_share_a_file(self, study: Study, tmp_path: Path) -> None:
        """Two VoteFile objects have two thread locks, so the file's own lock has to do."""
        votes = walk(study, ["r1", "r2", "r3", "r4"])
        files = [VoteFile(tmp_path / "votes.csv") for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda pair: files[pair[0] % 4].append(pair[1]), enumerate(votes)))
        found, problems = read_votes(tmp_path / "votes.csv", study.key)
        assert (len(found), problems) == (48, [])

    def test_a_vote_waits_while_another_process_writes(
        self, study: Study, tmp_path: Path, some_votes: list[Vote]
    ) -> None:
        fcntl = pytest.importorskip("fcntl")
        file = VoteFile(tmp_path / "votes.csv")
        with file.path.open("ab") as other:
            fcntl.flock(other, fcntl.LOCK_EX)  # another open file: as another process would hold it
            thread = Thread(target=file.append, args=(some_votes[0],))
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
            assert file.path.read_bytes() == b""
        thread.join(10)
        assert read_votes(file.path, study.key) == ([some_votes[0]], [])

    def test_a_line_that_a_power_cut_tore_does_not_swallow_the_next(
        self, study: Study, tmp_path: Path, some_votes: list[Vote]
    ) -> None:
        file = VoteFile(tmp_path / "votes.csv")
        file.append(some_votes[0])
        with file.path.open("ab") as stream:
            stream.write(b"torn,li")
        file.append(some_votes[1])
        votes, problems = read_votes(file.path, study.key)
        assert votes == some_votes[:2]
        assert len(problems) == 1
        assert "votes.csv:3: expected 11 fields, got 2" in problems[0]

    def test_a_full_file(self, tmp_path: Path, some_votes: list[Vote]) -> None:
        file = VoteFile(tmp_path / "votes.csv", most_bytes=400)
        file.append(some_votes[0])
        size = file.path.stat().st_size
        with pytest.raises(OSError, match="has reached 400 bytes"):
            for one in some_votes[1:]:
                file.append(one)
        assert file.path.stat().st_size < 400
        assert size < 400

    def test_a_vote_that_cannot_be_saved_is_not_said_to_be(self, server: StudyServer, some_votes: list[Vote]) -> None:
        server.votes.most_bytes = 10
        assert post(server, some_votes[0]) == 507

    def test_a_page_for_one_rater_takes_no_other(self, study: Study, tmp_path: Path, some_votes: list[Vote]) -> None:
        with serving(replace(study, rater="r1"), votes=tmp_path / "votes.csv") as server:
            assert [post(server, one) for one in (some_votes[0], replace(some_votes[0], rater="r2"))] == [201, 403]


class TestRefusals:
    """Nothing of these reaches the file."""

    @pytest.fixture(autouse=True)
    def nothing_is_written(self, server: StudyServer) -> Iterator[None]:
        yield
        assert not server.votes.path.exists()

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
    def test_methods(self, server: StudyServer, method: str) -> None:
        status, headers, _ = ask(server, method, "/votes", b"{}", JSON)
        assert (status, headers["Allow"]) == (405, "POST")

    def test_votes_cannot_be_read_and_pages_cannot_be_written(
        self, server: StudyServer, some_votes: list[Vote]
    ) -> None:
        assert ask(server, "GET", "/votes")[0] == 405
        body = json.dumps(asdict(some_votes[0])).encode()
        assert ask(server, "POST", "/", body, JSON)[0] == 405
        assert ask(server, "POST", "/elsewhere", body, JSON)[0] == 404
        assert ask(server, "BREW", "/")[0] == 501

    @pytest.mark.parametrize(
        "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "text/html", ""]
    )
    def test_content_types_that_a_form_on_another_page_can_send(
        self, server: StudyServer, some_votes: list[Vote], kind: str
    ) -> None:
        body = json.dumps(asdict(some_votes[0])).encode()
        assert ask(server, "POST", "/votes", body, {"Content-Type": kind} if kind else {})[0] == 415

    @pytest.mark.parametrize(
        "host",
        ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "10.0.0.1:{port}", "x@127.0.0.1:{port}",
         "127.0.0.1.evil.example:{port}", "", "[::1", "localhost:{port}/x", "127.0.0.1:{port}, evil.example"],
    )  # fmt: skip
    def test_hosts_that_are_not_this_server(self, server: StudyServer, some_votes: list[Vote], host: str) -> None:
        name = host.format(port=server.port)
        assert post(server, some_votes[0], Host=name) == 421
        assert ask(server, "GET", "/", headers={"Host": name})[0] == 421

    def test_no_host_and_two_hosts(self, server: StudyServer) -> None:
        for hosts in ("", f"Host: 127.0.0.1:{server.port}\r\nHost: evil.example\r\n"):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
                raw.sendall(f"GET / HTTP/1.1\r\n{hosts}\r\n".encode())
                assert b" 421 " in raw.recv(65536).splitlines()[0]

    @pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}", "http://127.0.0.1"])
    def test_other_pages(self, server: StudyServer, some_votes: list[Vote], origin: str) -> None:
        assert post(server, some_votes[0], Origin=origin.format(port=server.port)) == 403

    @pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
    def test_what_the_browser_says_of_the_sender(self, server: StudyServer, some_votes: list[Vote], site: str) -> None:
        assert post(server, some_votes[0], Sec_Fetch_Site=site) == 403

    def test_long_bodies_are_refused_unread(self, server: StudyServer) -> None:
        assert ask(server, "POST", "/votes", b" " * (MOST_BODY + 1), JSON)[0] == 413
        # Said to be long, and never sent: an answer comes at once.
        for length in (str(10**11), "9" * 40):
            status = ask(server, "POST", "/votes", None, JSON | {"Content-Length": length})[0]
            assert status in (411, 413)

    @pytest.mark.parametrize(
        "headers",
        [{}, {"Content-Length": "-1"}, {"Content-Length": "1e3"}, {"Content-Length": "²"}, {"Content-Length": ""},
         {"Transfer-Encoding": "chunked"}, {"Transfer-Encoding": "chunked", "Content-Length": "2"}],
    )  # fmt: skip
    def test_bodies_without_a_clear_length(self, server: StudyServer, headers: dict[str, str]) -> None:
        encoded = {name: value.encode("utf-8").decode("latin-1") for name, value in headers.items()}
        assert ask(server, "POST", "/votes", None, JSON | encoded)[0] == 411

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[]", b"null", b"\xff", b"1" * 4000, b"[" * 4000, b'{"study": NaN}', b'{"study": 1e999}', b"{}"],
    )
    def test_bodies_that_are_no_vote(self, server: StudyServer, body: bytes) -> None:
        status, _, answer = ask(server, "POST", "/votes", body, JSON)
        assert status == 400
        assert json.loads(answer)["error"].startswith("not a vote: ")

    @pytest.mark.parametrize(
        "change",
        [
            {"study": "another"}, {"rater": ""}, {"rater": "=cmd()"}, {"rater": "a\nb"}, {"rater": "x" * 41},
            {"rater": "a,b"}, {"item": "nothing"}, {"left": "nothing"}, {"match": "best"}, {"prefer": ""},
            {"seconds": -1.0}, {"seconds": float("inf")}, {"position": -1}, {"form": 1.5}, {"answered_at": "yesterday"},
        ],
    )  # fmt: skip
    def test_values_that_no_page_sends(self, server: StudyServer, some_votes: list[Vote], change: dict) -> None:
        assert post(server, replace(some_votes[0], **change)) == 400

    def test_an_answer_never_holds_markup(self, server: StudyServer, some_votes: list[Vote]) -> None:
        body = json.dumps(asdict(replace(some_votes[0], item="<script>x</script>"))).encode()
        _, headers, answer = ask(server, "POST", "/votes", body, JSON)
        assert headers["Content-Type"] == "application/json"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "<script>" in json.loads(answer)["error"]  # text, in JSON that no browser shows as a page

    def test_requests_that_are_none(self, server: StudyServer) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as raw:
            raw.sendall(b"<script>alert(1)</script>\r\n\r\n")
            answer = raw.recv(65536)
        assert b"<script>" not in answer


class TestStart:
    def test_loopback_is_the_default(self, server: StudyServer) -> None:
        assert server.server_address[0] == "127.0.0.1"
        assert server.url == f"http://127.0.0.1:{server.port}/"

    def test_a_taken_port(self, server: StudyServer, study: Study) -> None:
        with pytest.raises(SgoolError, match=rf"127.0.0.1:{server.port}: another program listens there. Use another"):
            serve_study(study, port=server.port)

    @pytest.mark.parametrize(
        ("host", "port", "message"),
        [
            ("127.0.0.1", 99999, "--port: expected 0 to 65535, got 99999"),
            ("192.0.2.1", 0, "Cannot listen at 192.0.2.1:0"),
        ],
    )
    def test_an_address_that_cannot_be(self, study: Study, host: str, port: int, message: str) -> None:
        with pytest.raises(SgoolError, match=message):
            serve_study(study, host, port)

    @pytest.mark.parametrize(
        ("host", "loopback"),
        [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
         ("", False), ("192.168.1.5", False), ("example.org", False)],
    )  # fmt: skip
    def test_what_other_machines_cannot_reach(self, host: str, loopback: bool) -> None:
        assert is_loopback(host) == loopback

    def test_beyond_loopback_there_is_a_warning_and_addresses_are_known(
        self, study: Study, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[str] = []
        found: dict[str, bool] = {}

        def stop(server: StudyServer, poll_interval: float) -> None:
            found.update({name: server.knows_host(f"{name}:{server.port}") for name in ("192.168.1.5", "evil.example")})
            raise KeyboardInterrupt

        monkeypatch.setattr(StudyServer, "serve_forever", stop)
        run_study(study, ("0.0.0.0", 0), said.append)
        assert "Warning: 0.0.0.0 can be reached from other machines" in "\n".join(said)
        assert found == {"192.168.1.5": True, "evil.example": False}


def _wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_the_command_cleanly(study_run: Path, tmp_path: Path) -> None:
    # As in a terminal: what a shell puts into the background starts with SIGINT ignored, and so do its children.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = f"{heard}; from sgool.cli import main; main()"
    arguments = ["study", str(study_run), "--out", str(tmp_path / "study"), "--serve", "--port", "0"]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", command, *arguments], stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(lambda: "Votes go to" in log.read_text() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    text = log.read_text()
    assert "Serving http://127.0.0.1:" in text
    assert "Traceback" not in text
    assert text.rstrip().splitlines()[-1].startswith("Ended. Score the votes with: sgool study-results")
