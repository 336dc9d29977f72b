"""``lix-cache codec``: a table of one's own, the same every time, and what it says about itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lix_cache import ConversationArchive, Dictionary, HuffmanCodec
from lix_cache.cli.app import app

WORDS = ["the", "parcel", "with", "your", "order", "left", "our", "warehouse", "in", "Utrecht", "today"]
TEXTS = [" ".join(WORDS[i % 7 : i % 7 + 5]) + f", number {i * 37 % 101}." for i in range(300)]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["codec", *arguments], prog_name="lix-cache")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for start in range(0, len(TEXTS), 10):
            turns = [{"role": "user", "content": text} for text in TEXTS[start : start + 10]]
            file.write(
                json.dumps({"messages": [*turns, {"role": "tool", "content": {"not": "text"}}]}) + "\n"
            )
    return path


def test_a_table_of_ones_own_is_written_and_evaluated_on_texts_it_has_not_seen(
    chats: Path, tmp_path: Path
) -> None:
    path = tmp_path / "orders.lixt"
    code, out, _ = run("train", str(chats), "--output", str(path), "--hold-out", "10", "--json")
    assert code == 0
    told = json.loads(out)
    table = Dictionary.load(path)
    assert told["id"] == table.id == "orders"
    assert told["number"] == table.number.hex()
    assert told["bytes"] == path.stat().st_size
    assert told["trained_on"]["texts"] + told["held_out"]["texts"] == len(set(TEXTS))
    assert told["held_out"]["texts"] == len(set(TEXTS)) // 10
    assert told["held_out"]["encoded"] < told["held_out"]["encoded_with_the_shipped_dictionary"]
    message = (TEXTS[3] + TEXTS[77]).encode()
    stream = HuffmanCodec.encode(message, dictionary=path)
    assert HuffmanCodec.decode(stream, dictionary=path) == message
    assert len(stream) < len(HuffmanCodec.encode(message))


def test_the_same_files_give_the_same_table(chats: Path, tmp_path: Path) -> None:
    tables = []
    for name in ("one.lixt", "two.lixt"):
        code, out, _ = run("train", str(chats), "-o", str(tmp_path / name), "--id", "same", "--size", "900")
        assert code == 0
        assert "900 phrases" in out
        assert "texts that it has not seen" in out
        tables.append((tmp_path / name).read_bytes())
    assert tables[0] == tables[1]


def test_plain_text_and_the_archive_can_be_trained_on(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(TEXTS), encoding="utf-8")
    archive = ConversationArchive(str(tmp_path / "chats"))
    for start in (0, 150):
        turns = [{"role": "user", "content": text} for text in TEXTS[start : start + 150]]
        archive.append_turns(f"session {start}", [*turns, {"role": "tool", "content": None}])
    code, _, _ = run(
        "train", str(text), "-o", str(tmp_path / "text.lixt"), "--size", "600", "--hold-out", "0"
    )
    assert code == 0
    result = CliRunner().invoke(
        app,
        [
            "--archive-dir",
            str(tmp_path / "chats"),
            "codec",
            "train",
            "-o",
            str(tmp_path / "own.lixt"),
            "--json",
        ],
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout)["trained_on"]["texts"] > 200
    assert Dictionary.load(tmp_path / "text.lixt").count == 600


def test_a_dictionary_that_is_there_is_not_replaced_unless_told_to(chats: Path, tmp_path: Path) -> None:
    path = tmp_path / "kept.lixt"
    path.write_bytes(b"precious")
    code, _, err = run("train", str(chats), "-o", str(path))
    assert code == 2
    assert "an archive may need it" in err
    assert path.read_bytes() == b"precious"
    code, _, _ = run("train", str(chats), "-o", str(path), "--force", "--size", "300")
    assert code == 0
    assert Dictionary.parse(path.read_bytes()).count == 300


def test_what_cannot_be_trained_on_is_said(tmp_path: Path) -> None:
    code, _, err = run("train", str(tmp_path / "none.txt"), "-o", str(tmp_path / "t.lixt"))
    assert code == 2
    assert "none.txt: No such file" in err
    (tmp_path / "empty.txt").write_text("\n\n\n")
    code, _, err = run("train", str(tmp_path / "empty.txt"), "-o", str(tmp_path / "t.lixt"))
    assert code == 2
    assert "there is no text in" in err
    (tmp_path / "a.txt").write_text("some text")
    code, _, err = run("train", str(tmp_path / "a.txt"), "-o", str(tmp_path / "t.lixt"), "--id", "ü")
    assert code == 2
    assert "printable ASCII" in err
    assert not (tmp_path / "t.lixt").exists()


def test_a_dictionary_that_nothing_evaluated_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text\n\nand some more")
    code, _, err = run("train", str(tmp_path / "a.txt"), "-o", str(tmp_path / "t.lixt"))
    assert code == 0
    assert "nothing was held out" in err


def test_show_says_which_table_a_file_is(chats: Path, tmp_path: Path) -> None:
    path = tmp_path / "orders.lixt"
    run("train", str(chats), "-o", str(path), "--size", "500")
    table = Dictionary.load(path)
    code, out, _ = run("show", str(path), "--phrases", "3")
    assert code == 0
    assert out.splitlines()[0] == f"orders: number {table.number.hex()}, 500 phrases"
    assert len(out.splitlines()) == 4
    code, out, _ = run("show", str(path), "--phrases", "2", "--json")
    told = json.loads(out)
    assert told["number"] == table.number.hex()
    assert [one["bits"] for one in told["commonest"]] == sorted(table.lengths)[:2]
    assert all(bytes.fromhex(one["hex"]) in table.phrases for one in told["commonest"])
    code, _, err = run("show", str(chats))
    assert code == 1
    assert "is not a dictionary" in err
