"""Folder, zip and tar: the same index, nothing unsafe gets in; which files are the data."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

import audio_clips
import hue_images
from image_files import fails
from warmstart.data.place import media_among, media_of
from warmstart.data.read import read
from warmstart.events import drain
from warmstart.modalities.image import IMAGE


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (3, 3), value).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    f"{name}/{i}.png": png(10 * k + i) for k, name in enumerate(("cat", "dog")) for i in range(2)
}
KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]


def add(archive: tarfile.TarFile, name: str, payload: bytes = b"", kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.size, info.type = len(payload), kind
    for field, value in fields.items():
        setattr(info, field, value)
    archive.addfile(info, io.BytesIO(payload))


def pack(path: Path, files: dict[str, bytes], top: str = "", folders=()) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for folder in folders:
                archive.writestr(top + folder, b"")
            for name, payload in files.items():
                archive.writestr(top + name, payload)
        return path
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for folder in folders:
            add(archive, top + folder, kind=tarfile.DIRTYPE)
        for name, payload in files.items():
            add(archive, top + name, payload)
    return path


def ids(source) -> list[str]:
    return [example.id for example in drain(read(source)).record.examples]


def left_out(source) -> str:
    """The one file that is left out; all of `FILES` are there."""
    record = drain(read(source)).record
    assert {example.id for example in record.examples} >= set(FILES)
    (item,) = record.problems[0].items
    return item


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", ["", "photos/", "deep/photos/", "./"])
def test_an_archive_reads_as_the_folder_in_it(tmp_path, kind, top):
    folders = ("cat/", ".git/", "dog/")
    collection = drain(read(pack(tmp_path / kind, FILES, top, folders)))
    names = [example.id for example in collection.record.examples]
    assert (names, collection.record.name) == (sorted(FILES), "a")
    with ThreadPoolExecutor(4) as threads:  # from several threads, in any order
        assert list(threads.map(collection.load, names * 20)) == [FILES[id] for id in names] * 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_in_an_archive_and_train_alone(tmp_path, kind):
    table = "file_name,label\n" + "".join(f"{n},{n[:3]}\n" for n in FILES)
    files = {**FILES, "metadata.csv": table.encode()}
    collection = drain(read(pack(tmp_path / kind, files, "top/")))
    assert {e.id: e.label for e in collection.record.examples} == {n: n[:3] for n in FILES}
    assert collection.load("cat/0.png") == FILES["cat/0.png"]
    assert ids(pack(tmp_path / kind, FILES, "train/"))[0] == "train/cat/0.png"


def test_names_from_other_systems(tmp_path):
    files = {n.replace("/", "\\"): payload for n, payload in FILES.items()}
    files |= {"__MACOSX/cat/._0.png": b"x", ".DS_Store": b"x"}
    assert ids(pack(tmp_path / "a.zip", files)) == sorted(FILES)
    path = pack(tmp_path / "a.tar", {**FILES, "cat/caf\udce9.png": png(200)})
    assert "cat/caf\\udce9.png" in ids(path)


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
    assert left_out(path) == "cat/link.png: is a link: pack the file itself"


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_a_link_pipe_or_device_in_a_tar_is_left_out(tmp_path, kind):
    path = pack(tmp_path / "a.tar", FILES)
    with tarfile.open(path, "a") as archive:
        add(archive, "cat/9.png", kind=kind, linkname="../../etc/passwd")
    assert left_out(path).startswith("cat/9.png: is a ")


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize("style", ["gnu", "posix"])
def test_a_member_with_holes_is_left_out_unread(tmp_path, style):
    """40 GB that are some kB in the tar: a limit of memory would not be enough to read it."""
    path, size = pack(tmp_path / "a.tar", FILES), 40 * 2**30
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as archive:
        if style == "gnu":  # one hole, then the end: offset and size of the only piece
            info = tarfile.TarInfo("cat/9.png")
            info.type = tarfile.GNUTYPE_SPARSE
            header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
            header[386:410] = b"%011o\0" % size + b"%011o\0" % 0
            header[483:495] = b"\x80" + size.to_bytes(11, "big")
            header[148:156] = b"%06o\0 " % sum([*header[:148], *b" " * 8, *header[156:512]])
            archive.fileobj.seek(archive.offset)
            archive.fileobj.write(header)
            archive.offset += len(header)
        else:
            names = {"size": f"{size}", "numblocks": "1", "map": f"{size},0"}
            headers = {f"GNU.sparse.{name}": value for name, value in names.items()}
            add(archive, "cat/9.png", pax_headers=headers)
    assert left_out(path).startswith("cat/9.png: is stored with holes")


@pytest.mark.parametrize("kind", KINDS)
def test_archives_that_are_none(tmp_path, kind):
    (tmp_path / kind).write_bytes(b"not an archive at all" * 100)
    fails(tmp_path / kind, f"{kind} cannot be opened as", "copy it again")
    inner = pack(tmp_path / "inner.zip", FILES).read_bytes()
    path = pack(tmp_path / kind, {"inner.zip": inner})
    fails(path, f"{kind}/ holds no image, but inner.zip: an archive inside is not opened; unpack")
    fails(pack(tmp_path / kind, {}), f"{kind}/ is empty")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tar.gz"])
def test_archives_that_are_cut_off(tmp_path, kind):
    path = pack(tmp_path / kind, {**FILES, "dog/9.png": bytes(5000)})
    path.write_bytes(path.read_bytes()[: 9000 if kind == "a.tar" else -100])
    fails(path, "cannot be opened as")


@pytest.mark.usefixtures("any_share")
def test_damaged_members_are_reported_not_fatal(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, payload in {**FILES, "cat/bad.png": b"BADBADBAD"}.items():
            archive.writestr(name, payload)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"BADBADBAD", b"BADBADBAX"))
    assert left_out(path).startswith("cat/bad.png: is damaged in the zip")
    payload = bytearray(whole)
    payload[payload.rindex(b"PK\x01\x02") + 10] = 99  # the method, in the central directory
    path.write_bytes(payload)
    assert left_out(path).startswith("cat/bad.png: cannot be unpacked")


@pytest.mark.usefixtures("any_share")
def test_a_tar_that_shrinks_while_it_is_read(tmp_path):
    path = pack(tmp_path / "a.tar", {**FILES, "dog/9.png": bytes(5000)})
    steps = read(path)
    next(steps), next(steps)  # listed, nothing read yet
    path.write_bytes(path.read_bytes()[:9000])
    (finding,) = drain(steps).record.problems
    assert finding.items == ("dog/9.png: is cut off in the tar",)


def test_zips_that_are_refused(tmp_path):
    path = pack(tmp_path / "a.zip", FILES)
    payload = bytearray(path.read_bytes())
    payload[payload.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    path.write_bytes(payload)
    fails(path, "has a password; unpack it")
    pack(path, FILES)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(match="Duplicate name"):
        archive.writestr("cat/0.png", b"x")
    fails(path, "holds cat/0.png twice")


@pytest.mark.usefixtures("any_share")
@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.tgz"])
def test_archives_that_are_too_large(tmp_path, monkeypatch, kind):
    if kind != "a.tar":  # a bomb
        fails(pack(tmp_path / kind, {**FILES, "cat/9.bmp": bytes(70 * 2**20)}), "plausible")
    monkeypatch.setattr("warmstart.data.place.MAX_FILE_BYTES", 1000)
    path = pack(tmp_path / kind, {**FILES, "cat/9.png": bytes(1001)})
    assert left_out(path) == "cat/9.png: unpacks to more than 512 MB"
    monkeypatch.setattr("warmstart.data.place.MAX_TOTAL_BYTES", 70)
    fails(pack(tmp_path / kind, FILES), "unpack it and name the folder")


def test_a_gzip_that_is_no_tar(tmp_path):
    (tmp_path / "a.tgz").write_bytes(gzip.compress(b"hello" * 1000))
    fails(tmp_path / "a.tgz", "cannot be opened as tar")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_more_than_there_is(tmp_path, kind):
    path = pack(tmp_path / "a.tar", FILES)
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 2**62
        archive.fileobj.seek(archive.offset)
        archive.fileobj.write(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    fails(path, "a.tar cannot be opened as tar (", "copy it again")


# ---- images or sounds ---------------------------------------------------------------------------


def test_a_few_sounds_among_pictures_are_ignored():
    assert media_among(["a.png", "b.wav"]) == ["a.png"]
    pictures = [f"{folder}/{i}.png" for folder in "ab" for i in range(2)]
    spoken = [f"{folder}/{i}_{tongue}.wav" for folder in "ab" for i in range(2) for tongue in "xyz"]
    assert media_among([*pictures, *spoken]) == pictures
    assert media_among([*pictures[:3], *spoken]) == spoken
    assert media_among([*pictures, *spoken], "audio") == spoken
    assert media_of([]) is IMAGE


def test_a_folder_of_clips_is_audio(tmp_path, pictures):
    data = audio_clips.fill(tmp_path / "notes", {"a note": 2, "hiss": 3})
    hue_images.fill(tmp_path / "notes", {"hiss": 2})
    result = drain(read(data))
    assert (result.record.kind, result.title) == ("audio", f"5 clips in {data}/")
    assert {example.id[-4:] for example in result.record.examples} == {".wav"}
    (data / "mid").mkdir()
    shutil.rmtree(data / "hiss")
    fails(data, "mid holds no clip; a class needs at least 2 clips")
    assert drain(read(pictures)).record.kind == "image"


def test_a_table_of_clips_is_audio_with_groups(tmp_path):
    audio_clips.fill(tmp_path, {"a note": 4, "hiss": 4})
    with open(tmp_path / "clips.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["clip", "label", "speaker"])
        for path in sorted(tmp_path.rglob("*.wav")):
            table.writerow([path.relative_to(tmp_path), path.parent.name, path.stem[-1]])
    result = drain(read(tmp_path / "clips.csv", group="speaker"))
    assert result.record.kind == "audio"
    assert "8 clips listed in" in result.title
    assert {example.group for example in result.record.examples} == {"0", "1", "2", "3"}
