"""Where the files of a model are: a folder, or a name on the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lix_cache.errors import EmbedderError, EmbedderUnavailable, LixCacheError, MissingExtra

__all__ = ["MODEL_NAMES", "ModelFiles", "find_model_files"]

#: Tried in this order. Small and fast before large: who wants another one names it.
MODEL_NAMES = (
    "int8.onnx",
    "model.onnx",
    "onnx/model.onnx",
    "model_int8.onnx",
    "onnx/model_int8.onnx",
    "model_quantized.onnx",
    "onnx/model_quantized.onnx",
)
TOKENIZER = "tokenizer.json"
_CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)
#: Weights that ONNX keeps beside a model of more than 2 GB.
_BESIDE = (".data", "_data")
#: How ONNX names the operator (DynamicQuantizeLinear, DynamicQuantizeMatMul, ...).
_DYNAMIC = b"DynamicQuantize"
_LARGEST_CONFIG = 16 << 20


@dataclass(frozen=True)
class ModelFiles:
    """The files of one model.

    Attributes:
        name: what the model was asked for as, a folder's last part or the hub's name.
        model: path of the ONNX file.
        tokenizer: path of ``tokenizer.json``.
        configs: contents of the JSON files that say how it is used, by their name.
    """

    name: str
    model: str
    tokenizer: str
    configs: dict[str, dict[str, Any]]

    def tokenizer_limit(self) -> int | None:
        """Return the number of tokens that ``tokenizer.json`` itself cuts at, if it does."""
        try:
            with open(self.tokenizer, encoding="utf-8") as file:
                cut = json.load(file).get("truncation")
        except (OSError, ValueError, AttributeError, RecursionError):
            return None  # the next load says what is wrong with it
        return cut.get("max_length") if isinstance(cut, dict) else None

    def digest(self) -> tuple[Callable[..., str], bool]:
        """Read the files once.

        Returns:
            A function that gives the digest of the files and of its arguments, which are
            choices that change the answers too; and whether the model quantises as it runs.
        """
        whole = hashlib.blake2b(digest_size=12)
        dynamic = False
        beside = [self.model + end for end in _BESIDE if os.path.isfile(self.model + end)]
        for path in (self.model, *beside, self.tokenizer):
            whole.update(os.path.getsize(path).to_bytes(8, "little"))
            tail = b""
            with open(path, "rb") as file:
                while part := file.read(1 << 20):
                    whole.update(part)
                    dynamic = dynamic or _DYNAMIC in tail + part
                    tail = part[1 - len(_DYNAMIC) :]

        def with_choices(*choices: object) -> str:
            copy = whole.copy()
            copy.update(repr(choices).encode())
            return copy.hexdigest()

        return with_choices, dynamic


def find_model_files(
    model: str | os.PathLike[str],
    *,
    model_file: str | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    endpoint: str | None = None,
    error: type[LixCacheError] = EmbedderError,
    unavailable: type[LixCacheError] = EmbedderUnavailable,
) -> ModelFiles:
    """Find a model's files, downloading them if it is a hub's name and they are not here yet.

    Args:
        model: a folder, or a name such as ``sentence-transformers/all-MiniLM-L6-v2``.
        model_file: which ONNX file in it; the first of MODEL_NAMES by default.
        revision: branch, tag or commit on the hub; a commit is the only one that stays.
        cache_dir: where downloads are kept; the hub library's own place by default.
        endpoint: URL of the hub, if it is another one.
        error: raised for a model that cannot be used.
        unavailable: raised for a hub that cannot be reached.

    Raises:
        MissingExtra: it is a name, and huggingface_hub is not installed.
    """
    given = os.fspath(model)
    wanted = (model_file,) if model_file else MODEL_NAMES
    if os.path.isdir(given):
        return _in_folder(given, os.path.basename(os.path.abspath(given)), wanted, error)
    if os.path.sep in given.strip("/").replace("/", "", 1) or given.startswith((".", "/", "~")):
        raise error(f"no folder {given!r}; name a folder with an ONNX model and {TOKENIZER}, or a hub model")
    folder = _from_hub(given, wanted, revision, cache_dir, endpoint, error, unavailable)
    return _in_folder(folder, given, wanted, error)


def _in_folder(folder: str, name: str, wanted: Sequence[str], error: type[LixCacheError]) -> ModelFiles:
    model = next((p for n in wanted if os.path.isfile(p := os.path.join(folder, n))), None)
    if model is None:
        raise error(f"no {' or '.join(wanted)} in {folder!r}; name the file with model_file=")
    tokenizer = os.path.join(folder, TOKENIZER)
    if not os.path.isfile(tokenizer):
        raise error(f"no {TOKENIZER} in {folder!r}; save it with the tokenizers library beside the model")
    return ModelFiles(name, model, tokenizer, _configs(folder, error))


def _configs(folder: str, error: type[LixCacheError]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in _CONFIGS:
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue
        if os.path.getsize(path) > _LARGEST_CONFIG:
            raise error(f"{path!r} is too large for a model's settings")
        try:
            with open(path, encoding="utf-8") as file:
                value = json.load(file)
        except (ValueError, RecursionError) as cause:
            raise error(f"{path!r} is not JSON: {cause}") from None
        if not isinstance(value, dict):
            raise error(f"{path!r} must hold a JSON object")
        found[name] = value
    return found


def _from_hub(
    name: str,
    wanted: Sequence[str],
    revision: str | None,
    cache_dir: str | None,
    endpoint: str | None,
    error: type[LixCacheError],
    unavailable: type[LixCacheError],
) -> str:
    """Return a folder with what is needed of a hub's model, and nothing more of it."""
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtra(
            "huggingface_hub", "onnx", f"the model {name!r}, which is no local folder,"
        ) from None
    options: dict[str, Any] = {"revision": revision, "cache_dir": cache_dir, "endpoint": endpoint}
    patterns = [*wanted, *(n + end for n in wanted for end in _BESIDE), TOKENIZER, *_CONFIGS]

    def kept() -> str:
        # No question to the hub for what is here already: it may be away, and this is the usual case.
        return str(
            huggingface_hub.snapshot_download(name, local_files_only=True, allow_patterns=patterns, **options)
        )

    def fetched() -> str:
        api = huggingface_hub.HfApi(endpoint=endpoint)
        listed = {file.rfilename for file in api.model_info(name, revision=revision).siblings or ()}
        model = next((n for n in wanted if n in listed), None)
        if model is None or TOKENIZER not in listed:
            raise error(f"the hub's model {name!r} has no {' or '.join(wanted)} with a {TOKENIZER}")
        needed = {model, *(model + end for end in _BESIDE), TOKENIZER, *_CONFIGS} & listed
        return str(huggingface_hub.snapshot_download(name, allow_patterns=sorted(needed), **options))

    folder = _tried(kept, name, error, None)
    if folder is not None and _is_whole(folder, wanted):
        return folder
    fresh = _tried(fetched, name, error, unavailable)
    if fresh is None:
        raise AssertionError  # a failure was raised
    return fresh


def _is_whole(folder: str, wanted: Sequence[str]) -> bool:
    there = [os.path.isfile(os.path.join(folder, name)) for name in (TOKENIZER, *wanted)]
    return there[0] and any(there[1:])


def _tried(
    call: Callable[[], str], name: str, error: type[LixCacheError], unavailable: type[LixCacheError] | None
) -> str | None:
    """Call the hub's library; ``unavailable=None`` takes a model that is not here for None."""
    from huggingface_hub import errors as hub

    try:
        return call()
    except hub.LocalEntryNotFoundError as cause:
        if unavailable is None:
            return None
        raise unavailable(f"the hub could not be asked for {name!r}: {cause}") from cause
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError) as cause:
        raise error(f"no model {name!r} on the hub, and no such folder here: {cause}") from cause
    except LixCacheError:
        raise
    except Exception as cause:
        # Which errors its transport has depends on the library's version.
        raise (unavailable or error)(f"the hub could not be asked for {name!r}: {cause}") from cause
