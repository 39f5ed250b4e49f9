"""What lies at a path, told in words; only plain files are ever opened."""

import os
import socket
import unicodedata
from errno import EIO, EMFILE, ENFILE, ENOMEM, ESTALE
from pathlib import Path

import pytest

from pipeline.data.errors import BadInput, printable
from pipeline.data.images import read_bytes, read_listed, read_upright
from pipeline.data.paths import check_folder, inside, open_file

NFC, NFD = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain name.jpg", "plain name.jpg"),
        ("'$(rm -rf x)'; ls \"%s\" <script>.png", "'$(rm -rf x)'; ls \"%s\" <script>.png"),
        (NFD, NFD),
        ("日本語.png", "日本語.png"),
        ("two\nlines.png", "two\\nlines.png"),
        ("\x1b[31mred.png", "\\x1b[31mred.png"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        (os.fsdecode(b"caf\xe9.png"), "caf\\udce9.png"),
    ],
)
def test_a_name_stays_on_its_line(name: str, expected: str) -> None:
    assert printable(name) == expected


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of all that is no plain file, and of one that is."""
    inner = tmp_path / "photos"
    (inner / "sub").mkdir(parents=True)
    (inner / "good.png").write_bytes(b"x")
    (inner / "a.jpg").mkdir()
    os.mkfifo(inner / "pipe.jpg")
    (tmp_path / "secret").write_bytes(b"s")
    links = {
        "inner.png": "good.png",
        "sub/up.png": "../good.png",
        "dangling.png": "gone.png",
        "loop.png": "pool.png",
        "pool.png": "loop.png",
        "self.png": "self.png",
        "out.png": "../secret",
        "absolute.png": str(tmp_path / "secret"),
        "zero.png": "/dev/zero",
        "linked": "sub",
        "outer": "..",
        "odd.png": "two\nlines",
    }
    for name, target in links.items():
        (inner / name).symlink_to(target)
    return inner


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.jpg", "expected a file, found a folder"),
        ("pipe.jpg", "expected a file, found a pipe (FIFO)"),
        ("dangling.png", "expected a file, found a link to gone.png, which is not there"),
        ("odd.png", "expected a file, found a link to two\\nlines, which is not there"),
        ("loop.png", "expected a file, found a loop of links"),
        ("self.png", "expected a file, found a loop of links"),
        ("linked", "expected a file, found a link to a folder"),
        ("gone.png", "expected a file, found nothing"),
        ("good.png/x.png", "expected a file, found nothing: a part of its path is no folder"),
        ("x" * 300 + ".png", "expected a file, found a name too long for the file system"),
        ("Good.PNG", "expected a file, found nothing; 'good.png' ('good.png') is there, spelled otherwise"),
        ("out.png", "found a way out of it to "),
        ("absolute.png", "found a way out of it to "),
        ("zero.png", "found a way out of it to /dev/zero"),
        ("outer/secret", "found a way out of it to "),
        ("../secret", "found a way out of it to "),
    ],
)
def test_what_is_no_plain_file_is_told(folder: Path, name: str, found: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_listed(folder, name)
    assert str(caught.value).startswith(f"image {name}: ")
    assert found in str(caught.value)


@pytest.mark.parametrize("name", ["good.png", "inner.png", "sub/up.png", "linked/up.png", "./good.png"])
def test_links_within_the_folder_are_followed(folder: Path, name: str) -> None:
    assert read_listed(folder, name) == b"x"
    (folder.parent / "alias").symlink_to(folder)
    assert read_listed(folder.parent / "alias", name) == b"x"


def test_sockets_and_devices_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may have 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.png")
        with pytest.raises(BadInput, match=r"^image s.png: expected a file, found a socket$"):
            read_bytes(Path("s.png"))
    with pytest.raises(BadInput, match="found a device"):
        open_file(Path("/dev/zero"))


def test_a_missing_file_is_looked_for_under_other_spellings(tmp_path: Path) -> None:
    """macOS writes names in another normal form than most JSON files: told with the hint, never guessed."""
    (tmp_path / NFD).write_bytes(b"d")
    with pytest.raises(BadInput) as caught:
        read_listed(tmp_path, NFC)
    assert str(caught.value) == (
        f"image {NFC}: expected a file, found nothing; {NFD!r} ({NFD!a}) is there, spelled otherwise"
    )
    (tmp_path / NFC).write_bytes(b"c")  # both may be there, as two files
    assert (read_listed(tmp_path, NFC), read_listed(tmp_path, NFD)) == (b"c", b"d")


def test_no_right_to_read(without_rights: Path) -> None:
    photo, closed = without_rights / "a.png", without_rights / "closed"
    photo.write_bytes(b"x")
    photo.chmod(0)
    closed.mkdir()
    (closed / "b.png").write_bytes(b"x")
    closed.chmod(0)
    for path in (photo, closed / "b.png"):
        with pytest.raises(BadInput) as caught:
            read_upright(path)
        assert str(caught.value) == f"image {path}: cannot be read: Permission denied"
    closed.chmod(0o700)


@pytest.mark.parametrize("code", [EIO, EMFILE, ENFILE, ENOMEM, ESTALE])
def test_what_may_pass_is_no_fault_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    (tmp_path / "a.png").write_bytes(b"x")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(OSError, match=r"a\.png") as caught:
        read_listed(tmp_path, "a.png")
    assert caught.value.errno == code


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="asks for Linux's /proc")
def test_a_read_that_fails_is_no_fault_of_the_file_either() -> None:
    with pytest.raises(OSError, match="mem") as caught:
        read_listed(Path("/proc/self"), "mem")  # nothing lies at its beginning
    assert caught.value.errno == EIO


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.images.MAX_FILE_BYTES", 10)
    (tmp_path / "a.png").write_bytes(bytes(11))
    with pytest.raises(BadInput, match=r"a\.png: expected at most 10 bytes, found more"):
        read_bytes(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "found"), [("gone", "none"), ("good.png", "a file"), ("dangling.png", "none")]
)
def test_a_folder_that_is_none(folder: Path, name: str, found: str) -> None:
    with pytest.raises(BadInput, match=f"{name}: expected a folder of images, found {found}"):
        check_folder(folder / name)


def test_a_folder_beside_with_a_longer_name_is_outside(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").mkdir()
    with pytest.raises(BadInput, match="found a way out"):
        inside(tmp_path / "a", "../ab/x.png")
