"""Downloads are whole, checked, gone on with and polite."""

import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hosting import hosting

from comem_lmms.data.downloads import SUMS, Downloads, sha256
from comem_lmms.data.http import Client
from comem_lmms.data.sources import File
from comem_lmms.errors import UserError

CONTENT = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture
def host():
    with hosting() as host:
        host.files["/file"] = CONTENT
        yield host


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(waits) -> Client:
    return Client("me@example.org", pause=0.0, sleep=waits.append)


def test_a_file_arrives_under_one_honest_name(host, client, tmp_path):
    client.fetch(f"{host.url}/file", tmp_path / "deep" / "file")
    assert (tmp_path / "deep" / "file").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]
    (asked,) = host.asked("/file")
    assert asked["User-Agent"].startswith("comem-lmms/")
    assert "me@example.org" in asked["User-Agent"]
    assert "Mozilla" not in asked["User-Agent"]


def test_a_dropped_connection_is_gone_on_with(host, client, waits, tmp_path):
    host.faults["/file"] = [3_000_000, 1_000_000]
    client.fetch(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert [request.get("Range") for request in host.asked("/file")] == [None, "bytes=3000000-", "bytes=4000000-"]
    assert waits == [1.0, 1.0]  # each attempt brought something


def test_a_file_that_changed_meanwhile_is_begun_again(host, client, tmp_path):
    host.faults["/file"] = [3_000_000, (404, {})]
    with pytest.raises(UserError, match="status 404"):
        client.fetch(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file.partial").stat().st_size == 3_000_000
    host.files["/file"] = CONTENT[::-1]
    client.fetch(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT[::-1]


def test_a_shorter_file_than_begun_is_begun_again(host, client, tmp_path):
    (tmp_path / "file.partial").write_bytes(CONTENT + b"more")
    (tmp_path / "file.partial.etag").write_text(f'"{sha256_of(CONTENT)}"')
    client.fetch(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def sha256_of(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def test_nothing_is_glued_where_the_host_cannot_say_what_it_has(host, client, tmp_path):
    host.etags = False
    host.faults["/file"] = [3_000_000]
    client.fetch(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert not any("Range" in request for request in host.asked("/file"))


def test_a_killed_download_is_gone_on_with(host, client, tmp_path):
    program = (
        "import sys; from pathlib import Path; from comem_lmms.data.http import Client\n"
        "Client(sleep=lambda s: (print('waiting', flush=True), sys.stdin.read())).fetch(sys.argv[1], Path(sys.argv[2]))"
    )
    host.faults["/file"] = [2_000_000]
    command = [sys.executable, "-c", program, f"{host.url}/file", str(tmp_path / "file")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"waiting\n"
        process.kill()
    assert not (tmp_path / "file").exists()
    client.fetch(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert host.asked("/file")[-1]["Range"] == "bytes=2000000-"


def test_a_busy_host_is_left_alone_as_long_as_it_asks_for(host, client, waits, tmp_path):
    at = datetime.now(timezone.utc) + timedelta(seconds=90)
    host.faults["/file"] = [
        (429, {"Retry-After": "7"}),
        (503, {"Retry-After": format_datetime(at)}),
        (500, {}),
        (502, {}),
    ]
    client.fetch(f"{host.url}/file", tmp_path / "file")
    assert waits[0] == 7.0
    assert 80 < waits[1] <= 90
    assert waits[2:] == [4.0, 8.0]


def test_a_host_that_asks_for_too_long_a_wait_is_left_alone(host, client, tmp_path):
    host.faults["/file"] = [(429, {"Retry-After": "86400"})]
    with pytest.raises(UserError, match="asks to be left alone for 86400 s"):
        client.fetch(f"{host.url}/file", tmp_path / "file")
    assert len(host.requests) == 1


def test_a_host_that_stays_busy_is_given_up(host, client, waits, tmp_path):
    host.faults["/file"] = [(503, {})] * 20
    with pytest.raises(UserError, match="status 503, 6 times"):
        client.fetch(f"{host.url}/file", tmp_path / "file")
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_argued_with(host, client, waits, tmp_path, status):
    host.faults["/file"] = [(status, {})]
    with pytest.raises(UserError, match=f"cannot download {host.url}/file: status {status}"):
        client.fetch(f"{host.url}/file", tmp_path / "file")
    assert len(host.requests) == 1
    assert not waits


@pytest.mark.parametrize("contact", ["me", "me@example.org\nHost: other", "ü@example.org"])
def test_a_contact_is_a_mail_address(contact):
    with pytest.raises(UserError, match="is no mail address"):
        Client(contact)


def test_no_network_is_said_in_one_line(client, tmp_path):
    with hosting() as host:
        url = host.url
    with pytest.raises(UserError, match=r"cannot download .*check the network") as error:
        client.fetch(f"{url}/file", tmp_path / "file")
    assert "\n" not in str(error.value)


def test_requests_to_a_host_keep_their_distance(host, tmp_path):
    client = Client(pause=0.2)
    start = time.monotonic()
    for number in range(3):
        client.fetch(f"{host.url}/file", tmp_path / str(number))
    assert time.monotonic() - start >= 0.4


def test_a_file_that_cannot_be_written_is_no_matter_of_the_network(host, client, waits, tmp_path):
    (tmp_path / "file.partial").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        client.fetch(f"{host.url}/file", tmp_path / "file")
    assert not waits


def test_a_disk_that_is_too_small_is_noticed_before(host, client, tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(UserError, match=r"needs 5,120,000 bytes but .* has 10 left"):
        client.fetch(f"{host.url}/file", tmp_path / "file")


def test_what_is_there_is_not_asked_for_again(host, client, tmp_path):
    file = File("some/file", f"{host.url}/file")
    for _ in range(2):
        path = Downloads(tmp_path, client).get(file)
    assert len(host.requests) == 1
    assert (tmp_path / SUMS).read_text() == f"{sha256(path)}  some/file\n"


def test_a_published_checksum_must_be_met(host, client, tmp_path):
    wrong = File("file", f"{host.url}/file", sha256="0" * 64)
    with pytest.raises(UserError, match="is not the file it was"):
        Downloads(tmp_path, client, force=True).get(wrong)
    assert not (tmp_path / "file").exists()
    with pytest.raises(UserError, match="expected 7 bytes"):
        Downloads(tmp_path, client).get(File("file", f"{host.url}/file", size=7))
    Downloads(tmp_path, client).get(File("file", f"{host.url}/file", size=len(CONTENT), sha256=sha256_of(CONTENT)))


def test_the_first_checksum_counts_where_none_is_published(host, client, tmp_path):
    file = File("file", f"{host.url}/file")
    path = Downloads(tmp_path, client).get(file)
    path.write_bytes(b"spoiled")
    with pytest.raises(UserError, match="was changed"):
        Downloads(tmp_path, client).get(file)
    path.unlink()
    host.files["/file"] = b"another"
    with pytest.raises(UserError, match="accept the change with --force"):
        Downloads(tmp_path, client).get(file)
    assert Downloads(tmp_path, client, force=True).get(file).read_bytes() == b"another"
    assert Downloads(tmp_path, client).get(file).read_bytes() == b"another"


def test_what_the_user_put_there_survives_force(host, client, tmp_path, caplog):
    file = File("types", f"{host.url}/types", optional=True)
    assert Downloads(tmp_path, client).get_optional(file) is None
    assert f"put it at {tmp_path / 'types'}" in caplog.text
    (tmp_path / "types").write_bytes(b"mine")
    assert Downloads(tmp_path, client, force=True).get_optional(file).read_bytes() == b"mine"
