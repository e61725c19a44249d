"""Files are whole or absent; names are safe."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from genbench import files
from genbench.errors import OutOfResources, UsageError
from genbench.files import atomic_write, free_bytes, replacing, state


def test_writes_bytes_into_new_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "result.json"
    atomic_write(path, b"first")
    atomic_write(path, b"second", durable=False)
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        atomic_write(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_a_failing_block_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_bytes(b"half of the n")
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"old")
    code = (
        "import os, sys\n"
        "from genbench.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half of the n')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    root = Path(files.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    assert all(p == path or p.name.startswith(".") for p in tmp_path.iterdir())


def test_full_disk_is_out_of_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    atomic_write(path, b"old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutOfResources, match=r"No space left for .*x") as caught:
        atomic_write(path, b"new")
    assert caught.value.exit_code == 7
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_of_the_system_are_not_relabelled(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic_write(tmp_path / "folder", b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_readers_beside_two_writers_see_whole_files_only(tmp_path: Path) -> None:
    path, size = tmp_path / "x", 1 << 18
    atomic_write(path, b"a" * size)

    def write(letter: bytes) -> None:
        for _ in range(40):
            atomic_write(path, letter * size, durable=False)

    writers = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in (b"a" * size, b"b" * size)
    for writer in writers:
        writer.join()


def test_a_durable_write_is_flushed_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def renamed(self: Path, target: Path) -> Path:
        events.append("rename")
        return replace(self, target)

    def flushed(handle: int) -> None:
        events.append("flush folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "flush file")
        fsync(handle)

    monkeypatch.setattr(Path, "replace", renamed)
    monkeypatch.setattr(os, "fsync", flushed)
    atomic_write(tmp_path / "x", b"bytes")
    assert events == ["flush file", "rename", "flush folder"]


def test_free_bytes_of_a_folder_that_does_not_exist_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(place: Path) -> object:
        asked.append(Path(place))
        return usage

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    assert free_bytes(tmp_path / "not" / "yet") == usage.free
    assert asked == [tmp_path]


def test_the_state_of_a_folder_changes_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"1")
    first = state(tmp_path)
    assert state(tmp_path) == first
    os.utime(tmp_path / "a" / "x", ns=(1, 1))
    touched = state(tmp_path)
    (tmp_path / "a" / "x").rename(tmp_path / "a" / "y")
    renamed = state(tmp_path)
    (tmp_path / "z").write_bytes(b"")
    assert len({first, touched, renamed, state(tmp_path)}) == 4


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    target, link, dangling = tmp_path / "shared" / "a", tmp_path / "link", tmp_path / "dangling"
    target.write_bytes(b"old")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "shared" / "b")
    for path in (link, dangling):
        files.atomic_write(path, b"new")
        assert path.is_symlink()
    assert target.read_bytes() == (tmp_path / "shared" / "b").read_bytes() == b"new"


def test_permissions_and_owner_of_a_file_stay(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    before = path.stat()
    files.atomic_write(path, b"new")
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("kind", ["read-only", "folder"])
def test_what_must_stay_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a"
    path.mkdir() if kind == "folder" else path.write_bytes(b"old")
    path.chmod(0o755 if kind == "folder" else 0o444)
    with pytest.raises(OSError, match=r"read-only|directory"):
        files.atomic_write(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.is_dir() or path.read_bytes() == b"old"


def test_pipes_and_devices_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):  # nobody reads: an error, not a wait
        files.atomic_write(path, b"new")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    files.atomic_write(path, b"new")
    assert os.read(reader, 10) == b"new" and stat.S_ISFIFO(path.stat().st_mode)
    os.close(reader)
    files.atomic_write(os.devnull, b"new")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    code = (
        "import os, sys; from genbench.files import replacing\n"
        "with replacing(sys.argv[1]) as path:\n    path.write_bytes(b'part'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=False)
    (left,) = tmp_path.iterdir()
    with files.replacing(tmp_path / "b") as path:
        path.write_bytes(b"whole")
        files.sweep(tmp_path)
        assert not left.exists() and path.exists()
    assert (tmp_path / "b").read_bytes() == b"whole"


@pytest.mark.parametrize("damage", [0, 3, -80, -30, -1])
def test_a_sealed_file_is_whole_or_gone(tmp_path: Path, damage: int, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a"
    assert files.read_sealed(path) is None
    files.write_sealed(path, b"content" * 100)
    assert files.read_sealed(path) == b"content" * 100
    data, times = bytearray(path.read_bytes()), path.stat()
    data[damage] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # a damage that leaves no trace in size and time
    assert files.read_sealed(path) is None and not path.exists() and "damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\0" * 500, b"text", b"\nsha256 "])
def test_files_without_a_seal_are_made_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert files.read_sealed(path) is None and not path.exists()
    path.mkdir()
    assert files.read_sealed(path) is None and not path.exists()


def test_a_lock_that_is_no_file_is_told(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(UsageError, match=r"\.lock is no file"), files.locked(tmp_path):
        pass


def test_a_cache_that_cannot_be_written_to_costs_no_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a", Path("/proc/genbench/a"), tmp_path / ("a" * 300)):
        caplog.clear()
        files.keep(path, b"content")
        assert files.kept(path) is None and "was not kept for later commands" in caplog.text
    files.keep(tmp_path / "b", b"content")
    assert files.kept(tmp_path / "b") == b"content"


HOLDER = """
import fcntl, sys
with open(sys.argv[1], "r+") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, int(sys.argv[2]))
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_number_belongs_to_one_process_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "claims"

    def free(number: int | None) -> bool:
        with files.claimed(path, number) as mine:
            return mine

    assert free(3) and free(None)
    words = [sys.executable, "-c", HOLDER, str(path), "3"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert [free(2), free(3), free(4), free(None)] == [True, False, True, False]
        other.kill()
        other.wait()
        assert free(3) and free(None)
    assert path.read_bytes() == b""
    with files.claimed(tmp_path / "no" / "folder", 1) as mine:
        assert mine, "where there are no locks at all, every claim is granted"
