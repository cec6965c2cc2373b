"""Downloads are whole, checked, gone on with and polite."""

import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hosting import hosting

from comem_lmms.data.downloads import SUMS, Downloads
from comem_lmms.data.http import Client
from comem_lmms.data.sources import File
from comem_lmms.errors import UserError
from comem_lmms.files import sha256

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


def test_a_short_wait_does_not_cut_a_long_one_short(host, client, waits, tmp_path):
    host.faults = {"/file": [(429, {"Retry-After": "30"}), (503, {})]}
    client.fetch(f"{host.url}/file", tmp_path / "a")
    waits.clear()
    client.fetch(f"{host.url}/file", tmp_path / "b")  # whoever comes next waits for what is left of the 30 s
    assert [round(wait) for wait in waits] == [30]


def test_a_host_that_stays_busy_is_given_up(host, client, waits, tmp_path, caplog):
    host.faults["/file"] = [(503, {})] * 20
    with pytest.raises(UserError, match="status 503, 6 times"):
        client.fetch(f"{host.url}/file", tmp_path / "file")
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert caplog.messages == [f"{host.url}/file: status 503; attempt {n + 2} of 6 in {2**n} s" for n in range(5)]


def test_a_long_wait_is_said_and_can_be_interrupted(host, tmp_path):
    """Through the command line: control-C ends it at once, and what was downloaded is kept."""
    program = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from comem_lmms import cli\n"
        "from comem_lmms.data import sources\n"
        "source = sources.SOURCES['evqa_train']\n"
        "file = replace(source.files[0], url=sys.argv.pop(1))\n"
        "sources.SOURCES['evqa_train'] = replace(source, files=(file,))\n"
        "sys.exit(cli.main())"
    )
    host.faults["/file"] = [2_000_000, (429, {"Retry-After": "500"})]
    command = [sys.executable, "-c", program, f"{host.url}/file", "data", "prepare", "evqa_train"]
    environment = {**os.environ, "COMEM_DATA": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        said = iter(process.stderr.readline, "")
        assert any("status 429; attempt 3 of 6 in 500 s" in line for line in said)
        process.send_signal(signal.SIGINT)
        assert list(said) == ["comem-lmms: interrupted\n"]
    assert process.returncode == 130
    assert (tmp_path / "downloads/evqa/train.csv.partial").stat().st_size == 2_000_000


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


def test_a_download_that_was_killed_at_its_last_byte_is_whole(host, client, waits, tmp_path):
    (tmp_path / "file.partial").write_bytes(CONTENT)
    (tmp_path / "file.partial.etag").write_text(f'"{sha256_of(CONTENT)}"')
    client.fetch(f"{host.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert len(host.requests) == 1
    assert not waits


def test_killed_at_any_moment_it_goes_on(host, client, tmp_path):
    """Killed over and over, among many small files: each is fetched once more at most, and each has its checksum."""
    names = [f"{number:03}" for number in range(60)]
    host.files.update({f"/{name}": name.encode() * 1_000 for name in names})
    program = (
        "import sys; from pathlib import Path\n"
        "from comem_lmms.data.downloads import Downloads\n"
        "from comem_lmms.data.http import Client\n"
        "from comem_lmms.data.sources import File\n"
        "downloads = Downloads(Path(sys.argv[2]), Client(pause=0.0))\n"
        "for name in sys.argv[3:]: downloads.get(File(name, f'{sys.argv[1]}/{name}'), progress=False)"
    )
    kills = (3, 11, 25, 44)
    for enough in kills:
        with subprocess.Popen([sys.executable, "-c", program, host.url, str(tmp_path), *names]) as process:
            while len(host.requests) < enough and process.poll() is None:
                time.sleep(0.001)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    downloads = Downloads(tmp_path, client)
    for name in names:
        assert downloads.get(File(name, f"{host.url}/{name}"), progress=False).read_bytes() == host.files[f"/{name}"]
    assert len(names) <= len(host.requests) <= len(names) + len(kills)
    sums = dict(reversed(line.split("  ")) for line in (tmp_path / SUMS).read_text().splitlines())
    assert sums == {name: sha256_of(host.files[f"/{name}"]) for name in names}
    assert {path.name for path in tmp_path.iterdir()} == {*names, SUMS}


def test_a_checksum_is_added_without_writing_the_others_again(host, client, tmp_path):
    downloads = Downloads(tmp_path, client)
    downloads.get(File("one", f"{host.url}/file"))
    before = (tmp_path / SUMS).stat().st_ino
    other = Downloads(tmp_path, client)  # as another process
    downloads.get(File("two", f"{host.url}/file"))
    other.get(File("three", f"{host.url}/file"))
    assert (tmp_path / SUMS).stat().st_ino == before
    lines = (tmp_path / SUMS).read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["one", "two", "three"]


def test_a_checksum_that_was_cut_off_is_written_again(host, client, tmp_path):
    file = File("some/file", f"{host.url}/file")
    Downloads(tmp_path, client).get(File("other", f"{host.url}/file"))
    path = Downloads(tmp_path, client).get(file)
    whole = (tmp_path / SUMS).read_text()
    for cut in (1, 5, 40, 70):
        (tmp_path / SUMS).write_text(whole[:-cut])
        Downloads(tmp_path, client).get(file)
        assert sorted((tmp_path / SUMS).read_text().splitlines()) == sorted(whole.splitlines())
    path.write_bytes(b"spoiled")
    with pytest.raises(UserError, match="was changed"):
        Downloads(tmp_path, client).get(file)


def test_what_nobody_looked_at_is_not_taken_for_whole(host, client, tmp_path):
    """A process was killed between a file's last byte and the look at it."""
    (tmp_path / "image").write_bytes(b"<html>please wait</html>")
    host.files["/image"] = b"an image"
    path = Downloads(tmp_path, client).get(File("image", f"{host.url}/image"), usable=_is_image)
    assert path.read_bytes() == b"an image"
    Downloads(tmp_path, client).get(File("image", f"{host.url}/image"), usable=_is_image)
    assert len(host.requests) == 1


def _is_image(path):
    return path.read_bytes() == b"an image"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_said_and_no_matter_of_the_network(host, client, waits, tmp_path):
    host.files["/file"] = b"smaller than a buffer"
    (tmp_path / "file.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write .* \(the disk is full\); put that right and run it again"):
        client.fetch(f"{host.url}/file", tmp_path / "file")
    assert len(host.requests) == 1
    assert not waits


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
