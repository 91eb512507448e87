"""Zip and tar: the same index as the folder they hold, and nothing unsafe gets in."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from warmstart.data.read import read
from warmstart.errors import DataError
from warmstart.events import drain


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 3), value).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    f"{name}/{i}.png": png(10 * k + i) for k, name in enumerate(("cat", "dog")) for i in range(2)
}


def pack(path: Path, files: dict[str, bytes], top: str = "") -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, payload in files.items():
                archive.writestr(top + name, payload)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, payload in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    return path


KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", ["", "photos/", "deep/photos/", "./"])
def test_an_archive_reads_as_the_folder_in_it(tmp_path, kind, top):
    collection = drain(read(pack(tmp_path / kind, FILES, top)))
    ids = [example.id for example in collection.record.examples]
    assert ids == sorted(FILES)
    with ThreadPoolExecutor(4) as threads:  # from several threads, in any order
        assert list(threads.map(collection.load, ids * 20)) == [FILES[id] for id in ids] * 20
    assert collection.record.name == "a"


def test_entries_for_folders_are_no_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for folder in ("photos/", "photos/cat/", "photos/.git/", "__MACOSX/"):
            archive.writestr(folder, b"")
        for name, payload in FILES.items():
            archive.writestr("photos/" + name, payload)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for folder in ("./", "./photos", "./photos/cat"):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        for name, payload in FILES.items():
            info = tarfile.TarInfo("./photos/" + name)
            info.size = len(payload)
            archive.addfile(info, io.BytesIO(payload))
    for kind in ("a.zip", "a.tar"):
        examples = drain(read(tmp_path / kind)).record.examples
        assert [example.id for example in examples] == sorted(FILES)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_in_an_archive(tmp_path, kind):
    table = "file_name,label\n" + "".join(f"{n},{n[:3]}\n" for n in FILES)
    files = {**FILES, "metadata.csv": table.encode()}
    collection = drain(read(pack(tmp_path / kind, files, "top/")))
    assert {e.id: e.label for e in collection.record.examples} == {n: n[:3] for n in FILES}
    assert collection.load("cat/0.png") == FILES["cat/0.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_train_alone_is_not_stepped_into(tmp_path, kind):
    collection = drain(read(pack(tmp_path / kind, FILES, "train/")))
    assert collection.record.examples[0].id == "train/cat/0.png"


def test_clutter_from_a_mac_and_slashes_from_windows(tmp_path):
    files = {n.replace("/", "\\"): payload for n, payload in FILES.items()}
    files |= {"__MACOSX/cat/._0.png": b"x", ".DS_Store": b"x"}
    examples = drain(read(pack(tmp_path / "a.zip", files))).record.examples
    assert [example.id for example in examples] == sorted(FILES)


def fails(source, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        drain(read(source))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../evil.png", "cat/../../evil.png", "/etc/x.png", "C:/x.png"])
def test_members_that_point_outside(tmp_path, kind, name):
    fails(pack(tmp_path / kind, {**FILES, name: png(1)}), "a member that points outside it")


@pytest.mark.usefixtures("any_share")
def test_a_link_in_a_zip_is_left_out(tmp_path):
    path = pack(tmp_path / "a.zip", FILES)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("cat/link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    record = drain(read(path)).record
    assert record.problems[0].items == ("cat/link.png: is a link: pack the file itself",)
    assert {example.id for example in record.examples} == set(FILES)


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_a_link_pipe_or_device_in_a_tar_is_left_out(tmp_path, kind):
    path = pack(tmp_path / "a.tar", FILES)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("cat/9.png")
        info.type, info.linkname = kind, "../../etc/passwd"
        archive.addfile(info)
    record = drain(read(path)).record
    assert record.problems[0].items[0].startswith("cat/9.png: is a ")
    assert {example.id for example in record.examples} == set(FILES)


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize("style", ["gnu", "posix"])
def test_a_member_with_holes_is_left_out_unread(tmp_path, style):
    """40 GB that are some kB in the tar: a limit of memory would not be enough to read it."""
    path = pack(tmp_path / "a.tar", FILES)
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("cat/9.png")
        if style == "gnu":  # one hole, then the end: offset and size of the only piece
            info.type = tarfile.GNUTYPE_SPARSE
            header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
            size = 40 * 2**30
            header[386:410] = b"%011o\0" % size + b"%011o\0" % 0
            header[483:495] = b"\x80" + size.to_bytes(11, "big")
            header[148:156] = b"%06o\0 " % sum([*header[:148], *b" " * 8, *header[156:512]])
            archive.fileobj.seek(archive.offset)
            archive.fileobj.write(header)
            archive.offset += len(header)
        else:
            info.pax_headers = {
                "GNU.sparse.size": str(40 * 2**30),
                "GNU.sparse.numblocks": "1",
                "GNU.sparse.map": f"{40 * 2**30},0",
            }
            archive.addfile(info)
    record = drain(read(path)).record
    (item,) = record.problems[0].items
    assert item.startswith("cat/9.png: is stored with holes")
    assert {example.id for example in record.examples} == set(FILES)


def test_a_name_that_is_not_utf8_is_escaped(tmp_path):
    path = pack(tmp_path / "a.tar", {**FILES, "cat/caf\udce9.png": png(200)})
    assert "cat/caf\\udce9.png" in {e.id for e in drain(read(path)).record.examples}


@pytest.mark.parametrize("kind", KINDS)
def test_archives_that_are_none(tmp_path, kind):
    (tmp_path / kind).write_bytes(b"not an archive at all" * 100)
    fails(tmp_path / kind, f"{kind} cannot be opened as", "copy it again")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_archives_that_are_cut_off(tmp_path, kind):
    path = pack(tmp_path / kind, {f"{n}/{i}.png": png(i) * 50 for n in "ab" for i in range(9)})
    path.write_bytes(path.read_bytes()[:-200])
    fails(path, "cannot be opened as")


def test_a_tar_cut_off_within_its_last_member(tmp_path):
    path = pack(tmp_path / "a.tar", {**FILES, "dog/9.png": bytes(5000)})
    path.write_bytes(path.read_bytes()[:9000])
    fails(path, "cannot be opened as tar")


@pytest.mark.usefixtures("any_share")
def test_a_damaged_member_is_reported_not_fatal(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, payload in {**FILES, "cat/bad.png": b"BADBADBAD"}.items():
            archive.writestr(name, payload)
    path.write_bytes(path.read_bytes().replace(b"BADBADBAD", b"BADBADBAX"))
    (finding,) = drain(read(path)).record.problems
    assert finding.items[0].startswith("cat/bad.png: is damaged in the zip")


@pytest.mark.usefixtures("any_share")
def test_a_member_packed_in_an_unknown_way_is_reported(tmp_path):
    path = pack(tmp_path / "a.zip", {"cat/bad.png": b"x" * 50, **FILES})
    payload = bytearray(path.read_bytes())
    payload[payload.index(b"PK\x01\x02") + 10] = 99  # the method, in the central directory
    path.write_bytes(payload)
    (finding,) = drain(read(path)).record.problems
    assert finding.items[0].startswith("cat/bad.png: cannot be unpacked")


@pytest.mark.usefixtures("any_share")
def test_a_tar_that_shrinks_while_it_is_read(tmp_path):
    path = pack(tmp_path / "a.tar", {**FILES, "dog/9.png": bytes(5000)})
    steps = read(path)
    next(steps), next(steps)  # listed, nothing read yet
    path.write_bytes(path.read_bytes()[:9000])
    (finding,) = drain(steps).record.problems
    assert finding.items == ("dog/9.png: is cut off in the tar",)


def test_a_zip_with_a_password(tmp_path):
    path = pack(tmp_path / "a.zip", FILES)
    payload = bytearray(path.read_bytes())
    payload[payload.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    path.write_bytes(payload)
    fails(path, "has a password; unpack it")


def test_the_same_member_twice(tmp_path):
    path = pack(tmp_path / "a.zip", FILES)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(match="Duplicate name"):
        archive.writestr("cat/0.png", b"x")
    fails(path, "holds cat/0.png twice")


@pytest.mark.parametrize("kind", ["a.zip", "a.tgz"])
def test_a_bomb(tmp_path, kind):
    fails(pack(tmp_path / kind, {**FILES, "cat/9.bmp": bytes(70 * 2**20)}), "plausible")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_archives_that_unpack_to_too_much(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("warmstart.data.place.MAX_TOTAL_BYTES", 70)
    fails(pack(tmp_path / kind, FILES), "than 20 GB")


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_a_member_that_is_too_large_is_left_out(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("warmstart.data.place.MAX_FILE_BYTES", 1000)
    path = pack(tmp_path / kind, {**FILES, "cat/9.png": bytes(1001)})
    record = drain(read(path)).record
    assert record.problems[0].items == ("cat/9.png: unpacks to more than 512 MB",)
    assert {example.id for example in record.examples} == set(FILES)


def test_a_gzip_that_is_no_tar(tmp_path):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(b"hello" * 1000))
    fails(tmp_path / "a.tgz", "cannot be opened as tar")


def test_an_empty_archive(tmp_path):
    fails(pack(tmp_path / "a.zip", {}), "a.zip/ is empty")


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_inside_an_archive(tmp_path, kind):
    inner = pack(tmp_path / "inner.zip", FILES).read_bytes()
    path = pack(tmp_path / kind, {"inner.zip": inner})
    fails(path, f"{kind}/ holds no image, but inner.zip: an archive inside is not opened; unpack")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_more_than_there_is(tmp_path, kind):
    path = pack(tmp_path / "a.tar", FILES)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 2**62
        archive.fileobj.seek(archive.offset)
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    fails(path, "a.tar cannot be opened as tar (", "copy it again")
