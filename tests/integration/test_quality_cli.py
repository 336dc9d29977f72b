"""``lix-cache eval`` and ``lix-cache calibrate``: on a real Redis, with files as users have them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lix_cache import DEFAULT_THRESHOLDS, CacheConfig, HashingEmbedder, SemanticCache, load_thresholds
from lix_cache.cli.app import app
from lix_cache.cli.quality.plot import Curve, draw, text_plot
from lix_cache.cli.quality.sets import load_set, some
from tests.support import RedisServer

Run = Callable[..., Any]
#: Words that a lexical embedder can tell apart, in the ways in which people vary them.
BEFORE = ("please", "could you", "can you", "hey,", "i want you to", "i need you to", "kindly", "would you")
DONE = (
    "pay my electricity invoice",
    "cancel the gym contract",
    "open another savings account",
    "translate this german letter",
)
AFTER = (
    *("for me", "thanks", "if possible", "when you can", "for my mother", "for my brother", "for us"),
    *("again", "quickly", "carefully", "properly", "as agreed", "as discussed", "somehow", "at last"),
    "by yourself",
)


@pytest.fixture
def run(redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LIX_CACHE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("LIX_CACHE_REDIS_URL", raising=False)

    def invoke(*arguments: str, code: int = 0) -> Any:
        url = f"redis://127.0.0.1:{redis_server.port}"
        result = CliRunner().invoke(app, ["--redis-url", url, *arguments])
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "asked.jsonl"
    lines = [
        {"query": f"{before} {thing} {after}", "answer_id": thing, "group": "odd" if number % 2 else ""}
        for number, after in enumerate(AFTER)
        for before in BEFORE
        for thing in DONE
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def keys_left(redis_server: RedisServer) -> list[bytes]:
    return [key for db in range(3) for key in redis_server.client(db=db).scan_iter("lix-demo-*")]


class TestEval:
    def test_a_file_is_replayed_through_the_cache_and_beside_it_plain_cosine(
        self, run: Run, asked: Path, redis_server: RedisServer
    ) -> None:
        # A demo that was killed in the middle leaves its keys until they expire.
        before = keys_left(redis_server)
        result = run("eval", "--set", str(asked), "--model", "lexical", "--queries", "200", "--json")
        (found,) = json.loads(result.stdout)["sets"]
        assert found["available"] == 512
        caches = {cache["cache"]: cache for cache in found["caches"]}
        assert list(caches) == [
            "lix-cache",
            "lix-cache, strict",
            *(f"plain cosine 0.{part}" for part in (80, 85, 90, 95)),
        ]
        for cache in caches.values():
            assert cache["questions"] == 200 == sum(cache["reasons"].values())
            low, high = cache["false_hit_rate_95"]
            assert low <= cache["false_hit_rate"] <= high
        assert caches["lix-cache"]["hits"] > caches["lix-cache, strict"]["hits"] > 0
        assert keys_left(redis_server) == before

    def test_people_get_a_table_and_the_mistakes(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "same words.jsonl"
        path.write_text('{"query": "pay it", "answer_id": "1"}\n{"query": "pay it", "answer_id": "2"}\n')
        result = run("eval", "--set", str(path), "--model", "lexical", "--mistakes", "1")
        assert "false-hit rate" in result.output
        assert "1 of 1" in result.output
        assert "served" in result.output

    def test_the_reasons_of_each_stand_on_a_line(self, run: Run, asked: Path) -> None:
        output = run("eval", "--set", str(asked), "--model", "lexical", "--queries", "200").output
        for name in ("lix-cache", "lix-cache, strict", "plain cosine 0.90"):
            assert re.search(rf"^{name}: ([\w ]+ [\d,]+, )+[\w ]+ [\d,]+$", output, re.MULTILINE)

    def test_pairs_are_evaluated_as_pairs(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "pairs.jsonl"
        path.write_text(
            '{"a": "turn the light on", "b": "turn the light on please", "label": 1}\n'
            '{"a": "turn the light on", "b": "turn the light off", "label": 0}\n'
        )
        result = run("eval", "--set", str(path), "--model", "lexical", "--json")
        plain = json.loads(result.stdout)["sets"][0]["caches"][-1]
        assert (plain["same"], plain["different"]) == (1, 1)
        ours = json.loads(result.stdout)["sets"][0]["caches"][0]
        assert ours["false_accepts"] == 0
        assert "accepted of the same" in run("eval", "--set", str(path), "--model", "lexical").output

    def test_without_the_sets_it_says_that_a_file_will_do(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("LIX_CACHE_SHARED", raising=False)
        assert "a file of your own with --set" in run("eval", "--model", "lexical", code=2).output

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--set", "nothing"], "neither a file nor one of the sets"),
            (["--half", "left"], "--half is one of"),
            (["--set", "pawsx", "--half", "dev", "--data", "/tmp"], "halves"),
        ],
    )
    def test_wrong_use_is_said(self, run: Run, arguments: list[str], said: str) -> None:
        assert said in run("eval", *arguments, "--model", "lexical", code=2).output

    def test_without_a_model_it_says_how_to_name_one(
        self, run: Run, asked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("LIX_CACHE_SHARED", raising=False)
        monkeypatch.delenv("LIX_CACHE_MODEL", raising=False)
        (tmp_path / "shared").mkdir()
        assert "--model" in run("eval", "--set", str(asked), code=2).output

    @pytest.mark.shared
    @pytest.mark.exhaustive
    @pytest.mark.parametrize(
        ("name", "least_hits", "most_wrong"),
        [("answers", 0.27, 0.02), ("banking77", 0.38, 0.02), ("clinc150", 0.25, 0.015)],
    )
    def test_the_promised_quality_is_kept_with_the_real_model(
        self,
        run: Run,
        shared_dir: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        least_hits: float,
        most_wrong: float,
    ) -> None:
        monkeypatch.setenv("LIX_CACHE_SHARED", str(shared_dir))
        found = json.loads(run("eval", "--set", name, "--json").stdout)["sets"][0]
        ours, strict = found["caches"][:2]
        plain = next(cache for cache in found["caches"] if cache["cache"] == "plain cosine 0.90")
        assert ours["hit_ratio"] >= least_hits
        assert ours["false_hit_rate"] <= most_wrong
        assert strict["false_hit_rate"] <= 0.01
        assert strict["hit_ratio"] >= {"answers": 0.08, "banking77": 0.28, "clinc150": 0.18}[name]
        assert ours["hit_ratio"] > 2 * plain["hit_ratio"]


class TestSets:
    def test_the_seed_decides_which_and_in_which_order(self) -> None:
        items = list(range(100))
        assert some(items, 10, 1) == some(items, 10, 1) != some(items, 10, 2)
        assert sorted(some(items, 0, 1)) == items
        assert some(items, 10, 1) == some(items, 0, 1)[:10]

    @pytest.mark.shared
    def test_halves_are_made_as_the_sets_say(self, shared_dir: Path) -> None:
        dev = load_set("banking77", str(shared_dir), half="dev", count=0, seed=0, languages=())
        whole = load_set("banking77", str(shared_dir), half="all", count=0, seed=0, languages=())
        assert 0 < len(dev.questions) <= len(whole.questions)
        assert {question.text for question in dev.questions} <= {q.text for q in whole.questions}

    @pytest.mark.shared
    def test_what_is_out_of_scope_has_an_answer_of_its_own(self, shared_dir: Path) -> None:
        found = load_set("clinc150", str(shared_dir), half="all", count=0, seed=0, languages=())
        outside = [question.answer for question in found.questions if question.answer.startswith("oos")]
        assert len(outside) > 500
        assert len(set(outside)) > len(outside) - 5


class TestCalibrate:
    def test_a_log_gives_thresholds_that_the_cache_takes(
        self, run: Run, asked: Path, tmp_path: Path, redis_config: CacheConfig
    ) -> None:
        thresholds, plot = tmp_path / "thresholds.json", tmp_path / "curve.svg"
        arguments = ["--log", str(asked), "--model", "lexical", "--bound", "0.1"]
        result = run("calibrate", *arguments, "-o", str(thresholds), "--plot", str(plot))
        assert "proven, and taken" in result.output
        assert "false-hit rate" in result.output
        assert plot.read_text().startswith("<?xml")
        embedder = HashingEmbedder()
        found = load_thresholds(thresholds, embedder=embedder.id)
        assert found != DEFAULT_THRESHOLDS
        cache = SemanticCache(embedder, redis_config, thresholds=found)
        cache.store("please pay my invoice", "done")
        assert cache.lookup("please pay my invoice").is_hit

    def test_figures_come_as_json_and_classes_by_themselves(self, run: Run, asked: Path) -> None:
        result = run("calibrate", "--log", str(asked), "--model", "lexical", "--bound", "0.1", "--json")
        found = json.loads(result.stdout)
        assert [group["group"] for group in found["groups"]] == ["", "odd"]
        assert found["groups"][0]["questions"] == 512
        assert found["groups"][1]["questions"] == 256
        assert any(point["is_proven"] for point in found["groups"][0]["points"])

    def test_too_little_ends_with_a_problem_and_saves_nothing(self, run: Run, tmp_path: Path) -> None:
        pairs = tmp_path / "pairs.jsonl"
        pairs.write_text('{"a": "pay it", "b": "pay that", "label": 1}\n{"a": "x", "b": "y", "label": 0}\n')
        thresholds = tmp_path / "thresholds.json"
        result = run("calibrate", "--pairs", str(pairs), "--model", "lexical", "-o", str(thresholds), code=1)
        assert "nothing is proven" in result.output
        assert not thresholds.exists()

    def test_a_plot_that_cannot_be_drawn_is_said_before_the_work(
        self, run: Run, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        thresholds = tmp_path / "thresholds.json"
        plot = str(tmp_path / "x.svg")
        arguments = ("--log", str(asked), "--model", "lexical", "-o", str(thresholds), "--plot", plot)
        assert "lix-cache[calibrate]" in run("calibrate", *arguments, code=1).output
        assert not thresholds.exists()

    def test_what_was_left_out_is_said(self, run: Run, tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        log.write_text('{"query": "a", "answer_id": "1", "hit": true}\n{"query": "b", "answer_id": "1"}\n')
        assert (
            "1 unconfirmed hits" in run("calibrate", "--log", str(log), "--model", "lexical", code=1).output
        )

    @pytest.mark.parametrize(
        ("arguments", "said"), [([], "--log or --pairs"), (["--log", "nothing.jsonl"], "there is no file")]
    )
    def test_wrong_use_is_said(self, run: Run, arguments: list[str], said: str) -> None:
        assert said in run("calibrate", *arguments, "--model", "lexical", code=2).output

    def test_a_log_without_a_usable_line_is_said(self, run: Run, tmp_path: Path) -> None:
        log = tmp_path / "log.jsonl"
        log.write_text('{"query": "a", "answer_id": "1", "right": false}\n')
        assert "no question" in run("calibrate", "--log", str(log), "--model", "lexical", code=2).output


CURVES = {"ours": Curve([(0.1, 0.0), (0.4, 0.02), (0.5, 0.2)], {"default": (0.4, 0.02)})}


class TestPlot:
    def test_text_shows_bound_curve_and_mark(self) -> None:
        text = text_plot(CURVES, bound=0.02)
        assert "·" in text
        assert "█" in text
        assert "50% hits" in text
        # What lies far above the bound is cut off.
        assert text.count("o") == text_plot(CURVES).count("o") - 1

    def test_without_matplotlib_it_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"lix-cache\[calibrate\]"):
            draw(CURVES, str(tmp_path / "x.svg"))

    def test_the_same_figures_give_the_same_file(self, tmp_path: Path) -> None:
        for name in ("a.svg", "b.svg"):
            draw(CURVES, str(tmp_path / name), bound=0.02, title="t")
        assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
        draw(CURVES, str(tmp_path / "c.png"))
        assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
