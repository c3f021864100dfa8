"""Listing of a local folder that others write to while it is listed."""

import os
from collections.abc import Iterator
from pathlib import Path

LOST_AND_FOUND = "lost+found"
"""At the top of many file systems, the administrator's and no recorder's."""


def files(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder. Links are followed, but for those to a folder they lie in: a circle.

    What goes away meanwhile is left out: a recorder may just have renamed its `x.part` to `x.wav`. So are hidden files
    and folders, and lost+found.

    Raises:
        OSError: a folder can't be read.
    """
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = os.scandir(folder)
        except FileNotFoundError:
            if folder == root:
                raise
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith(".") or (entry.name == LOST_AND_FOUND and folder == root):
                    continue
                if entry.is_dir():
                    if not (entry.is_symlink() and _lies_in(folder, entry.path)):
                        folders.append(entry.path)
                elif entry.is_file() and (stat := _stat(entry)):
                    yield entry.path, stat


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


def _lies_in(folder: str, other: str) -> bool:
    """Whether a folder is another, or lies somewhere below it."""
    return Path(folder).resolve().is_relative_to(Path(other).resolve())
