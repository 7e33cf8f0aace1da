"""Files that are there whole or not at all, whatever the process or the power does, and a lock on a folder.

A rename alone is not enough: without an fsync of the file before it and of the folder after it, a power failure can
leave the new name with no content, or bring the old name back.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import uuid
from contextlib import suppress
from pathlib import Path

from uncertainty.errors import InputError


def replace_file(target: Path, content: bytes, temporary_folder: Path) -> None:
    """Put ``content`` under the name ``target``; when this returns, it survives a power failure.

    Until then ``target`` is what it was before. ``temporary_folder`` must be on the same file system; the name used
    there is unique, so that two writers cannot mix, and is gone afterwards, except if the process is killed.

    Raises:
        OSError: the disk refused. An fsync that failed is not tried again: the kernel may have dropped the pages.
    """
    temporary = temporary_folder / f"{target.name}-{uuid.uuid4().hex}"
    try:
        _write(temporary, content)
        os.replace(temporary, target)
        sync_folder(target.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, durably; nothing happens if it is there."""
    if path.is_dir():
        return
    make_folder(path.absolute().parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.absolute().parent)


def lock_folder(path: Path) -> int:
    """Take the lock of a folder: an open descriptor of ``.lock`` in it. Closing it, or dying, gives the lock back.

    Raises:
        InputError: another process has it (named), or the file system has no locks.
        OSError: the folder cannot be written to.
    """
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        os.close(descriptor)
        if error.errno == errno.EWOULDBLOCK:
            raise InputError(f"{path} is being written by {holder}; wait for it or choose another --out") from error
        raise InputError(f"{path} cannot be locked ({error.strerror}); choose an --out on a local disk") from error
    # The name of the holder only serves the message above: a disk too full for it is no reason to stop here.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    return descriptor


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
