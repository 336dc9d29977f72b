"""What an embedder and a verifier from an ONNX file share: found, loaded and run when needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from lix_cache.checks import check_path, check_whole
from lix_cache.embedders.model_files import ModelFiles, find_model_files
from lix_cache.embedders.onnx_model import OnnxModel, token_limit
from lix_cache.embedders.process import PerProcess
from lix_cache.errors import LixCacheError

__all__ = ["LazyOnnx"]

_BATCH = 32


class LazyOnnx:
    """A model that is looked for at its first use, and loaded once in each process.

    A model that quantises as it runs scales its numbers by all texts of a batch: what it
    says of a text would depend on the neighbours. It gets one text at a time.

    Args:
        model: a folder or a hub's name.
        model_file: which ONNX file in it.
        max_tokens: longer texts are cut; by default what the model's files say.
        batch_size: texts in one run; by default 32, or 1 as said above.
        threads: processor threads for one run.
        where: ``revision``, ``cache_dir`` and ``endpoint`` of the hub.
        error: raised for a model that cannot be used.
        unavailable: raised for a hub that cannot be reached.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        model_file: str | None,
        max_tokens: int | None,
        batch_size: int | None,
        threads: int | None,
        where: dict[str, str | None],
        error: type[LixCacheError],
        unavailable: type[LixCacheError],
    ) -> None:
        for name, value in (("max_tokens", max_tokens), ("batch_size", batch_size), ("threads", threads)):
            if value is not None:
                check_whole(name, value, 1)
        self.name = check_path("model", model)
        self._where: dict[str, Any] = {
            "model_file": model_file,
            **where,
            "error": error,
            "unavailable": unavailable,
        }
        self._error = error
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._threads = threads
        self.files: PerProcess[ModelFiles] = PerProcess(lambda: find_model_files(self.name, **self._where))
        self._digest = PerProcess(self._read)
        self.model = PerProcess(self._load)

    def id(self, kind: str, *choices: object) -> str:
        """Return the model's name and a digest of its files, its token limit and ``choices``."""
        text = self._digest()[0](self._limit(), *choices)
        return f"{kind}:{self.files().name}:{text}"

    def run(self, tokens: list[Any]) -> Iterator[tuple[list[int], Any, Any]]:
        """Run the model on all texts, in batches.

        Yields:
            Positions of the texts in the batch, the output, and the attention mask.
        """
        size = self._batch_size or (1 if self._digest()[1] else _BATCH)
        # Equal lengths together: less padding, so less work.
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i].ids))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            output, mask = self.model().run([tokens[i] for i in part])
            yield part, output, mask

    def _limit(self) -> int:
        return self._max_tokens or token_limit(self.files())

    def _read(self) -> tuple[Any, bool]:
        try:
            return self.files().digest()
        except OSError as error:
            raise self._error(f"the model {self.name!r} cannot be read: {error}") from error

    def _load(self) -> OnnxModel:
        return OnnxModel(self.files(), self._limit(), self._threads, self._error)
