"""Files as a listing gives them."""

from audioclf.storage import FileInfo


def info(path: str, uri: str | None = None) -> FileInfo:
    """Of 10 bytes, below file:///in or at this URI."""
    return FileInfo(uri or f"file:///in/{path}", path, 10, "1", 0.0)


def files(*paths: str) -> list[FileInfo]:
    return [info(path) for path in paths]
