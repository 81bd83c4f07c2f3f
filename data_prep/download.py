"""Download one file and verify it: `download([url, mirror], path, size=..., sha256=...)`.

The bytes are written to `path.part`. When the connection breaks, the next request asks only for
the bytes that are missing (HTTP Range), and so does the next run. The complete file is compared
with its known size and checksum before a rename gives it its final name. An error page, a truncated
file or another version therefore never appears under that name.

Proxies are taken from the environment (https_proxy, no_proxy).
Source: RFC 9110, section 14 (range requests).
"""

import errno
import hashlib
import http.client
import sys
import time
import urllib.request
from pathlib import Path

from gptft.errors import UserError

CHUNK = 1 << 18  # bytes per read
TIMEOUT = 60  # seconds without a byte
MAX_FAILURES = 4  # consecutive requests to one URL that bring no new byte
PERMANENT = (400, 401, 403, 404, 410)  # HTTP statuses that another request does not change


class _Unavailable(Exception):
    """One URL cannot provide the file; another one may."""


def download(urls, path, size=None, sha256=None, git_blob=None):
    """Fetch a file into `path`, unless it is there already.

    urls: addresses of the same file, tried in order. size, sha256, git_blob: as in `mismatch`.
    Raises UserError if no address provides the expected file. Incomplete bytes stay in `path.part`.
    """
    path = Path(path)
    expected = {"size": size, "sha256": sha256, "git_blob": git_blob}
    if path.exists():
        problem = mismatch(path, **expected)
        if not problem:
            return
        print(f"{path} is fetched again: {problem}", file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failures = []
    for url in urls:
        try:
            _fetch(url, part, expected)
            part.replace(path)
            return
        except _Unavailable as error:
            failures.append(f"{url}: {error}")
    raise UserError(
        f"download failed ({'; '.join(failures)}), {path}; check the connection and the proxy "
        "settings, or copy the file there yourself"
    )


def mismatch(path, size=None, sha256=None, git_blob=None):
    """Compare a file with what is known about it -> the first difference as a str, or None.

    size: bytes. sha256: hexadecimal. git_blob: git's id of the content, hexadecimal.
    """
    n_bytes = path.stat().st_size
    if size not in (None, n_bytes):
        return f"{n_bytes:,} bytes instead of {size:,}"
    if sha256 and file_digest(path) != sha256:
        return "wrong sha256"
    # git hashes a header before the content.
    if git_blob and file_digest(path, "sha1", f"blob {n_bytes}\0".encode()) != git_blob:
        return "wrong git blob id"
    return None


def file_digest(path, algorithm="sha256", prefix=b""):
    """Return the hexadecimal digest of `prefix` followed by the file's bytes.

    algorithm: a name that hashlib knows.
    """
    digest = hashlib.new(algorithm, prefix)
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(url, part, expected):
    """Receive the whole file into `part` and verify it."""
    if not any(expected.values()):
        part.unlink(missing_ok=True)  # nothing could reveal that it belongs to another version
    resumed = part.exists()
    _receive_all(url, part, expected["size"])
    problem = mismatch(part, **expected)
    if problem:
        part.unlink()
        if not resumed:
            raise _Unavailable(problem)
        _fetch(url, part, expected)  # the old bytes may be at fault: start over, once


def _receive_all(url, part, size):
    """Repeat the request until `part` is complete, as long as that brings new bytes."""
    longest, failures = _size(part), 0
    while True:
        try:
            _receive(url, part, size)
            return
        except (OSError, http.client.HTTPException) as error:
            if getattr(error, "errno", None) == errno.ENOSPC:
                raise UserError(f"the disk is full, {part}; free some space and retry") from error
            status = getattr(error, "code", None)  # of an HTTPError
            if status:
                error.close()
            if status == 416:  # range not satisfiable: the server has no bytes beyond `part`
                return
            failures = 0 if _size(part) > longest else failures + 1
            longest = max(longest, _size(part))
            if status in PERMANENT or failures == MAX_FAILURES:
                raise _Unavailable(str(error)) from error
            print(f"{part.stem}: {error}; retrying", file=sys.stderr)
            time.sleep(2**failures)  # seconds


def _receive(url, part, size):
    """Send one request for the bytes that `part` lacks, and append them."""
    offset = _size(part)
    if offset == size:
        return
    request = urllib.request.Request(
        url, headers={"User-Agent": "gptft", "Range": f"bytes={offset}-"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        if response.status != 206:  # the server ignores the range and sends the whole file
            offset = 0
        length = response.headers.get("Content-Length")
        total = offset + int(length) if length else size
        if size not in (None, total):  # found before `part` is overwritten by an error page
            raise _Unavailable(f"{total:,} bytes instead of {size:,}")
        progress = _Progress(part.stem, offset, total)
        with open(part, "r+b" if offset else "wb") as file:
            file.seek(offset)
            while chunk := response.read(CHUNK):
                file.write(chunk)
                offset += len(chunk)
                progress.show(offset)
    if total is not None and offset < total:
        raise ConnectionError(f"connection closed after {offset:,} of {total:,} bytes")


def _size(path):
    return path.stat().st_size if path.exists() else 0


class _Progress:
    """A line on standard error: rewritten every second on a terminal, every 30 seconds in a log."""

    def __init__(self, name, offset, total):
        self.name, self.total = name, total
        self.is_terminal = sys.stderr.isatty()
        self.offset, self.time = offset, time.monotonic()

    def show(self, offset):
        """Print that `offset` bytes are there, unless the last line is recent."""
        seconds = time.monotonic() - self.time
        if seconds < (1 if self.is_terminal else 30) and offset != self.total:
            return
        speed = (offset - self.offset) / max(seconds, 1e-3)  # bytes per second
        self.offset, self.time = offset, time.monotonic()
        line = f"{self.name}: {offset / 1e6:,.1f} MB"
        if self.total:
            line += f" of {self.total / 1e6:,.1f} MB ({offset / self.total:.0%})"
        end = "\r" if self.is_terminal and offset != self.total else "\n"
        print(f"{line}, {speed / 1e6:.1f} MB/s   ", end=end, file=sys.stderr)
