"""Images of others are asked for politely and once, looked at, and stored only if they are what they should be."""

import io
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hosting import hosting
from PIL import Image, ImageFile

from comem_lmms.data.http import Client
from comem_lmms.data.images import is_image
from comem_lmms.errors import UserError
from comem_lmms.knowledge import addresses, pictures
from comem_lmms.knowledge.fetching import PATIENCE, UNREACHABLE, Fetcher
from comem_lmms.knowledge.pictures import Picture, Problem, inspect, type_of

COMMONS = "https://upload.wikimedia.org/wikipedia/commons"


def file(kind: str, size: tuple[int, int] = (40, 30), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few kB that says that it is this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_images_of_all_kinds(kind):
    assert inspect(file(kind)) == Picture(kind.lower(), 40, 30)
    assert inspect(file(kind)[: len(file(kind)) // 2]).kind in ("image_damaged", "not_an_image")


def test_images_that_are_cut_off_are_refused_where_lmms_eval_has_told_pil_to_accept_them(monkeypatch, tmp_path):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    cut = file("PNG", (400, 300))[:-30]
    assert inspect(cut).kind == "image_damaged"
    (tmp_path / "cut.png").write_bytes(cut)
    assert not is_image(tmp_path / "cut.png", whole=True)
    with ThreadPoolExecutor(8) as threads:
        assert {found.kind for found in threads.map(inspect, [cut] * 200)} == {"image_damaged"}
    assert ImageFile.LOAD_TRUNCATED_IMAGES


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "not_an_image"),
        (b"<html><body>Not found</body></html>", "not_an_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (bomb(9_000), "image_too_many_pixels"),
        (bomb(60_000), "image_too_many_pixels"),
        (bomb(1_000), "image_damaged"),
    ],
)
def test_what_is_no_image(data, kind):
    assert inspect(data).kind == kind


def test_a_file_larger_than_any_image(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_BYTES", 100)
    assert inspect(file("BMP")).kind == "image_too_large"


def test_a_jpeg_with_more_pictures_behind_it_is_one():
    buffer = io.BytesIO()
    pictures_ = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pictures_[0].save(buffer, "MPO", save_all=True, append_images=pictures_[1:])
    assert inspect(buffer.getvalue()).type == "jpeg"


def test_names_of_types():
    names = {"a.JPG": "jpeg", "image/svg+xml": "svg", "http://h/x.tif": "tiff", "image/jpeg": "jpeg", "x": ""}
    assert {name: type_of(name) for name in names} == names


@pytest.mark.parametrize(
    ("original", "width", "thumbnail"),
    [
        ("/5/5f/A_(b).jpg", 2748, "/thumb/5/5f/A_(b).jpg/500px-A_(b).jpg"),
        ("/5/5f/A.jpg", 501, "/thumb/5/5f/A.jpg/500px-A.jpg"),
        ("/5/5f/A.jpg", 500, "/5/5f/A.jpg"),
        ("/5/5f/A.jpg", None, "/5/5f/A.jpg"),
        ("/5/5f/A.svg", 20, "/thumb/5/5f/A.svg/500px-A.svg.png"),
        ("/5/5f/A.SVG", None, "/thumb/5/5f/A.SVG/500px-A.SVG.png"),
        ("/5/5f/A.tif", 900, "/thumb/5/5f/A.tif/lossy-page1-500px-A.tif.jpg"),
        ("/5/5f/A.tiff", 400, "/5/5f/A.tiff"),
        ("/5/5f/A.webp", 900, "/thumb/5/5f/A.webp/500px-A.webp.png"),
        (f"/5/5f/{'%C3%A9' * 80}.jpg", 900, f"/thumb/5/5f/{'%C3%A9' * 80}.jpg/500px-thumbnail.jpg"),
        (f"/5/5f/{'%C3%A9' * 78}.jpg", 900, f"/thumb/5/5f/{'%C3%A9' * 78}.jpg/500px-{'%C3%A9' * 78}.jpg"),
        ("/thumb/5/5f/A.jpg/300px-A.jpg", 900, "/thumb/5/5f/A.jpg/300px-A.jpg"),
    ],
)
def test_thumbnails(original, width, thumbnail):
    assert addresses.thumbnail(COMMONS + original, 500, width) == COMMONS + thumbnail


def test_thumbnails_are_asked_of_wikimedia_alone():
    url = "https://example.org/wikipedia/commons/5/5f/A.jpg"
    assert addresses.thumbnail(url, 500, 9000) == url
    with pytest.raises(UserError, match=r"--image-width 512 is refused by Wikimedia, which serves 20, .*; give 500"):
        addresses.check_width(512)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        (" http://h/a b.jpg ", "http://h/a%20b.jpg"),
        ("https://h/%C3%A9_é.jpg?x=1&y=ü", "https://h/%C3%A9_%C3%A9.jpg?x=1&y=%C3%BC"),
        ("http://bücher.example", "http://xn--bcher-kva.example/"),
        ("ftp://h/a.jpg", None),
        ("file:///etc/passwd", None),
        ("http://", None),
        ("http://[x/a.jpg", None),
        ("http://h:99999/a.jpg", None),
        ("http://h/a.jpg#part", "http://h/a.jpg"),
    ],
)
def test_urls_that_can_be_sent(url, sent):
    assert addresses.sendable(url) == sent


@pytest.fixture
def host():
    with hosting() as host:
        yield host


def fetcher(tmp_path, **options):
    return Fetcher(
        Client("me@example.org", pause=0.0, tries=2, timeout=5.0, sleep=lambda s: None, **options),
        tmp_path / "spool",
        2,
    )


def fetch(fetcher, urls):
    told = []
    fetcher.fetch(urls, lambda: told.append(1))
    assert len(told) == len(urls)
    return [fetcher.result(url) for url in urls]


def test_each_url_is_asked_once(host, tmp_path):
    good, lie, gone, torn = (f"{host.url}/{name}" for name in ("good.jpg", "lie.jpg", "gone.jpg", "torn.jpg"))
    host.files |= {"/good.jpg": file("JPEG"), "/lie.jpg": b"<html>", "/torn.jpg": file("JPEG")[:-300]}
    urls = [good, lie, gone, torn]
    results = fetch(fetcher(tmp_path), urls)
    assert results[0].read_bytes() == file("JPEG")
    assert [result.kind for result in results[1:]] == ["not_an_image", "image_gone", "image_damaged"]
    again = fetch(fetcher(tmp_path), urls)  # a build that goes on after kill -9
    assert again == results
    assert sorted(path for path, _ in host.requests) == sorted(url.removeprefix(host.url) for url in urls)
    assert all("me@example.org" in headers["User-Agent"] for _, headers in host.requests)


def test_what_passes_is_tried_again_and_not_remembered(host, tmp_path):
    host.files["/a.jpg"] = file("JPEG")
    host.faults["/a.jpg"] = [(429, {"Retry-After": "1"}), (503, {})]
    (problem,) = fetch(fetcher(tmp_path), [f"{host.url}/a.jpg"])
    assert problem.kind == UNREACHABLE
    (path,) = fetch(fetcher(tmp_path), [f"{host.url}/a.jpg"])
    assert path.read_bytes() == file("JPEG")


def test_refusals_and_sizes(host, tmp_path):
    host.faults["/a.jpg"] = [(403, {})]
    host.faults["/b.jpg"] = [(400, {})]
    host.files["/c.jpg"] = file("BMP", (300, 300))
    results = fetch(fetcher(tmp_path, limit=1000), [f"{host.url}/{name}.jpg" for name in "abc"])
    assert [result.kind for result in results] == ["image_refused"] * 3
    assert "more than 1,000 bytes" in results[2].detail


def test_no_network_stops_after_some_images(tmp_path):
    with hosting() as host:
        url = host.url
    with pytest.raises(
        UserError, match=rf"cannot be reached, {PATIENCE} images in a row .* all that was fetched is kept"
    ):
        fetch(fetcher(tmp_path), [f"{url}/{i}.jpg" for i in range(1000)])


def test_a_host_that_goes_away_stops_the_build_and_one_that_never_was_does_not(host, tmp_path):
    with hosting() as other:
        dead = other.url
    host.files |= {f"/{i}.jpg": file("JPEG") for i in range(5)}
    asker = fetcher(tmp_path)
    fetch(asker, [f"{host.url}/{i}.jpg" for i in range(5)])
    assert {result.kind for result in fetch(asker, [f"{dead}/{i}.jpg" for i in range(30)])} == {UNREACHABLE}
    for i in range(20):
        host.faults[f"/x{i}.jpg"] = [(503, {})] * 9
    with pytest.raises(UserError, match="cannot be reached"):
        fetch(asker, [f"{host.url}/x{i}.jpg" for i in range(20)])


def test_a_host_that_wants_to_be_left_alone_is(host, tmp_path):
    host.faults["/a.jpg"] = [(429, {"Retry-After": "86400"})]
    with pytest.raises(UserError, match="asks to be left alone for 86400 s"):
        fetch(fetcher(tmp_path), [f"{host.url}/a.jpg"])


def test_wikimedia_wants_a_contact(tmp_path):
    with pytest.raises(UserError, match=r"upload.wikimedia.org wants to know whom it serves; give --contact MAIL"):
        Fetcher(Client(), tmp_path, 2).fetch([f"{COMMONS}/5/5f/A.jpg"], lambda: None)


def test_what_a_host_sends_may_be_no_http(host, tmp_path):
    host.faults["/a.jpg"] = [(429, {"Retry-After": "soon"}), (200, {"Content-Length": "many"})]
    assert fetch(fetcher(tmp_path), [f"{host.url}/a.jpg"])[0].kind in ("image_refused", UNREACHABLE, "not_an_image")


@contextmanager
def counting():
    """A host that is slow, and knows how many it serves at the same time and when they came."""
    lock, state = threading.Lock(), {"now": 0, "most": 0, "times": []}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with lock:
                state["times"].append(time.monotonic())
                state["now"] += 1
                state["most"] = max(state["most"], state["now"])
            time.sleep(0.1)
            with lock:
                state["now"] -= 1
            data = file("PNG")
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()


def test_a_host_is_asked_by_so_many_at_a_time(tmp_path):
    with counting() as (url, state):
        fetch(fetcher(tmp_path), [f"{url}/{i}.png" for i in range(12)])
    assert state["most"] == 2


def test_threads_share_the_rate_and_what_one_is_told(host, tmp_path):
    slept: list[float] = []
    client = Client(pause=5.0, sleep=slept.append)
    host.files |= {f"/{i}.jpg": file("JPEG") for i in range(3)}
    fetch(Fetcher(client, tmp_path / "a", 3), [f"{host.url}/{i}.jpg" for i in range(3)])
    assert [round(wait) for wait in sorted(slept)] == [5, 10]
    host.faults["/3.jpg"] = [(429, {"Retry-After": "60"})]
    host.files |= {f"/{i}.jpg": file("JPEG") for i in (3, 4)}
    told = Client(pause=0.0, sleep=slept.append)
    slept.clear()
    told.fetch(f"{host.url}/3.jpg", tmp_path / "3", progress=False)
    told.fetch(f"{host.url}/4.jpg", tmp_path / "4", progress=False)
    assert slept[0] == 60.0
    assert 55 < slept[1] <= 60  # as if no time had passed since


def test_problems_survive_the_spool_as_they_were(host, tmp_path):
    asker = fetcher(tmp_path)
    host.files["/a.jpg"] = "é\n<html>".encode()
    assert fetch(asker, [f"{host.url}/a.jpg"]) == [Problem("not_an_image", repr("é\n<html>".encode()))]
    asker.forget([f"{host.url}/a.jpg"])
    assert not list((tmp_path / "spool").iterdir())
    asker.close()
    assert not (tmp_path / "spool").exists()
