"""The fixture that runs a test on both kernels of the codec: Python, and C where it is built."""

from __future__ import annotations

import os

import pytest

from lix_cache.huffman_codec import _backend
from lix_cache.huffman_codec._backend import Kernel

__all__ = ["kernel", "native_or_skip"]


def native_or_skip() -> Kernel:
    """Return the kernel in C, or skip the test."""
    native = _backend.native_kernel()
    if native is None:
        # A run that is there to test the extension must not pass because it was not built.
        if os.environ.get("LIX_CACHE_REQUIRE_C"):
            pytest.fail("LIX_CACHE_REQUIRE_C is set, and the C extension is not built")
        pytest.skip("the C extension is not built: python setup.py build_ext --inplace")
    return native


@pytest.fixture(params=["python", "c"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Run the test with one kernel and then with the other."""
    chosen = _backend.PURE if request.param == "python" else native_or_skip()
    monkeypatch.setattr(_backend, "kernel", chosen)
    return chosen
