"""Scripts whose pages end after a few rows, so that a small scope has many pages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lix_cache._cached_property import cached_property
from lix_cache.hot import answers
from lix_cache.hot.scripts import Script

__all__ = ["small_pages"]

_USUAL = "local PAGE, BYTES, STEP = 500, 262144, 16"
_ROWS = 3


class _Small(Script):
    @cached_property
    def source(self) -> str:
        text = Script(self.name).source
        assert text.count(_USUAL) == 1
        return text.replace(_USUAL, f"local PAGE, BYTES, STEP = {_ROWS}, 262144, 2")


@contextmanager
def small_pages() -> Iterator[int]:
    """Let what is new in a scope come in pages of so many rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "_LOOKUP", _Small("answers/lookup"))
        yield _ROWS
