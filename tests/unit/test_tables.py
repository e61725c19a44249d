"""CSV tables: whatever bytes a user gives, and however many processes add to one file."""

from __future__ import annotations

import csv
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from genbench import tables
from genbench.errors import GenbenchError, InputRejected, NotComparable

COLUMNS = ("id", "value")


def add(path: Path, *rows: tuple[str, str]) -> int:
    new = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    return tables.merge(path, COLUMNS, new, identity=lambda row: row["id"], order=lambda row: row["id"])


def test_rows_are_added_replaced_and_sorted(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "board.csv"
    assert add(path, ("b", "1"), ("a", "2")) == 2
    assert add(path, ("b", '3, or "4"\nand 5'), ("c", "6")) == 3
    assert [row["value"] for row in tables.read(path, COLUMNS)] == ["2", '3, or "4"\nand 5', "6"]
    with path.open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == list(COLUMNS)
    assert b"\r" not in path.read_bytes()


GOOD = "id,value\na,1\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "line 0: its columns are 'missing'"),
        (b"id,worth\na,1\n", "line 1: its columns are 'id, worth'"),
        (b"\xef\xbb\xbfid,value\na,1\n", "line 1"),
        (b"id,value\na,1\nb,2,3\n", "line 3: it has 3 cells, and the header 2"),
        (b"id,value\na\n", "line 2: it has 1 cells, and the header 2"),
        (b'id,value\na,"1\n', "line 2: unexpected end of data"),
        (b'id,value\na,"1"2\n', "line 2"),
        (b"id,value\na,\xe9\n", "UTF-8 .byte 11."),
        (b"id,value\na,1\0\n", "line 2: it holds a NUL byte"),
        (bytes(range(128, 256)) * 8, "UTF-8"),
        (b"id,value\na," + b"1" * 200_000 + b"\n", "line 2: field larger"),
    ],
)
def test_what_is_no_table_is_refused_with_its_line_and_left_as_it_is(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "board.csv"
    path.write_bytes(content)
    with pytest.raises(InputRejected, match=told) as caught:
        add(path, ("b", "2"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"id,value\r\na,1\r\n", b"id,value\na,1", b"id,value\n\na,1\n\n"])
def test_other_ends_of_lines_are_read_and_written_as_ours(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "board.csv"
    path.write_bytes(content)
    assert add(path, ("b", "2")) == 2
    assert path.read_bytes() == b"id,value\na,1\nb,2\n"


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    pipe, folder, circle = tmp_path / "pipe", tmp_path / "folder", tmp_path / "circle"
    os.mkfifo(pipe)
    folder.mkdir()
    circle.symlink_to(circle)
    for path in (pipe, folder, circle, Path("/dev/zero")):
        with pytest.raises(InputRejected):
            tables.read(path, COLUMNS)
    for path in (pipe, folder, circle):
        with pytest.raises(InputRejected):
            add(path, ("a", "1"))
    assert stat.S_ISFIFO(pipe.stat().st_mode) and circle.is_symlink()


def test_a_link_stays_a_link_and_permissions_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real" / "board.csv", tmp_path / "link.csv"
    add(real, ("a", "1"))
    real.chmod(0o640)
    link.symlink_to(real)
    assert add(link, ("b", "2")) == 2
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [row["id"] for row in tables.read(real, COLUMNS)] == ["a", "b"]
    dangling = tmp_path / "dangling.csv"
    dangling.symlink_to(tmp_path / "real" / "later.csv")
    add(dangling, ("c", "3"))
    assert dangling.is_symlink() and (tmp_path / "real" / "later.csv").is_file()


def test_a_check_that_fails_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "board.csv"
    add(path, ("a", "1"))
    seen = []

    def check(kept: object, new: object) -> None:
        seen.append((kept, new))
        raise NotComparable("no")

    with pytest.raises(NotComparable):
        tables.merge(path, COLUMNS, [{"id": "b", "value": "2"}], identity=lambda row: row["id"], order=str, check=check)
    assert seen == [([{"id": "a", "value": "1"}], [{"id": "b", "value": "2"}])]
    assert path.read_text(encoding="utf-8") == GOOD


def test_processes_at_once_lose_no_row(tmp_path: Path) -> None:
    path, start = tmp_path / "board.csv", tmp_path / "start"
    code = """if True:
        import sys, time
        from pathlib import Path
        from genbench import tables
        path, start, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
        print("ready", flush=True)
        while not start.exists():
            time.sleep(0.001)
        for i in range(5):
            row = {"id": f"{name}-{i}", "value": "1"}
            tables.merge(path, ("id", "value"), [row], identity=lambda row: row["id"], order=lambda row: row["id"])
    """
    workers = [
        subprocess.Popen([sys.executable, "-c", code, path, start, str(i)], stdout=subprocess.PIPE, text=True)
        for i in range(8)
    ]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    start.touch()
    for worker in workers:
        worker.communicate(timeout=120)
        assert worker.returncode == 0
    assert len(tables.read(path, COLUMNS)) == 8 * 5


def test_a_folder_that_stays_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from genbench.files import locked

    monkeypatch.setattr(tables, "PATIENCE", 0.0)
    with locked(tmp_path), pytest.raises(GenbenchError, match="Another process"):
        add(tmp_path / "board.csv", ("a", "1"))
    assert not (tmp_path / "board.csv").exists()
