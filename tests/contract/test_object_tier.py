"""The archive on object storage, against the suite of cold tiers: in memory, in a folder, and on S3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from lix_cache.archive.cold_tier import ColdTier
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.errors import ArchiveUnavailable
from lix_cache.storage.objects import Bucket, FolderBucket, ObjectBucket
from tests.contract.cold_tier import ColdTierContract, Make, Refusing
from tests.support.s3_server import S3, moto_server, radosgw_server


class ObjectTierContract(ColdTierContract):
    @pytest.fixture
    def bucket(self, tmp_path: Path) -> Bucket:
        raise NotImplementedError

    @pytest.fixture
    def make(self, bucket: Bucket) -> Make:
        def made(**options: Any) -> ColdTier:
            return ObjectTier(bucket, shards=2, **options)

        return made

    @pytest.fixture
    def refusing(self) -> Refusing:
        @contextmanager
        def entered(tier: ColdTier) -> Iterator[None]:
            assert isinstance(tier, ObjectTier)

            def refused(*_: Any) -> Any:
                raise ArchiveUnavailable(28, "the store is full")

            with pytest.MonkeyPatch.context() as patched:
                for name in ("create", "put", "remove"):
                    patched.setattr(tier.bucket, name, refused)
                yield

        return entered


class TestMemory(ObjectTierContract):
    @pytest.fixture
    def bucket(self, tmp_path: Path) -> Bucket:
        store = pytest.importorskip("obstore.store").MemoryStore()
        return ObjectBucket(store, "root/of", f"memory://{tmp_path}")


class TestFolderOfObjects(ObjectTierContract):
    @pytest.fixture
    def bucket(self, tmp_path: Path) -> Bucket:
        return FolderBucket(str(tmp_path / "objects"))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with moto_server() as server:
        yield server


@pytest.mark.slow
class TestS3(ObjectTierContract):
    @pytest.fixture
    def bucket(self, tmp_path: Path, s3: S3) -> Bucket:
        name = s3.new_bucket()
        return ObjectBucket(s3.store(name), "root", f"s3://{name}/root")


#: A server that runs, with the key AK and the secret SK; and where Ceph's gateway is unpacked.
OWN_SERVER, GATEWAY = os.environ.get("LIX_CACHE_TEST_S3", ""), os.environ.get("LIX_CACHE_RADOSGW", "")


@pytest.fixture(scope="module")
def real() -> Iterator[S3]:
    if OWN_SERVER:
        yield S3(OWN_SERVER)
        return
    with TemporaryDirectory() as data, radosgw_server(GATEWAY, Path(data)) as server:
        yield server


@pytest.mark.slow
@pytest.mark.skipif(not (OWN_SERVER or GATEWAY), reason="no real server of S3: see make radosgw")
class TestRealServer(ObjectTierContract):
    """A server of S3 that stores and locks as one in use does."""

    @pytest.fixture
    def bucket(self, tmp_path: Path, real: S3) -> Bucket:
        name = real.signed_bucket()
        return ObjectBucket(real.store(name), "root", f"{real.endpoint}/{name}")
