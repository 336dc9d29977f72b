"""Thresholds on disk: one JSON file for any number of embedders and classes of scopes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from typing import Any

from lix_cache.errors import ConfigError, InvalidInput
from lix_cache.evaluation.calibration import Calibration
from lix_cache.matching.thresholds import Thresholds

__all__ = ["load_thresholds", "save_thresholds"]

_FORMAT = "lix-cache thresholds 1"


def load_thresholds(path: str | os.PathLike[str], *, embedder: str, group: str = "") -> Thresholds:
    """Read the thresholds that were calibrated for an embedder.

    Args:
        path: what ``lix-cache calibrate`` or :func:`save_thresholds` wrote.
        embedder: its id. Thresholds of one embedder mean nothing with another.
        group: class of scopes; those for all (``""``) are taken where it has none of its own.

    Raises:
        ConfigError: the file is not of this kind, or has no thresholds for the embedder.
        OSError: it cannot be read.
    """
    entries = _read(path)
    for wanted in (group, ""):
        for entry in entries:
            if entry["embedder"] == embedder and entry["group"] == wanted:
                return _thresholds(entry, path)
    known = sorted({entry["embedder"] for entry in entries})
    raise ConfigError(
        f"{os.fspath(path)} has no thresholds for the embedder {embedder!r}, only for {known}; "
        "thresholds do not carry over: run 'lix-cache calibrate' with this embedder"
    )


def save_thresholds(
    path: str | os.PathLike[str], calibration: Calibration, *, embedder: str, group: str = ""
) -> None:
    """Write what a calibration found; thresholds for other embedders and classes in the file stay.

    The file is replaced whole or not at all.

    Args:
        path: the file; made if it is not there.
        calibration: one that proved its thresholds.
        embedder: id of the embedder that made the vectors.
        group: the class of scopes that it was made from; ``""``: all.

    Raises:
        InvalidInput: the calibration proved nothing.
        ConfigError: the file is there and is not of this kind.
        OSError: it cannot be written.
    """
    best = calibration.best
    if best is None:
        raise InvalidInput("this calibration proved no thresholds, so there is nothing to save")
    entries = _read(path) if os.path.exists(path) else []
    entries = [e for e in entries if (e["embedder"], e["group"]) != (embedder, group)]
    entries.append(
        {
            "embedder": embedder,
            "group": group,
            "thresholds": best.thresholds.as_dict(),
            "bound": calibration.bound,
            "confidence": calibration.confidence,
            "measured": {
                "questions": best.questions,
                "hits": best.hits,
                "wrong": best.wrong,
                "upper": round(best.upper, 6),
            },
            "calibrated": time.strftime("%Y-%m-%d", time.gmtime()),
        }
    )
    entries.sort(key=lambda entry: (entry["embedder"], entry["group"]))
    _replace(path, json.dumps({"format": _FORMAT, "entries": entries}, indent=2) + "\n")


def _read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        try:
            content, why = json.load(file), ""
        except (ValueError, RecursionError) as error:
            why = str(error)
    if why:
        # Raised out here: Python's own error carries the whole text.
        raise ConfigError(f"{os.fspath(path)} is not JSON: {why}")
    entries = content.get("entries") if isinstance(content, dict) else None
    if not isinstance(content, dict) or content.get("format") != _FORMAT or not isinstance(entries, list):
        raise ConfigError(f"{os.fspath(path)} is no file of calibrated thresholds ('format': {_FORMAT!r})")
    for entry in entries:
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(k), str) for k in ("embedder", "group")
        ):
            raise ConfigError(f"{os.fspath(path)}: every entry needs 'embedder' and 'group', both text")
    return entries


def _thresholds(entry: dict[str, Any], path: str | os.PathLike[str]) -> Thresholds:
    values = entry.get("thresholds")
    if not isinstance(values, dict):
        raise ConfigError(f"{os.fspath(path)}: the entry for {entry['embedder']!r} has no 'thresholds'")
    try:
        return Thresholds.from_dict(values)
    except InvalidInput as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from None


def _replace(path: str | os.PathLike[str], text: str) -> None:
    target = os.path.abspath(path)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".thresholds-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes the file private; thresholds are no secret, and the application may be another user.
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
