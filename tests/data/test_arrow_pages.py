"""Images that lie in one large file are read without the file ever being in memory."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest

from warmstart.data import arrow
from warmstart.data.arrow import Pages


def test_pages_that_were_let_go_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(arrow, "RELEASE_BYTES", 10)
    content = bytes(range(256)) * 100
    (tmp_path / "file").write_bytes(content)
    pages = Pages()
    with open(tmp_path / "file", "rb") as file:
        mapped = pages.map(file)
    for start in range(0, len(content), 1000):
        assert mapped[start : start + 1000] == content[start : start + 1000]
        pages.count(1000)
    assert bytes(mapped) == content


def test_pages_are_let_go_after_so_many_bytes(monkeypatch):
    monkeypatch.setattr(arrow, "RELEASE_BYTES", 100)
    gone = []
    monkeypatch.setattr(Pages, "release", lambda self: gone.append(1))
    pages = Pages()
    for n_bytes in (60, 40, 1, 99, 2):
        pages.count(n_bytes)
    assert len(gone) == 2


def test_a_system_that_keeps_pages_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.delattr(arrow.mmap, "MADV_DONTNEED", raising=False)
    (tmp_path / "file").write_bytes(b"abc")
    pages = Pages()
    with open(tmp_path / "file", "rb") as file:
        mapped = pages.map(file)
    pages.release()
    assert bytes(mapped) == b"abc"


N, SIZE = 400, 200_000  # 80 MB
READ = """
import sys
from warmstart.data.arrow import parse_parquet, parse_streams

def peak_mb():  # ru_maxrss would begin at that of the process which started this one
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM"))

path = sys.argv[1]
open_it = lambda: parse_parquet(path, "x") if "parquet" in path else parse_streams([path], {}, "x")
open_it().pictures.open()  # pyarrow and its pools are there
before = peak_mb()
stored = open_it().pictures.open()
for _ in range(2):
    for row in range(400):
        assert stored.load(row)[:3] == row.to_bytes(3, "big")
assert peak_mb() - before < 45, peak_mb() - before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_large_table_of_images_stays_on_disk(tmp_path, kind):
    images = pa.array([row.to_bytes(3, "big") + bytes(SIZE - 3) for row in range(N)])
    table, path = pa.table({"image": images}), tmp_path / f"images.{kind}"
    if kind == "parquet":
        pa.parquet.write_table(table, path, compression=None, use_dictionary=False)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=50)
    assert subprocess.run([sys.executable, "-c", READ, str(path)]).returncode == 0
