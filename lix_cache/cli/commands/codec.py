"""``lix-cache codec``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import typer

from lix_cache import ConversationArchive, Dictionary, HuffmanCodec, InvalidInput, train_dictionary
from lix_cache.cli.conversations import load
from lix_cache.cli.errors import FlowingGroup
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, human_bytes, print_json, progress, to_stderr, visible

__all__ = ["codec"]

_MOST_PHRASES = 65_536

codec = typer.Typer(
    cls=FlowingGroup,
    help="Dictionaries: what the Huffman codec knows before it has seen a text.",
    epilog="Example: lix-cache codec train chats.jsonl --output support.lixt",
)


@codec.command(epilog="Example: lix-cache codec train chats.jsonl --output support.lixt")
def train(
    ctx: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Conversations (.jsonl, .json) or plain text; by default the archive in --archive-dir.",
        ),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="The dictionary.")
    ] = "phrases.lixt",
    dictionary_id: Annotated[
        str | None, typer.Option("--id", help="Its name; by default that of the file.")
    ] = None,
    size: Annotated[int, typer.Option(min=256, max=_MOST_PHRASES, help="Most phrases.")] = _MOST_PHRASES,
    hold_out: Annotated[
        int, typer.Option(min=0, max=50, help="Percent of the texts to evaluate it on, not train it on.")
    ] = 5,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a dictionary on your own text, and measure what it saves.

    The dictionary that ships was trained on public conversations, most of them in English. Text of
    another kind (a domain, a language, tool output) may take less with a dictionary of its own, and
    what is printed at the end says whether it does: it is measured on texts that were held out.
    It takes a few MB of text; of more than 12 MB a sample. The same files give the same dictionary,
    byte for byte.

    Reading what was written with a dictionary needs its file: keep it as long as the archives.
    """
    if os.path.exists(output) and not force:
        raise InvalidInput(
            f"{output} is there; an archive may need it. Name another --output, or use --force"
        )
    texts = list(dict.fromkeys(_texts(files or [], ctx)))
    if not texts:
        raise InvalidInput(f"there is no text in {', '.join(files or []) or 'the archive'}")
    # Every so many, so that all files have their share.
    step = 100 // hold_out if hold_out else len(texts) + 1
    unseen = texts[step - 1 :: step]
    seen = [text for number, text in enumerate(texts, 1) if number % step]
    name = dictionary_id if dictionary_id is not None else os.path.splitext(os.path.basename(output))[0]
    dictionary = _trained(seen, name, size)
    _write(output, dictionary)
    result = _evaluated(output, seen, unseen)
    if as_json:
        print_json(result)
    else:
        _show(result)


def _trained(texts: list[bytes], name: str, size: int) -> bytes:
    with progress("training") as tell:
        share = dict.fromkeys(("counting substrings", "choosing phrases", "fitting the code"), 0.0)

        def report(what: str, done: float) -> None:
            share[what] = done
            tell(round(100 * sum(share.values()) / len(share)), 100)

        return train_dictionary(texts, id=name, size=size, progress=report)


def _evaluated(output: str, seen: list[bytes], unseen: list[bytes]) -> dict[str, Any]:
    """Return what a dictionary is, and what it saves of texts that it has not seen."""
    loaded = Dictionary.load(output)
    return {
        "file": output,
        "id": loaded.id,
        "number": loaded.number.hex(),
        "phrases": loaded.count,
        "bytes": os.path.getsize(output),
        "trained_on": {"texts": len(seen), "bytes": sum(map(len, seen))},
        "held_out": {
            "texts": len(unseen),
            "bytes": sum(map(len, unseen)),
            "encoded": sum(len(HuffmanCodec.encode(text, dictionary=output)) for text in unseen),
            "encoded_with_the_shipped_dictionary": sum(len(HuffmanCodec.encode(text)) for text in unseen),
        },
    }


def _show(result: dict[str, Any]) -> None:
    console = for_humans()
    what = f"{result['phrases']:,} phrases, {human_bytes(result['bytes'])}, number {result['number']}"
    console.print(f"{visible(result['file'])}: {what}", soft_wrap=True)
    held_out = result["held_out"]
    raw = held_out["bytes"]
    if not raw:
        to_stderr().print(
            "nothing was held out to evaluate it on, so what it saves is not known. Give it more text",
            style="yellow",
            soft_wrap=True,
        )
        return
    own, shipped = (
        f"{held_out[key] / raw:.1%}" for key in ("encoded", "encoded_with_the_shipped_dictionary")
    )
    console.print(
        f"{held_out['texts']:,} texts that it has not seen: {own} of their {human_bytes(raw)}; "
        f"with the dictionary that ships {shipped}",
        soft_wrap=True,
    )


def _texts(paths: list[str], ctx: typer.Context) -> Iterator[bytes]:
    if not paths:
        config = settings_of(ctx).config_of_store()
        archive = ConversationArchive(config.archive_place, config.disk_ttl_days)
        for session in archive.list_sessions():
            for turn in archive.load_all(session["session_id"]) or []:
                if isinstance(turn.get("content"), str):
                    yield turn["content"].encode("utf-8", "surrogatepass")
    for path in paths:
        if path.endswith((".jsonl", ".json")):
            for conversation in load([path], None):
                for message in conversation.messages:
                    if isinstance(message.content, str):
                        yield message.content.encode("utf-8", "surrogatepass")
        else:
            yield from _paragraphs(path)


def _paragraphs(path: str) -> list[bytes]:
    try:
        with open(path, "rb") as file:
            return [part for part in file.read().split(b"\n\n") if part.strip()]
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None


def _write(path: str, dictionary: bytes) -> None:
    # Whole or not at all: a dictionary that was cut is of no use.
    unfinished = f"{path}.tmp"
    # It holds phrases that people used: readable by the owner alone.
    with open(unfinished, "wb", opener=partial(os.open, mode=0o600)) as file:
        file.write(dictionary)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


@codec.command(epilog="Example: lix-cache codec show support.lixt")
def show(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A dictionary.")],
    count: Annotated[
        int, typer.Option("--phrases", min=0, help="How many to show, the commonest first.")
    ] = 20,
    as_json: AsJson = False,
) -> None:
    """Show a dictionary: its id, its number, its commonest phrases.

    Archives name the dictionary they need by its number.
    """
    dictionary = Dictionary.load(file)
    order = sorted(range(dictionary.count), key=lambda index: (dictionary.lengths[index], index))[:count]
    phrases = [(dictionary.phrases[index], dictionary.lengths[index]) for index in order]
    if as_json:
        listed = [{"hex": phrase.hex(), "bits": bits} for phrase, bits in phrases]
        number = dictionary.number.hex()
        print_json({"id": dictionary.id, "number": number, "phrases": dictionary.count, "commonest": listed})
        return
    console = for_humans()
    console.print(
        f"{visible(dictionary.id)}: number {dictionary.number.hex()}, {dictionary.count:,} phrases",
        soft_wrap=True,
    )
    for phrase, bits in phrases:
        console.print(f"{bits:4} bits  {visible(repr(phrase.decode('utf-8', 'replace')))}", soft_wrap=True)
