"""Fetch one file and be sure of it: `download([url, mirror], path, size=..., sha256=...)`.

A download goes wrong in a few ways, and each has its answer here. The connection breaks: what came is kept in
`path.part`, and the rest is asked for (HTTP Range). The server sends an error page with status 200, or another version
of the file: size and checksum find out. Two processes want the same file: a lock lets one of them fetch it. And the
file gets its final name by one rename, once it is whole and checked, so that a file of that name can be trusted.

Proxies come from the environment (https_proxy, no_proxy), as urllib has it. Only https is spoken; http to this very
machine and file:// are let through, for tests and for mirrors on a disk.

Left out: several connections at once, passwords. Source: RFC 9110, sections 13.1.5 (If-Range) and 14 (Range).
"""

import hashlib
import http.client
import ipaddress
import json
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from gptft.errors import UserError

try:
    import fcntl
except (
    ImportError
):  # Windows: two processes may then fetch the same file twice, and the check still decides
    fcntl = None

CHUNK = 1 << 18  # bytes read at once
TIMEOUT = 60  # seconds without a byte
TRIES = (
    4  # in a row that bring nothing new, per address; the waits between them are 1, 2 and 4 seconds
)


class _Broken(Exception):
    """The connection broke or the server was busy: worth another try."""


class _Refused(Exception):
    """This address doesn't have the file: the next one may."""


class Expected(NamedTuple):
    """What is known of a file beforehand; None is unknown."""

    size: int | None = None  # bytes
    sha256: str | None = None
    git_blob: str | None = (
        None  # git's own id of a file: the SHA-1 of "blob SIZE\0" and the content
    )

    def problem(self, path):
        """What is wrong with the file at `path`, in words, or None."""
        size = path.stat().st_size
        if size == 0:
            return "it is empty"
        with open(path, "rb") as file:
            if _looks_like_html(file.read(512)):
                return "it is a web page (HTML)"
        if self.size is not None and size != self.size:
            return f"it has {size:,} bytes instead of {self.size:,}"
        if self.sha256 and digest_of(path) != self.sha256:
            return "its sha256 differs"
        if self.git_blob and digest_of(path, "sha1", f"blob {size}\0".encode()) != self.git_blob:
            return "its git blob id differs"
        return None


def download(urls, path, size=None, sha256=None, git_blob=None):
    """Fetch a file into `path` from the first of `urls` that has it, unless it is there and right -> Path.

    size: bytes. sha256, git_blob: hexadecimal. What is given is checked before the file gets its name.
    Raises UserError if no address has the file, or the disk is full; what came so far waits in `path.part`.
    """
    path, expected = Path(path), Expected(size, sha256, git_blob)
    for url in urls:
        if not _is_allowed(url):
            raise UserError(f"not an https address, {url}; nothing else is fetched")
    if path.is_dir():
        raise UserError(f"a folder stands where a file should go, {path}; move it away")
    if path.exists() and not expected.problem(path):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        if path.exists():
            problem = expected.problem(path)
            if not problem:  # another process has fetched it while this one waited
                return path
            _say(f"{path} is there but {problem}; fetching it again")
        failures = []
        for url in urls:
            try:
                _fetch(url, path, expected)
                return path
            except _Refused as reason:
                failures.append(f"{url}: {reason}")
                _say(f"can't use {failures[-1]}")
    raise UserError(
        f"download of {path.name} failed ({'; '.join(failures)}); check the connection and the proxy variables, "
        f"or put the file at {path} by hand"
    )


def digest_of(path, name="sha256", start=b""):
    """The checksum of `start` and a file's content, hexadecimal; `name` is hashlib's."""
    digest = hashlib.new(name, start)
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(url, path, expected):
    """Fetch from one address, again and again while that brings something; rename into place if the file is right."""
    part, most, tries, restarted = _part(path), 0, 0, False
    while True:
        resumed = _size(part) > 0
        try:
            _transfer(url, path, expected)
        except _Broken as reason:
            tries = 1 if _size(part) > most else tries + 1
            most = max(most, _size(part))
            if tries >= TRIES:
                raise _Refused(str(reason)) from reason
            _say(f"{path.name}: {reason}; trying again")
            time.sleep(2 ** (tries - 1))
            continue
        problem = expected.problem(part)
        if not problem:
            os.replace(part, path)
            _discard(path)
            return
        _discard(path)
        if restarted or not resumed:
            raise _Refused(problem)
        restarted = (
            True  # the piece from before was of another file: once more, from the first byte
        )


def _transfer(url, path, expected):
    """Bring `path.part` to its end with one request. Raises _Broken, _Refused, or UserError for a full disk."""
    part = _part(path)
    offset, headers = _resume_from(url, path, expected)
    if offset and offset == expected.size:
        return
    with _open(url, headers) as response:
        extent = _extent(response, offset)
        if extent is None:
            _discard(path)
            raise _Broken("the server can't go on from the piece that is here")
        offset, total = extent
        chunk = _read(response)
        if offset == 0 and _looks_like_html(chunk):
            raise _Refused("a web page (HTML) came instead of the file")
        if expected.size is not None and total not in (None, expected.size):
            raise _Refused(f"the file there has {total:,} bytes instead of {expected.size:,}")
        total = expected.size if total is None else total
        if total is not None and total - offset > shutil.disk_usage(part.parent).free:
            raise UserError(
                f"{(total - offset) / 1e6:,.0f} MB don't fit on the disk, {part.parent}; free some space"
            )
        if offset == 0:
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
            _note(path).write_text(
                json.dumps({"url": url, "validator": validator}), encoding="utf-8"
            )
        progress = _Progress(path.name, offset, total)
        with open(part, "r+b" if offset else "wb", buffering=0) as file:
            file.seek(offset)
            while chunk:
                _write(file, chunk)
                offset += len(chunk)
                progress.show(offset)
                if expected.size is not None and offset > expected.size:
                    raise _Refused(f"more came than {expected.size:,} bytes")
                chunk = _read(response)
    if total is not None and offset < total:
        raise _Broken(f"the connection ended after {offset:,} of {total:,} bytes")


# ---------------------------------------------------------------- talking to a server


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to where `download` would go by itself, and never from https to anything less."""

    def redirect_request(self, request, fp, code, msg, headers, newurl):
        if not _is_allowed(newurl) or (
            request.type == "https" and urlsplit(newurl).scheme != "https"
        ):
            raise _Refused(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(request, fp, code, msg, headers, newurl)


def _is_allowed(url):
    parts = urlsplit(url)
    return parts.scheme in ("https", "file") or (
        parts.scheme == "http" and _is_this_machine(parts.hostname)
    )


def _is_this_machine(host):
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _open(url, headers):
    """Send the request -> response with status 200, 206 or 416 (None for file://)."""
    opener = urllib.request.build_opener(_SafeRedirect)
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        passing = error.code in (408, 429) or error.code >= 500
        raise (_Broken if passing else _Refused)(
            f"HTTP status {error.code} {error.reason}"
        ) from error
    except urllib.error.URLError as error:
        hopeless = isinstance(
            error.reason, FileNotFoundError
        ) or "CERTIFICATE_VERIFY_FAILED" in str(error.reason)
        raise (_Refused if hopeless else _Broken)(f"no connection ({error.reason})") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke ({str(error) or type(error).__name__})") from error


def _read(response):
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(f"the connection broke ({str(error) or type(error).__name__})") from error


def _extent(response, asked):
    """(first byte, bytes of the whole file or None) of a response; None if it holds neither what was asked nor all."""
    if response.status == 416:  # "range not satisfiable"
        return None
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != asked:
            return None
        return asked, None if match[2] == "*" else int(match[2])
    length = response.headers.get(
        "Content-Length", ""
    )  # a server may ignore the range and send all of it
    return 0, int(length) if length.isdecimal() else None


def _looks_like_html(data):
    return (
        data.removeprefix(b"\xef\xbb\xbf")
        .lstrip()[:14]
        .lower()
        .startswith((b"<!doctype html", b"<html"))
    )


# ---------------------------------------------------------------- files beside the target


def _part(path):
    return path.with_name(f"{path.name}.part")


def _note(path):
    """Where the piece in `path.part` comes from: JSON with url and validator (ETag or date)."""
    return path.with_name(f"{path.name}.part.json")


def _discard(path):
    _part(path).unlink(missing_ok=True)
    _note(path).unlink(missing_ok=True)


def _size(path):
    return path.stat().st_size if path.exists() else 0


def _resume_from(url, path, expected):
    """(offset, headers): from which byte to go on, 0 unless a checksum or the server's validator can tell a mix."""
    headers = {"User-Agent": "gptft", "Accept-Encoding": "identity"}
    offset = _size(_part(path))
    try:
        note = json.loads(_note(path).read_text(encoding="utf-8"))
        validator = note["validator"] if note["url"] == url else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        validator = None
    usable = isinstance(validator, str) and not validator.startswith(
        "W/"
    )  # a weak ETag doesn't promise equal bytes
    if (
        not offset
        or offset > (expected.size or offset)
        or not (usable or expected.sha256 or expected.git_blob)
    ):
        return 0, headers
    headers["Range"] = f"bytes={offset}-"
    if usable:
        headers["If-Range"] = validator  # the whole file, should it have changed
    return offset, headers


def _write(file, chunk):
    try:
        while chunk:
            chunk = chunk[file.write(chunk) :]
    except OSError as error:
        raise UserError(
            f"can't write ({error.strerror}), {file.name}; free some space and run it again"
        ) from error


@contextmanager
def _lock(path):
    """Let one process at a time fetch `path`; the lock dies with its process."""
    if fcntl is None:
        yield
        return
    lock = path.with_name(f"{path.name}.lock")
    while True:
        with open(lock, "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _say(f"another process is fetching {path.name}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            try:
                ours = os.path.samestat(os.stat(lock), os.fstat(file.fileno()))
            except (
                FileNotFoundError
            ):  # its holder removed it while we waited: take the lock that counts now
                continue
            if ours:
                try:
                    yield
                finally:
                    lock.unlink()
                return


# ---------------------------------------------------------------- talking to the user


def _say(line):
    print(line, file=sys.stderr, flush=True)


class _Progress:
    """How far it is, on standard error: one line that changes on a terminal, else a line every ten seconds."""

    def __init__(self, name, offset, total):
        self.name, self.first, self.total = name, offset, total
        self.terminal = sys.stderr.isatty()
        self.start = self.shown = time.monotonic()

    def show(self, offset):
        """Report that `offset` bytes are there: on a terminal five times a second, and at the end of the line."""
        now = time.monotonic()
        if now - self.shown < (0.2 if self.terminal else 10) and not (
            self.terminal and offset == self.total
        ):
            return
        self.shown = now
        rate = (offset - self.first) / max(now - self.start, 1e-3)  # bytes a second
        line = f"{self.name[:24]}: {offset / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s"
        if self.total:
            left = (self.total - offset) / max(rate, 1)
            line += f", {offset / self.total:.0%} of {self.total / 1e6:,.1f} MB, {left:,.0f} s left"
        end = "" if self.terminal and offset != self.total else "\n"
        print(f"\r{line:<79}" if self.terminal else line, end=end, file=sys.stderr, flush=True)
