"""The error tree is what its drawing says."""

from __future__ import annotations

import pickle
import re

import pytest

from lix_cache import errors

ALL = [getattr(errors, name) for name in errors.__all__]


def made(kind: type[errors.LixCacheError]) -> errors.LixCacheError:
    if kind is errors.DimensionMismatch:
        return errors.DimensionMismatch(3, 4, "the cache")
    if kind is errors.RevisionMismatch:
        return errors.RevisionMismatch("1.5-0", "2.5-0")
    if kind is errors.MissingDictionary:
        return errors.MissingDictionary("12345678")
    if kind is errors.MissingExtra:
        return errors.MissingExtra("lz4", "lz4", "the codec lz4")
    if kind is errors.RedisUnavailable:
        return errors.RedisUnavailable("gone", maybe_done=True)
    return kind("what happened")


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_caught_by_the_base_of_the_library(kind: type[errors.LixCacheError]) -> None:
    assert issubclass(kind, errors.LixCacheError)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConfigError, ValueError),
        (errors.InvalidSessionId, ValueError),
        (errors.InvalidMessage, ValueError),
        (errors.DimensionMismatch, ValueError),
        (errors.RedisUnavailable, ConnectionError),
        (errors.RedisAuthError, PermissionError),
        (errors.ArchiveBusy, TimeoutError),
        (errors.ArchiveUnavailable, OSError),
        (errors.CodecError, ValueError),
        (errors.MissingExtra, ImportError),
        (errors.MissingDictionary, LookupError),
    ],
)
def test_code_that_catches_the_builtin_error_goes_on_working(
    kind: type[errors.LixCacheError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin):
        raise made(kind)


def test_the_drawing_shows_every_error_under_its_base() -> None:
    drawn: dict[str, str] = {}
    open_branches: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z][A-Za-z]+)(?:\s|$)", line)
        if found:
            depth = len(found[1]) // 4
            while open_branches and open_branches[-1][0] >= depth:
                open_branches.pop()
            drawn[found[2]] = open_branches[-1][1] if open_branches else "Exception"
            open_branches.append((depth, found[2]))
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in ALL}


@pytest.mark.parametrize("kind", ALL)
def test_an_error_comes_back_whole_from_another_process(kind: type[errors.LixCacheError]) -> None:
    before = made(kind)
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind
    assert str(after) == str(before)
    assert vars(after) == vars(before)


def test_a_dimension_mismatch_says_both_dimensions() -> None:
    error = errors.DimensionMismatch(384, 768, "the cache")
    assert (error.expected, error.got) == (384, 768)
    assert "384" in str(error)
    assert "768" in str(error)


def test_a_missing_extra_says_what_to_install() -> None:
    assert "pip install 'lix-cache[lz4]'" in str(errors.MissingExtra("lz4", "lz4", "the codec lz4"))


def test_an_unavailable_server_has_done_nothing_unless_said_otherwise() -> None:
    assert not errors.RedisUnavailable("gone").maybe_done
    assert errors.RedisUnavailable("gone", maybe_done=True).maybe_done
