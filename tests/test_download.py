"""The downloader against a server on this machine that misbehaves on request."""

import errno
import hashlib
import io
import queue
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep import download as module
from data_prep.download import digest_of, download
from gptft.errors import UserError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HTML = b"<!DOCTYPE html><html><body>Sign in to the network</body></html>"


class SlowDisk(io.FileIO):
    """A file whose writes take half of what they are given, as raw writes may."""

    def write(self, data):
        return super().write(data[: max(1, len(data) // 2)])


class FullDisk(io.FileIO):
    """A file on a disk with room for 300,000 bytes."""

    def write(self, data):
        room = 300_000 - self.tell()
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:room])


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path. `cut_after` ends the next answers early; `requests` keeps (path, headers)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.requests = CONTENT, '"v1"', []
        self.ranges, self.cut_after, self.gate = True, [], None

    def url(self, path="file"):
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        status = {"/missing": 404, "/busy": 503, "/away": 302}.get(self.path, 200)
        body = HTML if status != 200 or self.path == "/html" else server.content
        headers = {"ETag": server.etag}
        if self.path == "/away":
            headers["Location"] = "http://example.invalid/file"
        wanted = self.headers.get("Range")
        if (
            wanted
            and server.ranges
            and status == 200
            and self.headers.get("If-Range") in (None, server.etag)
        ):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                status, body = 416, b""
            else:
                status, headers["Content-Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
                body = body[start:]
            if self.path == "/shifted":
                headers["Content-Range"] = (
                    f"bytes {start + 1}-{len(server.content) - 1}/{len(server.content)}"
                )
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.path == "/unsized":  # as long as the connection stands
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.gate:
            server.gate.wait(20)
        if server.cut_after:
            body = body[: server.cut_after.pop(0)]
            self.close_connection = True
        self.wfile.write(body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    server.waits = []
    monkeypatch.setattr(module.time, "sleep", server.waits.append)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_good_file_comes_once(server, tmp_path):
    """A second call must not fetch 500 MB again; nothing but the file may stay behind."""
    path = tmp_path / "deep" / "file"
    assert download([server.url()], path, size=len(CONTENT), sha256=SHA256) == path
    assert path.read_bytes() == CONTENT
    download([server.url()], path, size=len(CONTENT), sha256=SHA256)
    assert len(server.requests) == 1
    assert names(path.parent) == ["file"]


def test_a_wrong_file_under_the_name_is_fetched_again(server, tmp_path):
    """Half a file from some other tool must not pass for the whole."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT[:1000])
    download([server.url()], path, sha256=SHA256)
    assert path.read_bytes() == CONTENT


def test_resumes_where_the_last_run_stopped(server, tmp_path):
    """An interrupted download must go on with a range, not start over."""
    (tmp_path / "file.part").write_bytes(CONTENT[:700_000])
    download([server.url()], tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [headers["Range"] for _, headers in server.requests] == ["bytes=700000-"]
    assert names(tmp_path) == ["file"]


def test_cut_connections_are_taken_up_again(server, tmp_path):
    """Three cuts that each bring something: four requests, each from where the last ended, with the validator."""
    server.cut_after = [300_000, 300_000, 300_000]
    download([server.url()], tmp_path / "file", size=len(CONTENT))
    assert (tmp_path / "file").read_bytes() == CONTENT
    seen = [(headers.get("Range"), headers.get("If-Range")) for _, headers in server.requests]
    assert seen == [(None, None), *((f"bytes={n}00000-", '"v1"') for n in (3, 6, 9))]
    assert server.waits == [1, 1, 1]


def test_a_connection_that_brings_nothing_ends_in_an_error(server, tmp_path):
    """Retries must end; the waits grow; what came before stays for the next run."""
    server.cut_after = [1000] + [0] * 10
    with pytest.raises(UserError, match="ended after 1,000 of 1,048,576 bytes"):
        download([server.url()], tmp_path / "file", sha256=SHA256)
    assert server.waits == [1, 2, 4]
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:1000]
    assert not (tmp_path / "file").exists()


def test_a_server_without_ranges_starts_over(server, tmp_path):
    """A 200 answer to a range request holds the whole file; appending it would double the head."""
    server.ranges = False
    server.cut_after = [300_000]
    download([server.url()], tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_file_that_changed_is_not_mixed(server, tmp_path):
    """Without a checksum only If-Range keeps the head of one version from the tail of another."""
    server.cut_after = [300_000, 0, 0, 0, 0]
    with pytest.raises(UserError):
        download([server.url()], tmp_path / "file")
    server.content, server.etag, server.cut_after = CONTENT[::-1], '"v2"', []
    download([server.url()], tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_a_weak_validator_promises_nothing(server, tmp_path):
    """A weak ETag ("W/...") may stay while bytes change (RFC 9110, 8.8.1): without a checksum, start over."""
    server.etag, server.cut_after = 'W/"v1"', [300_000]
    download([server.url()], tmp_path / "file")
    assert [headers.get("Range") for _, headers in server.requests] == [None, None]


def test_a_range_that_was_not_asked_for(server, tmp_path):
    """Bytes from another place, appended, would be a file of the right size with a hole."""
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    download([server.url("shifted")], tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [headers.get("Range") for _, headers in server.requests] == ["bytes=1000-", None]


def test_length_not_told(server, tmp_path):
    """Without Content-Length the end of the connection ends the file; only the checks can tell whether it is whole."""
    download([server.url("unsized")], tmp_path / "file", size=len(CONTENT), sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    server.cut_after = [300_000]
    download([server.url("unsized")], tmp_path / "cut", size=len(CONTENT))
    assert (tmp_path / "cut").read_bytes() == CONTENT
    with pytest.raises(UserError, match="more came than 1,000,000 bytes"):
        download([server.url("unsized")], tmp_path / "other", size=1_000_000)
    server.content = b""
    with pytest.raises(UserError, match="it is empty"):
        download([server.url("unsized")], tmp_path / "empty")


def test_a_piece_of_unknown_origin_is_not_continued_without_a_checksum(server, tmp_path):
    """With neither checksum nor validator nobody could tell a mix of two files."""
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    download([server.url()], tmp_path / "file", size=len(CONTENT))
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_piece_of_another_file_costs_one_more_fetch(server, tmp_path):
    """A poisoned .part must not block the download for ever."""
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    download([server.url()], tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_piece_longer_than_the_file(server, tmp_path):
    """The server answers 416 for ever; the piece must go, and where the size is known it isn't even asked."""
    for size, ranges in ((None, [f"bytes={len(CONTENT) + 4}-", None]), (len(CONTENT), [None])):
        server.requests.clear()
        (tmp_path / f"{size}.part").write_bytes(CONTENT + b"more")
        download([server.url()], tmp_path / str(size), size=size, sha256=SHA256)
        assert (tmp_path / str(size)).read_bytes() == CONTENT
        assert [headers.get("Range") for _, headers in server.requests] == ranges


def test_a_whole_piece_needs_no_server(server, tmp_path):
    """Killed between the last byte and the rename: nothing is left to fetch."""
    (tmp_path / "file.part").write_bytes(CONTENT)
    download([server.url()], tmp_path / "file", size=len(CONTENT), sha256=SHA256)
    assert server.requests == [] and names(tmp_path) == ["file"]


def test_wrong_checksum(server, tmp_path):
    """A file of the right size and wrong content must never get the name, nor stay as a piece to resume from."""
    with pytest.raises(UserError, match="sha256 differs"):
        download([server.url()], tmp_path / "file", size=len(CONTENT), sha256="0" * 64)
    assert names(tmp_path) == []


def test_wrong_checksum_over_cut_connections(server, tmp_path):
    """Resumed and wrong: once more from the start, since the first piece may be to blame, and then the end."""
    server.cut_after = [600_000, 600_000] * 10
    with pytest.raises(UserError, match="sha256 differs"):
        download([server.url()], tmp_path / "file", sha256="0" * 64)
    assert len(server.requests) == 4 and names(tmp_path) == []


def test_wrong_size_is_refused_before_it_is_fetched(server, tmp_path):
    with pytest.raises(UserError, match="has 1,048,576 bytes instead of 5"):
        download([server.url()], tmp_path / "file", size=5)
    assert names(tmp_path) == []


def test_git_blob_id(server, tmp_path):
    """Known answer: `printf hello | git hash-object --stdin`."""
    server.content = b"hello"
    blob = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"
    assert download([server.url()], tmp_path / "file", git_blob=blob).read_bytes() == b"hello"
    with pytest.raises(UserError, match="git blob id differs"):
        download([server.url()], tmp_path / "other", git_blob="0" * 40)


def test_web_page_with_status_200(server, tmp_path):
    """A hotel's sign-in page must not be saved as weights, nor overwrite the piece that came before it."""
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    with pytest.raises(UserError, match=r"web page \(HTML\) came instead of the file"):
        download([server.url("html")], tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:1000]
    with pytest.raises(UserError, match="HTML"):  # with nothing known of the file, too
        download([server.url("html")], tmp_path / "another")
    assert names(tmp_path) == ["file.part"]


def test_mirror_takes_over(server, tmp_path):
    """404 goes to the next address at once, 503 after some tries."""
    urls = [server.url("missing"), server.url("busy"), server.url("html"), server.url()]
    download(urls, tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/missing", *["/busy"] * 4, "/html", "/file"]


def test_all_addresses_fail_in_one_line(server, tmp_path):
    with pytest.raises(
        UserError, match=r"HTTP status 404.*redirects to http://example\.invalid/file.*by hand"
    ):
        download([server.url("missing"), server.url("away")], tmp_path / "file", sha256=SHA256)
    assert names(tmp_path) == []


def test_only_https(tmp_path):
    """http to another machine could be changed on the way; the name 127.evil is not this machine."""
    for url in (
        "http://example.org/file",
        "http://127.evil.example/file",
        "ftp://localhost/file",
        "file",
    ):
        with pytest.raises(UserError, match="not an https address"):
            download([url], tmp_path / "file")


def test_https_never_falls_back_to_http():
    """A redirect from https to http is refused even on this machine."""
    request = module.urllib.request.Request("https://example.org/file")
    with pytest.raises(module._Refused, match="not https"):
        module._SafeRedirect().redirect_request(request, None, 302, "", {}, "http://127.0.0.1/file")


def test_file_address_as_a_mirror(server, tmp_path):
    """An absent file is not asked for again and again."""
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    download([(tmp_path / "absent").as_uri(), source.as_uri()], tmp_path / "file", sha256=SHA256)
    assert server.waits == []
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_disk_full(server, tmp_path, monkeypatch):
    """One clear error, the piece kept, no file; with room again the rest is fetched."""

    def full_open(path, mode="r", **kwargs):
        return (
            FullDisk(path, mode)
            if str(path).endswith(".part") and mode == "wb"
            else open(path, mode, **kwargs)
        )

    monkeypatch.setattr(module, "open", full_open, raising=False)
    with pytest.raises(UserError, match="No space left on device.*file.part"):
        download([server.url()], tmp_path / "file", sha256=SHA256)
    assert names(tmp_path) == ["file.part", "file.part.json"]
    assert (tmp_path / "file.part").read_bytes() == CONTENT[:300_000]
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    download([server.url()], tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.requests[-1][1]["Range"] == "bytes=300000-"


def test_short_writes(server, tmp_path, monkeypatch):
    """An unbuffered write may take less than it is given; what it left must not be lost."""

    def slow_open(path, mode="r", **kwargs):
        return (
            SlowDisk(path, mode)
            if str(path).endswith(".part") and mode == "wb"
            else open(path, mode, **kwargs)
        )

    monkeypatch.setattr(module, "open", slow_open, raising=False)
    download([server.url()], tmp_path / "file", sha256=SHA256)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_too_little_room_is_said_before_the_transfer(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="don't fit on the disk"):
        download([server.url()], tmp_path / "file", sha256=SHA256)
    assert names(tmp_path) == []


@pytest.mark.skipif(module.fcntl is None, reason="file locks need fcntl, which this system lacks")
def test_two_processes_fetch_it_once(server, tmp_path):
    """Two writers in one .part would mix their bytes: the second must wait and then find the file."""
    code = "import sys; from data_prep.download import download as d; d(sys.argv[3:], sys.argv[1], sha256=sys.argv[2])"
    command = [sys.executable, "-c", code, str(tmp_path / "file"), SHA256, server.url()]
    root = Path(module.__file__).parents[1]
    server.gate, said = threading.Event(), queue.Queue()
    both = [
        subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for process in both:
        threading.Thread(
            target=lambda p=process: said.put(p.stderr.readline()), daemon=True
        ).start()
    assert "waiting" in said.get(
        timeout=20
    )  # only now may the server answer the one that doesn't wait
    server.gate.set()
    assert [process.wait(30) for process in both] == [0, 0]
    assert len(server.requests) == 1
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert names(tmp_path) == ["file"]


def test_progress_lines(server, tmp_path, monkeypatch, capsys):
    """On a terminal a bar that ends with a line end; in a log no carriage returns."""
    clock = iter(range(0, 10**6, 11))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    download([server.url()], tmp_path / "log", sha256=SHA256)
    log = capsys.readouterr().err
    assert "\r" not in log and "50% of 1.0 MB" in log
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True)
    download([server.url()], tmp_path / "bar", sha256=SHA256)
    bar = capsys.readouterr().err
    assert bar.count("\r") == 4 and bar.endswith("\n") and "100% of 1.0 MB" in bar


def test_digest_of(tmp_path):
    """The known answer of FIPS 180-2 for "abc"."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert (
        digest_of(tmp_path / "abc")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
