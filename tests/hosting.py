"""A host on this machine, for tests of downloads: files by path, and faults that it commits once each."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from comem_lmms.data.sources import File, Source


@dataclass
class Host:
    """Serves ``files``; before a path is served well, its ``faults`` are, one a request.

    A fault is a number of bytes after which the connection ends, a status with its headers, or seconds (as a float) of
    silence before the file.

    What is sent (POST, PUT) goes to ``receive``: method, path, headers and body in, status and answer out.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    headers_of: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    faults: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    etags: bool = True
    receive: Callable[[str, str, Any, bytes], tuple[int, Any]] = lambda *_: (405, {})

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of the requests for a path."""
        return [headers for asked, headers in self.requests if asked == path]


@contextmanager
def hosting() -> Iterator[Host]:
    """A host while it runs."""
    host = Host()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            host.requests.append((path, dict(self.headers)))
            fault = host.faults[path].pop(0) if host.faults[path] else None
            if isinstance(fault, float):
                time.sleep(fault)
                fault = None
            if isinstance(fault, tuple):
                return self.answer(fault[0], b"", fault[1])
            if path not in host.files:
                return self.answer(404, b"", {})
            content = host.files[path]
            headers = {**host.headers, **host.headers_of[path]}
            if host.etags:
                headers["ETag"] = f'"{sha256(content).hexdigest()}"'
            status, begin = 200, 0
            if "Range" in self.headers and self.headers.get("If-Range") == headers.get("ETag"):
                begin = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
                status = 206 if begin < len(content) else 416
                part = f"{begin}-{len(content) - 1}" if status == 206 else "*"
                headers["Content-Range"] = f"bytes {part}/{len(content)}"
            self.answer(status, content[begin:], headers, fault)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            host.requests.append((path, dict(self.headers)))
            status, said = host.receive(self.command, path, self.headers, body)
            self.answer(status, json.dumps(said).encode(), {})

        def do_PUT(self) -> None:
            self.do_POST()

        def answer(self, status: int, body: bytes, headers: dict[str, str], sent: int | None = None) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                with suppress(ConnectionError):  # whoever asked was killed
                    self.wfile.write(body if sent is None else body[:sent])
            self.close_connection = True

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()


def publish(host: Host, repository: str, commit: str, files: dict[str, bytes]) -> dict[str, str]:
    """Makes the host a Hub with one data set, without folders; returns the environment to use it."""
    api, resolve = f"/api/datasets/{repository}", f"/datasets/{repository}/resolve/{commit}"
    host.headers["X-Repo-Commit"] = commit
    about = {"id": repository, "sha": commit, "private": False, "gated": False, "tags": []}
    about["siblings"] = [{"rfilename": name} for name in files]
    for path in (api, f"{api}/revision/{commit}"):
        host.files[path] = json.dumps(about).encode()
    entries = [{"type": "file", "path": name, "size": len(text), "oid": "b" * 40} for name, text in files.items()]
    host.files[f"{api}/tree/{commit}"] = json.dumps(entries).encode()
    host.files.update({f"{resolve}/{name}": text for name, text in files.items()})
    return {"HF_ENDPOINT": host.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def moved(source: Source, host: Host, counts: dict[str, int | None] | None = None) -> Source:
    """A source whose files are on the host, below their names; with other ``counts``, of made-up content."""

    def at(file: File) -> File:
        file = replace(file, url=f"{host.url}/{file.name}")
        return file if counts is None else replace(file, size=None, sha256=None, rows=None)

    return replace(
        source,
        files=tuple(map(at, source.files)),
        titles=source.titles and at(source.titles),
        counts=source.counts if counts is None else counts,
        images=source.images and replace(source.images, url=source.images.url and f"{host.url}/images/{{}}.jpg"),
    )
