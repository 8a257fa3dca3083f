"""Names and errors of other people's files, short and printable enough to stand in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["SAVE_HINT", "first_few", "one_line", "shown"]

SAVE_HINT: Final = 'save the weights alone: torch.save(model.state_dict(), "weights.pt"), or as safetensors'
_LONGEST: Final = 120


def first_few(items: Sequence[str], count: int = 3) -> str:
    """The first of some names, and how many there are besides."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(shown(item) for item in items[:count]) + more


def shown(name: object) -> str:
    """A key of a file, printable and of a bounded length."""
    text = str(name)
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def one_line(error: BaseException | str) -> str:
    """First line of an error's message, short enough to stand inside another."""
    text = (str(error).strip().splitlines() or [""])[0].strip()[:200]
    text = text if text.isprintable() else ascii(text)[1:-1]
    if isinstance(error, str):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
