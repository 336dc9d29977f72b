"""The cold tiers there are, and one that has no files, against one suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from lix_cache.archive.cold_tier import ColdTier
from lix_cache.archive.store import ArchiveStore
from lix_cache.config import CacheConfig
from lix_cache.errors import ArchiveBusy, ArchiveUnavailable
from tests.contract.cold_tier import ColdTierContract, Make, Refusing, append, holding, said, turn
from tests.support.lab import Process
from tests.support.object_tier import Bucket, ObjectTier, refuse


class TestLocalFolder(ColdTierContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        def made(**options: Any) -> ColdTier:
            return ArchiveStore(str(tmp_path / "archive"), **options)

        return made

    @pytest.fixture
    def refusing(self) -> Refusing:
        @contextmanager
        def entered(tier: ColdTier) -> Iterator[None]:
            assert isinstance(tier, ArchiveStore)
            files = tier._files

            def refused(*_: Any, **__: Any) -> Any:
                raise ArchiveUnavailable(28, "No space left on device")

            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(files, "append", refused)
                patched.setattr(files, "write_synced", refused)
                patched.setattr(
                    files,
                    "write_many",
                    lambda writes: [ArchiveUnavailable(28, "No space left on device") for _ in writes],
                )
                yield

        return entered


class TestObjects(ColdTierContract):
    @pytest.fixture
    def bucket(self) -> Bucket:
        return Bucket()

    @pytest.fixture
    def make(self, bucket: Bucket) -> Make:
        def made(**options: Any) -> ColdTier:
            return ObjectTier(bucket, **options)

        return made

    @pytest.fixture
    def refusing(self, bucket: Bucket) -> Callable[[ColdTier], AbstractContextManager[object]]:
        @contextmanager
        def entered(_: ColdTier) -> Iterator[None]:
            bucket.before_put = refuse
            yield
            del bucket.before_put
            bucket.before_put = lambda: None

        return entered

    @pytest.mark.promise("no-loss")
    def test_a_holder_that_lost_its_lease_changes_nothing(self, bucket: Bucket) -> None:
        slow, quick = ObjectTier(bucket, lease_seconds=0), ObjectTier(bucket)
        lease = holding(slow)
        append(quick, turn(1))
        with pytest.raises(ArchiveBusy):
            slow.append_locked("s", [turn(2)])
        lease.release()
        assert said(quick.turns("s")) == ["message 1"]

    def test_flows_on_it_touch_no_file(
        self, process: Callable[..., Process], config: CacheConfig, tmp_path: Path
    ) -> None:
        one = process(durability="disk")
        for text in "abcdefgh":
            one.add(text)
        one.flush()
        assert one.full() == list("abcdefgh")
        assert not Path(config.archive_dir).exists()
        assert list(tmp_path.iterdir()) == []
