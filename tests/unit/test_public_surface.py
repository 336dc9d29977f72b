"""What the package exports, exactly, and that the two variants offer the same."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import lix_cache
from lix_cache import errors

PACKAGE = Path(lix_cache.__file__).parent

#: The public names. One that is added, renamed or lost is a decision: it is made here too.
NAMES = [
    "DEFAULT_THRESHOLDS",
    "STRICT_THRESHOLDS",
    "AddedMessages",
    "ArchiveBusy",
    "ArchiveCorrupt",
    "ArchiveError",
    "ArchiveMismatch",
    "ArchiveReport",
    "ArchiveTooLarge",
    "ArchiveUnavailable",
    "AsyncCacheCoordinator",
    "AsyncConversationArchive",
    "AsyncHybridConversationCache",
    "AsyncInFlightCall",
    "AsyncReports",
    "AsyncSemanticCache",
    "AsyncSemanticCacheRedis",
    "AsyncSessionContextWindow",
    "AsyncStoreAdmin",
    "AsyncURLEmbeddingCache",
    "CacheCollector",
    "CacheConfig",
    "CacheCoordinator",
    "CachePolicy",
    "CachedEmbedder",
    "Calibration",
    "CalibrationPoint",
    "Check",
    "Clock",
    "CodecError",
    "Compacted",
    "ComputeTimeout",
    "ConfigError",
    "ConversationArchive",
    "CrossEncoderVerifier",
    "Deleted",
    "Dictionary",
    "DimensionMismatch",
    "EmbeddedRedis",
    "Embedder",
    "EmbedderError",
    "EmbedderUnavailable",
    "EmbeddingStore",
    "EngineBusy",
    "EngineError",
    "Evaluation",
    "Evictor",
    "Explanation",
    "FileCheck",
    "HashingEmbedder",
    "HuffmanCodec",
    "HybridConversationCache",
    "InFlightCall",
    "InvalidContext",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSessionId",
    "InvalidType",
    "InvalidVector",
    "KeyReused",
    "KvBusy",
    "KvError",
    "KvUnavailable",
    "Labelled",
    "LayoutMismatch",
    "LixCacheError",
    "Lookup",
    "MessageNotFound",
    "Migrated",
    "MissingDictionary",
    "MissingExtra",
    "Mistake",
    "Moved",
    "Neighbour",
    "NoRedisServer",
    "Offloaded",
    "OnnxEmbedder",
    "OnnxVerifier",
    "OpenAIEmbedder",
    "Pair",
    "PairEvaluation",
    "Prices",
    "Question",
    "QuestionLog",
    "Reason",
    "RedisAuthError",
    "RedisCommandError",
    "RedisDatabaseError",
    "RedisError",
    "RedisUnavailable",
    "Refusal",
    "Report",
    "RevisionMismatch",
    "SemanticCache",
    "SemanticCacheRedis",
    "SemanticSettings",
    "SentenceTransformerEmbedder",
    "ServerBinary",
    "SessionContextWindow",
    "SessionInfo",
    "SessionKey",
    "SessionPage",
    "StoreAdmin",
    "StoreStats",
    "Stored",
    "StoredMessage",
    "StreamInterrupted",
    "Streamed",
    "Thresholds",
    "TrainingOptions",
    "URLEmbeddingCache",
    "Verifier",
    "VerifierError",
    "__version__",
    "aembed",
    "calibrate",
    "calibration_curve",
    "close_async_redis_clients",
    "create_async_redis_client",
    "create_redis_client",
    "embed_within",
    "ensure_redis",
    "evaluate",
    "evaluate_pairs",
    "json_logs",
    "load_thresholds",
    "questions_from_log",
    "questions_from_pairs",
    "register_metrics",
    "save_thresholds",
    "train_dictionary",
]

TWINS = [name for name in NAMES if f"Async{name}" in NAMES]


def test_the_exported_names_are_these_and_sorted() -> None:
    assert lix_cache.__all__ == NAMES
    # Constants, then classes, then the rest.
    assert (
        sorted(NAMES, key=lambda name: (name[0].islower() or name[0] == "_", not name.isupper(), name))
        == NAMES
    )
    assert dir(lix_cache) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_exported_name_can_be_imported(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from lix_cache import {name}", namespace)
    assert namespace[name] is getattr(lix_cache, name)


def test_a_star_import_brings_all_of_them_and_nothing_else() -> None:
    namespace: dict[str, Any] = {}
    exec("from lix_cache import *", namespace)
    assert sorted(namespace.keys() - {"__builtins__"}) == sorted(NAMES)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'lix_cache' has no attribute 'SemanticCash'"):
        lix_cache.SemanticCash  # noqa: B018
    with pytest.raises(ImportError, match="SemanticCash"):
        exec("from lix_cache import SemanticCash")


#: Parsed here, not in a test: some releases of Python 3.11 and 3.12 fail to parse while an
#: object that an earlier test left behind is collected and its warning is formatted.
INIT = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))


def imports_for_type_checkers() -> dict[str, str]:
    """Return what the block under TYPE_CHECKING says: name to module."""
    blocks = [n for n in INIT.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    imports = [n for block in blocks for n in block.body if isinstance(n, ast.ImportFrom)]
    assert all(alias.asname is None for n in imports for alias in n.names)
    return {alias.name: str(n.module) for n in imports for alias in n.names}


#: Module of each public name that is loaded when it is asked for.
HOMES = {**dict.fromkeys(errors.__all__, "errors"), **lix_cache._HOMES}


def test_type_checkers_are_told_the_homes_that_names_are_loaded_from() -> None:
    homes = {name: f"lix_cache.{home}" for name, home in HOMES.items()}
    assert imports_for_type_checkers() == homes
    assert homes.keys() == set(NAMES) - {"__version__"}


def test_every_error_is_exported() -> None:
    assert set(errors.__all__) <= set(NAMES)
    assert not set(errors.__all__) & set(lix_cache._HOMES)


def test_a_public_object_is_the_one_of_its_home() -> None:
    for name, home in HOMES.items():
        assert getattr(lix_cache, name) is getattr(importlib.import_module(f"lix_cache.{home}"), name)


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


# -- documentation -------------------------------------------------------------------------


def public_classes() -> list[type]:
    return [value for name in NAMES if inspect.isclass(value := getattr(lix_cache, name))]


def public_members(kind: type) -> dict[str, Any]:
    """Return the public methods and properties, those of bases in the package included."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.startswith("lix_cache"):
            found.update({name: value for name, value in vars(base).items() if not name.startswith("_")})
    kinds = (staticmethod, classmethod, property)
    return {name: v for name, v in found.items() if inspect.isfunction(v) or isinstance(v, kinds)}


def documentation(member: Any) -> str:
    function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
    return (function.__doc__ or "").strip()


@pytest.mark.parametrize("kind", public_classes(), ids=lambda kind: kind.__name__)
def test_every_public_class_and_method_says_what_it_does(kind: type) -> None:
    text = (kind.__doc__ or "").strip()
    # A dataclass without a docstring is given its signature as one.
    assert text
    assert not text.startswith(f"{kind.__name__}(")
    silent = [name for name, member in public_members(kind).items() if not documentation(member)]
    assert silent == []


def test_every_public_function_and_module_says_what_it_does() -> None:
    for name in NAMES:
        value = getattr(lix_cache, name)
        if inspect.isfunction(value):
            assert (value.__doc__ or "").strip(), name
    for info in pkgutil.walk_packages(lix_cache.__path__, "lix_cache."):
        if not info.name.endswith("__main__"):
            assert (importlib.import_module(info.name).__doc__ or "").strip(), info.name


@pytest.mark.parametrize("kind", public_classes(), ids=lambda kind: kind.__name__)
def test_every_argument_named_in_a_docstring_exists(kind: type) -> None:
    section = r"^ *Args:\n((?: +.*\n|\n)+?)(?=\n|\Z| *[A-Z]\w+:\n)"
    documented = re.search(section, f"{kind.__doc__}\n", re.MULTILINE)
    if documented is None:
        return
    names = re.findall(r"^ {8}(\w+):", documented[1], re.MULTILINE)
    assert names
    assert set(names) <= set(inspect.signature(kind).parameters)


def test_every_setting_is_documented_and_no_other() -> None:
    text = lix_cache.CacheConfig.__doc__ or ""
    documented = re.findall(r"^ {8}(\w+):", text.split("Attributes:")[1], re.MULTILINE)
    assert documented
    assert sorted(documented) == sorted(f.name for f in dataclasses.fields(lix_cache.CacheConfig))


# -- the two variants -----------------------------------------------------------------------


#: Called under a lock that only the library takes; not for an event loop.
def is_internal(name: str) -> bool:
    return name.endswith("_locked")


def parameters(member: Any) -> list[tuple[Any, ...]]:
    function = getattr(member, "__func__", member)
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def test_everything_that_waits_has_an_async_twin() -> None:
    assert TWINS == [
        "CacheCoordinator",
        "ConversationArchive",
        "HybridConversationCache",
        "InFlightCall",
        "SemanticCache",
        "SemanticCacheRedis",
        "SessionContextWindow",
        "StoreAdmin",
        "URLEmbeddingCache",
    ]
    assert parameters(lix_cache.create_async_redis_client) == parameters(lix_cache.create_redis_client)


@pytest.mark.parametrize("name", TWINS)
def test_async_twins_are_made_with_the_same_arguments(name: str) -> None:
    sync, twin = getattr(lix_cache, name), getattr(lix_cache, f"Async{name}")
    assert parameters(twin.__init__) == parameters(sync.__init__)
    assert annotations(twin.__init__) == annotations(sync.__init__)


def annotations(function: Any) -> dict[str, str]:
    return {name: str(kind) for name, kind in function.__annotations__.items()}


@pytest.mark.parametrize("name", TWINS)
def test_async_twins_have_the_same_methods_with_the_same_parameters(name: str) -> None:
    sync = public_members(getattr(lix_cache, name))
    twin = public_members(getattr(lix_cache, f"Async{name}"))
    assert set(twin) == {method for method in sync if not is_internal(method)}
    for method, member in twin.items():
        if isinstance(member, property):
            assert isinstance(sync[method], property)
            continue
        assert parameters(member) == parameters(sync[method]), method
        if method in ("verify_all", "begin", "record") or (name, method) == ("StoreAdmin", "verify"):
            continue  # they return, or take, what has a variant itself
        assert annotations(member) == annotations(sync[method]), method


@pytest.mark.parametrize("name", TWINS)
def test_every_method_of_an_async_twin_is_awaited(name: str) -> None:
    members = public_members(getattr(lix_cache, f"Async{name}"))
    # A decorator waits for nothing; what it makes has the variant of what it is given.
    methods = {
        n: m for n, m in members.items() if not isinstance(m, property) and n not in ("cached", "record")
    }
    methods.pop("verify_all", None)  # awaited or iterated over
    methods.pop("on_change", None)  # registers, and waits for nothing
    assert methods
    assert [n for n, m in methods.items() if not inspect.iscoroutinefunction(m)] == []


@pytest.mark.parametrize("name", TWINS)
def test_an_async_twin_points_to_what_it_is_the_twin_of(name: str) -> None:
    twin = getattr(lix_cache, f"Async{name}")
    assert name in (twin.__doc__ or "")
    for method, member in vars(twin).items():
        if method in public_members(twin) and not isinstance(member, property):
            see = re.fullmatch(r"See :meth:`(\w+)\.(\w+)`\.", documentation(member))
            if see is None or hasattr(member, "__wrapped__"):
                continue  # described here, or taken over with its documentation
            assert see[1] == name
            # An alias carries the docstring of what it stands for.
            assert getattr(twin, see[2]) is getattr(twin, method)
