"""The downloader against a server on this machine that cuts connections and sends wrong files."""

import errno
import hashlib
import io
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep import download as module
from data_prep.download import download, mismatch
from gptft.errors import UserError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HTML = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"
FILE, PART = Path("file"), Path("file.part")


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT at /file; /missing, /busy, /html and /unsized are what their names say.

    The server's list `cuts` has the number of bytes that each of the next responses is cut to.
    """

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.server.requests.append((self.path, start))
        status = {"/missing": 404, "/busy": 503}.get(self.path, 200)
        body = HTML if status != 200 or self.path == "/html" else CONTENT
        if status == 200 and self.server.ranges and start > 0:
            status = 206 if start < len(body) else 416
            body = body[start:]
        self.send_response(status)
        self.close_connection = True
        if self.path != "/unsized":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cuts = self.server.cuts
        self.wfile.write(body[: cuts.pop(0)] if cuts else body)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.requests = []  # (path, first byte)
    server.cuts = []
    server.ranges = True
    server.waits = []  # seconds
    monkeypatch.setattr(module.time, "sleep", server.waits.append)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(server):
    """fetch(name, ...): download the server's /name, which is expected to be ..., to FILE."""
    return lambda name, **expected: download([f"{server.url}/{name}"], FILE, **expected)


def starts(server):
    return [start for _, start in server.requests]


def test_a_correct_file_is_fetched_once(server, fetch):
    fetch("file", size=SIZE, sha256=SHA256)
    fetch("file", size=SIZE, sha256=SHA256)
    assert FILE.read_bytes() == CONTENT
    assert starts(server) == [0]
    assert os.listdir() == ["file"]


def test_a_wrong_file_of_that_name_is_replaced(fetch, capsys):
    FILE.write_bytes(CONTENT[:1000])
    fetch("file", sha256=SHA256)
    assert FILE.read_bytes() == CONTENT
    assert "is fetched again: wrong sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    "part, expected, requested",
    [
        (CONTENT[:700_000], {"sha256": SHA256}, [700_000]),
        (CONTENT[:700_000], {"size": SIZE}, [700_000]),
        (b"another file", {"sha256": SHA256}, [12, 0]),
        (CONTENT + b"more", {"size": SIZE, "sha256": SHA256}, [SIZE + 4, 0]),
        (CONTENT, {"size": SIZE, "sha256": SHA256}, []),  # killed just before the rename
        (CONTENT, {"sha256": SHA256}, [SIZE]),  # the server answers 416
        (b"another file", {}, [0]),  # nothing could reveal a mix of two files
    ],
)
def test_an_earlier_part_is_resumed_or_dropped(server, fetch, part, expected, requested):
    PART.write_bytes(part)
    fetch("file", **expected)
    assert FILE.read_bytes() == CONTENT
    assert starts(server) == requested
    assert os.listdir() == ["file"]


@pytest.mark.parametrize("name", ["file", "unsized"])
def test_cut_connections_are_resumed(server, fetch, name):
    server.cuts = [300_000, 300_000, 300_000]
    fetch(name, size=SIZE)
    assert FILE.read_bytes() == CONTENT
    assert starts(server) == [0, 300_000, 600_000, 900_000]
    assert server.waits == [1, 1, 1]


def test_a_server_without_ranges_starts_over(server, fetch):
    """A response with status 200 holds the whole file; appending it would repeat the start."""
    server.ranges = False
    server.cuts = [300_000]
    fetch("file", sha256=SHA256)
    assert FILE.read_bytes() == CONTENT


def test_requests_that_bring_nothing_end(server, fetch):
    """The waits grow, and the bytes received so far are kept for the next run."""
    server.cuts = [1000, 0, 0, 0, 0]
    with pytest.raises(UserError, match="closed after 1,000 of 1,048,576 bytes"):
        fetch("file", sha256=SHA256)
    assert server.waits == [1, 2, 4, 8]
    assert os.listdir() == ["file.part"]
    assert PART.read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize(
    "name, expected, message",
    [
        ("file", {"size": SIZE, "sha256": "0" * 64}, "wrong sha256"),
        ("file", {"git_blob": "0" * 40}, "wrong git blob id"),
        ("file", {"size": 5}, "1,048,576 bytes instead of 5"),
        ("unsized", {"size": 5}, "1,048,576 bytes instead of 5"),
        ("html", {"size": SIZE}, "63 bytes instead of 1,048,576"),
        ("html", {"sha256": SHA256}, "wrong sha256"),
        ("missing", {}, "HTTP Error 404"),
    ],
)
def test_a_wrong_file_never_gets_the_name(server, fetch, name, expected, message):
    with pytest.raises(UserError, match=message):
        fetch(name, **expected)
    assert os.listdir() == []


def test_an_error_page_does_not_overwrite_the_part(server, fetch):
    PART.write_bytes(CONTENT[:1000])
    server.ranges = False
    with pytest.raises(UserError, match="63 bytes"):
        fetch("html", size=SIZE)
    assert PART.read_bytes() == CONTENT[:1000]


def test_the_next_address_is_tried(server, tmp_path):
    """At once after status 404 or a wrong file, after four requests if the status is 503."""
    Path("copy").write_bytes(CONTENT)
    urls = [f"{server.url}/{name}" for name in ("missing", "busy", "html")]
    download([*urls, (tmp_path / "copy").as_uri()], FILE, sha256=SHA256)
    assert FILE.read_bytes() == CONTENT
    names = [name for name, _ in server.requests]
    assert names == ["/missing", "/busy", "/busy", "/busy", "/busy", "/html"]


def test_known_git_blob_id(tmp_path):
    """The output of `printf hello | git hash-object --stdin`."""
    path = tmp_path / "hello"
    path.write_bytes(b"hello")
    assert mismatch(path, git_blob="b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0") is None


class FullDisk(io.FileIO):
    """A file on a disk with room for 300,000 bytes."""

    def write(self, data):
        room = 300_000 - self.tell()
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:room])


def test_a_full_disk_is_one_error_and_the_part_is_kept(server, fetch, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(
            module,
            "open",
            lambda path, mode: io.BufferedWriter(FullDisk(path, mode)),
            raising=False,
        )
        with pytest.raises(UserError, match="the disk is full, file.part"):
            fetch("file", sha256=SHA256)
    assert PART.read_bytes() == CONTENT[:300_000]
    fetch("file", sha256=SHA256)
    assert FILE.read_bytes() == CONTENT
    assert starts(server) == [0, 300_000]


@pytest.mark.parametrize("is_terminal, returns", [(False, 0), (True, 3)])
def test_progress(fetch, monkeypatch, capsys, is_terminal, returns):
    """A line that is rewritten on a terminal, separate lines in a log."""
    clock = iter(range(0, 10**6, 31))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: is_terminal)
    fetch("file", sha256=SHA256)
    printed = capsys.readouterr().err
    assert "file: 0.5 MB of 1.0 MB (50%), 0.0 MB/s" in printed
    assert printed.count("\r") == returns
    assert printed.endswith("\n")
