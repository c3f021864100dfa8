"""Names in Unicode's two forms: people type é as one character, macOS stores it as e and an accent."""

import unicodedata


def composed(name: str) -> str:
    """As people type it (NFC): labels are kept so, for the two would be two classes."""
    return unicodedata.normalize("NFC", name)


def forms(name: str) -> tuple[str, str]:
    """Composed and decomposed."""
    return composed(name), unicodedata.normalize("NFD", name)
