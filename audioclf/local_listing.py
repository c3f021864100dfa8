"""Listing of a local folder that others write to while it is listed."""

import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger("audioclf")

LOST_AND_FOUND = "lost+found"
"""At the top of many file systems, the administrator's and no recorder's."""

_DEAD_ENDS = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG)
"""Of links: to what is not there, to themselves, below a file, to a name that no file can have."""


def files(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder. Links are followed, but for those to a folder that they lie in, whether by itself or by
    another link on the way to them: a circle.

    What goes away meanwhile is left out: a recorder may just have renamed its `x.part` to `x.wav`. So are hidden files
    and folders, lost+found, and links that lead nowhere, of which a warning tells.

    Raises:
        OSError: a folder can't be read.
    """
    # Each with the real folders of the links on the way to it, and of the root.
    folders: list[tuple[str, tuple[Path, ...]]] = [(root, (Path(root).resolve(),))]
    dead_links: list[str] = []
    while folders:
        folder, way = folders.pop()
        try:
            entries = os.scandir(folder)
        except FileNotFoundError:
            if folder == root:
                raise
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith(".") or (entry.name == LOST_AND_FOUND and _is_top(folder, root)):
                    continue
                if entry.is_symlink() and _is_lost(entry.path):
                    dead_links.append(entry.path)
                    continue
                if not entry.is_dir():
                    if entry.is_file() and (stat := _stat(entry)):
                        yield entry.path, stat
                elif not entry.is_symlink():
                    folders.append((entry.path, way))
                else:
                    target, here = Path(entry.path).resolve(), Path(folder).resolve()
                    if not any(real.is_relative_to(target) for real in (*way, here)):
                        folders.append((entry.path, (*way, here, target)))
    if dead_links:
        shown = os.fsencode(dead_links[0]).decode(errors="replace")
        log.warning("%s links lead nowhere and are left out, such as %s", f"{len(dead_links):,}", shown)


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


def _is_top(folder: str, root: str) -> bool:
    """Whether a file system may begin here: where the listing does, and where another disk is mounted."""
    return folder == root or os.path.ismount(folder)


def _is_lost(link: str) -> bool:
    """Whether a link leads nowhere."""
    try:
        os.stat(link)  # noqa: PTH116
    except OSError as error:
        return error.errno in _DEAD_ENDS
    return False
