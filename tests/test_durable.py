import errno
import fcntl
import os

import pytest

from uncertainty.durable import lock_folder, make_folder, replace_file
from uncertainty.errors import InputError


def test_a_file_is_replaced_whole_and_leaves_nothing_behind(tmp_path):
    temporary, target = tmp_path / "tmp", tmp_path / "file"
    temporary.mkdir()
    target.write_bytes(b"old")
    replace_file(target, b"new" * 1000, temporary)
    assert target.read_bytes() == b"new" * 1000
    assert list(temporary.iterdir()) == []


def test_short_writes_are_continued(tmp_path, monkeypatch):
    whole = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: whole(descriptor, bytes(data[:3])))
    replace_file(tmp_path / "file", b"0123456789", tmp_path)
    assert (tmp_path / "file").read_bytes() == b"0123456789"


def test_content_is_synced_before_the_rename_and_the_name_after_it(tmp_path, monkeypatch):
    done = []
    where = {}
    real_open, real_sync, real_write, real_replace = os.open, os.fsync, os.write, os.replace

    def opened(path, *rest, **more):
        descriptor = real_open(path, *rest, **more)
        where[descriptor] = "folder" if os.path.isdir(path) else "file"
        return descriptor

    def synced(descriptor):
        done.append(f"fsync {where[descriptor]}")
        real_sync(descriptor)

    def written(descriptor, data):
        done.append(f"write {where[descriptor]}")
        return real_write(descriptor, data)

    def replaced(*names):
        done.append("rename")
        real_replace(*names)

    for name, patched in {"open": opened, "fsync": synced, "write": written, "replace": replaced}.items():
        monkeypatch.setattr(os, name, patched)
    replace_file(tmp_path / "file", b"content", tmp_path)
    assert done == ["write file", "fsync file", "rename", "fsync folder"]


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_refused_write_keeps_the_old_file_and_removes_the_new(tmp_path, monkeypatch, call):
    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError, match="Input/output"):
        replace_file(tmp_path / "file", b"new", tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_folders_are_made_at_every_level(tmp_path):
    make_folder(tmp_path / "a" / "b" / "c")
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()


def test_a_lock_is_held_once_and_freed_by_closing_it(tmp_path):
    first = lock_folder(tmp_path)
    with pytest.raises(InputError, match=f"being written by process {os.getpid()}"):
        lock_folder(tmp_path)
    os.close(first)
    os.close(lock_folder(tmp_path))


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(InputError, match=r"cannot be locked .*local disk"):
        lock_folder(tmp_path)
