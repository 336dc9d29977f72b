"""The texts that the dictionary is trained and evaluated on, and the licence of each."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = Path(__file__).with_name("codec_vocabulary.txt")

#: A conversation: (role, content) pairs in order.
Conversation = list[tuple[str, str]]


@dataclass(frozen=True)
class TextSet:
    """One set of the evaluation data.

    Attributes:
        name: its name in the reports.
        files: its files, below the folder with the data.
        licence: the licence its text is under.
        trained: whether the shipped dictionary may be trained on it; see NOTICE.
        origin: sets of one origin are left out together when one of them is evaluated.
        keep: the records to take.
    """

    name: str
    files: tuple[str, ...]
    licence: str
    trained: bool
    origin: str
    keep: Callable[[dict[str, Any]], bool] = lambda _record: True


def _set(
    name: str,
    files: str | tuple[str, ...],
    licence: str,
    trained: bool,
    origin: str = "",
    keep: Callable[[dict[str, Any]], bool] = lambda _record: True,
) -> TextSet:
    return TextSet(
        name, (files,) if isinstance(files, str) else files, licence, trained, origin or name, keep
    )


SETS = (
    _set("crosswoz_zh", "conv_crosswoz_zh/conversations.jsonl", "Apache-2.0", True),
    _set(
        "intercode_bash",
        "conv_intercode_sql_bash/conversations.jsonl",
        "MIT",
        True,
        "intercode",
        lambda record: record["lang"] == "bash",
    ),
    _set("mtbench101", "conv_mtbench101/conversations.jsonl", "Apache-2.0", True),
    _set(
        "mtbench_multilingual",
        ("conv_mtbench_multilingual/conversations.jsonl", "conv_mtbench_multilingual/questions.jsonl"),
        "Apache-2.0",
        True,
    ),
    _set("oasst", "conv_oasst_sample/conversations.jsonl", "Apache-2.0", True),
    _set("taskmaster4", "conv_taskmaster4/conversations.jsonl", "CC BY 4.0", True),
    _set("taubench_airline", "conv_taubench_airline/conversations.jsonl", "MIT", True),
    _set("banking77", "intent_banking77/queries.jsonl", "CC BY 4.0", True),
    _set("clinc150", "intent_clinc150/queries.jsonl", "CC BY 3.0", True),
    # Not trained on: share-alike licences, or text that is itself from share-alike sources.
    _set(
        "intercode_sql",
        "conv_intercode_sql_bash/conversations.jsonl",
        "MIT, questions CC BY-SA 4.0",
        False,
        "intercode",
        lambda record: record["lang"] == "sql",
    ),
    _set("sgd", "conv_sgd/conversations.jsonl", "CC BY-SA 4.0", False),
    _set("topicalchat", "conv_topicalchat/conversations.jsonl", "CDLA-Sharing-1.0", False),
    _set("beam100k", "memory_beam100k/beam.jsonl", "CC BY-SA 4.0", False),
    _set("xsid", "intent_xsid_multilingual/queries.jsonl", "CC BY-SA 4.0", False),
    _set("pawsx", "pairs_pawsx/pairs.jsonl", "PAWS licence; sentences of Wikipedia", False),
)
TRAINED = tuple(one for one in SETS if one.trained)


def data_folder(named: str | None = None) -> Path:
    """Return the folder with the evaluation data: the one named, LIX_CACHE_SHARED, or ../shared."""
    named = named or os.environ.get("LIX_CACHE_SHARED")
    base = Path(named) if named else ROOT.parent / "shared"
    folder = base / "data" if (base / "data").is_dir() else base
    if not any((folder / name).is_file() for one in SETS for name in one.files):
        raise SystemExit(f"no evaluation data at {folder}; name its folder with LIX_CACHE_SHARED")
    return folder


def conversations(one: TextSet, folder: Path) -> Iterator[Conversation]:
    """Yield a set's conversations; a query or a pair of sentences is one of user messages."""
    for name in one.files:
        with (folder / name).open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if one.keep(record):
                    yield read_conversation(record)


def read_conversation(record: dict[str, Any]) -> Conversation:
    """Return the texts of one line of a file, whatever kind of record it is."""
    found: Conversation = []
    for turn in record.get("turns") or record.get("conversation") or record.get("messages") or []:
        role, content = ("user", turn) if isinstance(turn, str) else (turn["role"], turn.get("content"))
        if isinstance(content, str) and content:
            found.append((role, content))
    found += [("user", record[key]) for key in ("text", "a", "b") if isinstance(record.get(key), str)]
    return found


def messages(one: TextSet, folder: Path) -> list[bytes]:
    """Return a set's messages, each text once, in the order of the file."""
    texts = (content for conversation in conversations(one, folder) for _, content in conversation)
    return [text.encode() for text in dict.fromkeys(texts)]


def training_texts(folder: Path, without: str = "") -> dict[str, list[bytes]]:
    """Return the sets to train on, but for those of one origin; and our own demo."""
    texts = {one.name: messages(one, folder) for one in TRAINED if one.origin != without}
    texts["demo"] = demo_messages()
    return texts


def demo_messages() -> list[bytes]:
    """Return the messages of the demo's conversations, which are of our own writing."""
    with (ROOT / "lix_cache" / "cli" / "data" / "demo.jsonl").open(encoding="utf-8") as lines:
        texts = (content for line in lines for _, content in read_conversation(json.loads(line)))
        return [text.encode() for text in dict.fromkeys(texts)]


def read_vocabulary() -> list[bytes]:
    """Return the phrases of the vocabulary file; its head says how it is written."""
    phrases: list[str] = []
    section = ""
    for line in VOCABULARY.read_text(encoding="utf-8").splitlines():
        if line.startswith(("[words ", "[joined ", "[lines ")) and line.endswith("]"):
            section = line[1:].split()[0]
        elif not line or not section:
            continue
        elif section == "words":
            phrases += [f" {word}" for word in line.split()]
        elif section == "joined":
            phrases += line.split()
        else:
            body = line.strip("·")
            begin, end = len(line) - len(line.lstrip("·")), len(line) - len(line.rstrip("·"))
            phrase = " " * begin + body + " " * end
            phrases.append(phrase.replace("¶", "\n"))
    return [phrase.encode() for phrase in dict.fromkeys(phrases)]
