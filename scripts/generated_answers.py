"""What the decision does where a model writes each answer anew, and where answers recur.

    python scripts/generated_answers.py                 # all tables
    python scripts/generated_answers.py --table streams

Plays streams of questions through the decision in memory, online: a hit serves what is held, a miss
stores the question with its own answer, and mistakes stay in. The table of labels goes through the real
cache, on a Redis of the run's own. Needs the folder of evaluation data (``LIX_CACHE_SHARED``, ``shared`` or
``../shared``). Nothing is trained here.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from _bench_support import Server
from _run_facts import RunFacts, write_json

from lix_cache import OnnxEmbedder, Question, SemanticCache, SemanticSettings, evaluate
from lix_cache.cli.quality.sets import load_set, shared_folder
from lix_cache.evaluation.binomial import clopper_pearson
from lix_cache.evaluation.offline import play
from lix_cache.matching.guards import check
from lix_cache.matching.text import normalise
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, Thresholds

#: The rule that compared answers by equality alone.
EQUALITY = replace(
    DEFAULT_THRESHOLDS,
    score=1.23,
    answer_weight=0.0,
    answer_bonus=0.0,
    agree_at=1.0,
    agree_width=0.01,
)
#: Samples of intents for an interval.
RESAMPLES = 20_000
LABELLED = ("banking77", "clinc150", "hwu64", "faq", "xsid")


@dataclass
class Count:
    """Of one or more streams."""

    asked: int = 0
    hits: int = 0
    wrong: int = 0

    def add(self, is_hit: bool, is_wrong: bool) -> None:
        self.asked += 1
        self.hits += is_hit
        self.wrong += is_wrong

    def as_dict(self) -> dict[str, float]:
        """Return counts and shares, with the exact 95% interval of the false-hit rate of independent hits."""
        found: dict[str, float] = {"asked": self.asked, "hits": self.hits, "wrong": self.wrong}
        found["hit_ratio"] = self.hits / max(1, self.asked)
        found["wrong_per_1000"] = 1000 * self.wrong / max(1, self.asked)
        if self.hits:
            found["false_hit_rate"] = self.wrong / self.hits
            found["low"], found["high"] = clopper_pearson(self.wrong, self.hits)
        return found

    def __str__(self) -> str:
        if not self.hits:
            return f"{0:6.1%} {'-':>28}"
        low, high = clopper_pearson(self.wrong, self.hits)
        part = f"{self.wrong / self.hits:.2%} ({low:.2%} to {high:.2%})"
        return f"{self.hits / self.asked:6.1%} {part:>28}"


class ByIntent:
    """Counts for each intent, of any number of orders of the same questions.

    Orders of the same questions are no new questions, and hits of one intent are not independent. So the
    interval comes from intents that are drawn again (a cluster bootstrap): what was counted for each intent
    goes into a sample as often as the intent is drawn.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._places = {
            intent: place for place, intent in enumerate(sorted({one.answer for one in questions}))
        }
        self._counts = np.zeros((len(self._places), 3))
        self._wrong: set[str] = set()

    def add(self, question: Question, is_hit: bool, is_wrong: bool) -> None:
        self._counts[self._places[question.answer]] += (1, is_hit, is_wrong)
        if is_wrong:
            self._wrong.add(question.text)

    def samples(self) -> np.ndarray:
        """Return what was asked, hit and wrong in each sample of intents, shape (3, samples)."""
        many = len(self._counts)
        draws = np.random.default_rng(0).integers(0, many, (RESAMPLES, many))
        sums: np.ndarray = self._counts[draws].sum(axis=1).T
        return sums

    def as_dict(self, of_one: int) -> dict[str, Any]:
        """Return the 95% intervals of both ratios, and how many intents and questions went wrong.

        Args:
            of_one: how often each question was asked. Where nothing went wrong, a bootstrap knows no upper
                limit: it is then the exact one of the hits of one order.
        """
        asked, hits, wrong = self.samples()
        has_hits = hits > 0
        low, high = _middle(wrong[has_hits] / hits[has_hits])
        if not self._wrong:
            low, high = clopper_pearson(0, round(self._counts[:, 1].sum() / of_one))
        return {
            "intents": len(self._counts),
            "wrong_intents": int((self._counts[:, 2] > 0).sum()),
            "wrong_questions": len(self._wrong),
            "hit_ratio_interval": _middle(hits / asked),
            "interval": [low, high],
        }


def _middle(values: np.ndarray) -> list[float]:
    """Return the percentiles between which 95% of the values lie."""
    return [float(one) for one in np.percentile(values, (2.5, 97.5))]


def difference(one: ByIntent, other: ByIntent) -> list[float]:
    """Return the 95% interval of one false-hit rate less another, over the same samples of intents."""
    (_, hits, wrong), (_, other_hits, other_wrong) = one.samples(), other.samples()
    both = (hits > 0) & (other_hits > 0)
    return _middle(wrong[both] / hits[both] - other_wrong[both] / other_hits[both])


class Data:
    """Texts and vectors, embedded once."""

    def __init__(self, seeds: int = 2, queries: int = 3000) -> None:
        self.seeds, self.queries = seeds, queries
        folder = shared_folder()
        if folder is None:
            raise SystemExit("the folder of evaluation data is not there: set LIX_CACHE_SHARED")
        self._folder = Path(folder)
        self.embedder = OnnxEmbedder(self._folder / "models" / "all-MiniLM-L6-v2", threads=1)

    def records(self, path: str) -> list[dict[str, str]]:
        lines = (self._folder / "data" / path).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def replies(self) -> list[str]:
        return [record["reply"] for record in self.records("answers_banking/answers.jsonl")]

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.concatenate(
            [self.embedder.embed(list(texts[i : i + 64])) for i in range(0, len(texts), 64)]
        )


def object_to(query: str, cached: str) -> object | None:
    return check(query, cached)


def generated(data: Data) -> tuple[list[Question], np.ndarray, np.ndarray]:
    """Return questions with their intents, their vectors, and those of the replies."""
    records = data.records("answers_banking/answers.jsonl")
    questions = [Question(record["text"], record["intent"]) for record in records]
    vectors = data.embed([normalise(record["text"]) for record in records])
    return questions, vectors, data.embed([record["reply"] for record in records])


def orders(many: int, numbers: Sequence[int]) -> Iterator[list[int]]:
    for seed in range(many):
        order = list(numbers)
        random.Random(seed).shuffle(order)
        yield order


def streams(data: Data) -> dict[str, Any]:
    """Six orders of 400 questions, each with a reply of its own; fixed thresholds, no audits."""
    questions, vectors, replies = generated(data)
    rules: dict[str, tuple[Thresholds, bool]] = {
        "defaults": (DEFAULT_THRESHOLDS, True),
        "defaults, no guards": (DEFAULT_THRESHOLDS, False),
        "answers by equality alone": (EQUALITY, True),
        **{f"cosine {c / 100:.2f}": (Thresholds(threshold=c / 100), False) for c in (75, 80, 85, 90, 95)},
    }
    words = [len(reply.split()) for reply in data.replies()]
    found: dict[str, Any] = {
        "questions": len(questions),
        "orders": 6,
        "mean_words": sum(words) / len(words),
        "rules": {},
    }
    by_intent: dict[str, ByIntent] = {}
    print("answers_banking: 400 questions, a reply written for each; six orders, from a cold start\n")
    print(f"{'':27} {'hits':>6} {'false-hit rate':>28}   second half of each order")
    for name, (thresholds, guards) in rules.items():
        whole, late = Count(), Count()
        intents = by_intent[name] = ByIntent(questions)
        single = []
        for order in orders(6, range(len(questions))):
            asked = [questions[i] for i in order]
            steps = play(
                asked,
                vectors[order],
                thresholds,
                object_to=object_to if guards else None,
                replies=replies[order],
            )
            before = replace(whole)
            for step in steps:
                whole.add(step.is_hit, step.is_wrong)
                intents.add(asked[step.number], step.is_hit, step.is_wrong)
                if step.number >= len(order) // 2:
                    late.add(step.is_hit, step.is_wrong)
            single.append([whole.hits - before.hits, whole.wrong - before.wrong])
        found["rules"][name] = {
            "whole": whole.as_dict(),
            "second_half": late.as_dict(),
            "by_intent": intents.as_dict(found["orders"]),
            "hits_and_wrong_of_each_order": single,
        }
        print(f"{name:27} {whole}   {late}")
    for other in ("cosine 0.80", "defaults, no guards"):
        found["rules"][other]["defaults_less_this"] = difference(by_intent["defaults"], by_intent[other])
    return found


def halves(data: Data) -> dict[str, Any]:
    """The bonus chosen on one half of the intents, evaluated on the other, for three ways to halve them."""
    questions, vectors, replies = generated(data)
    intents = sorted({question.answer for question in questions})
    total = Count()
    by_intent = ByIntent(questions)
    single = []
    print("\nthe bonus chosen on half of the intents (most hits at 1.5% wrong), evaluated on the other half")
    for seed in range(3):
        shuffled = list(intents)
        random.Random(100 + seed).shuffle(shuffled)
        parts = [set(shuffled[:20]), set(shuffled[20:])]
        for here, there in (parts, parts[::-1]):
            best, most = 0.0, -1
            for bonus in np.arange(0.0, 0.5, 0.01):
                count = _played(questions, vectors, replies, here, float(bonus))
                if count.wrong <= 0.015 * count.hits and count.hits > most:
                    best, most = float(bonus), count.hits
            count = _played(questions, vectors, replies, there, best, by_intent)
            single.append(count.as_dict())
            total = Count(total.asked + count.asked, total.hits + count.hits, total.wrong + count.wrong)
            print(f"  halving {seed}: bonus {best:.2f} {count}")
    print(f"  all                 {total}")
    # Each question is in three of the halves that judge, in four orders of each.
    return {"all": total.as_dict(), "by_intent": by_intent.as_dict(3 * 4), "single": single}


def _played(
    questions: Sequence[Question],
    vectors: np.ndarray,
    replies: np.ndarray,
    intents: set[str],
    bonus: float,
    by_intent: ByIntent | None = None,
) -> Count:
    numbers = [i for i, question in enumerate(questions) if question.answer in intents]
    count = Count()
    for order in orders(4, numbers):
        asked = [questions[i] for i in order]
        thresholds = replace(DEFAULT_THRESHOLDS, answer_bonus=bonus)
        for step in play(asked, vectors[order], thresholds, object_to=object_to, replies=replies[order]):
            count.add(step.is_hit, step.is_wrong)
            if by_intent is not None:
                by_intent.add(asked[step.number], step.is_hit, step.is_wrong)
    return count


class _Known:
    """An embedder that has embedded all there is."""

    id = "all-MiniLM-L6-v2"
    dim = 384

    def __init__(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        self._known = dict(zip(texts, vectors, strict=True))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([self._known[text] for text in texts])


def labels(data: Data) -> dict[str, Any]:
    """Sets with labels as answers, through the real cache: the rule before, and the defaults."""
    print(f"\nlabels as answers, {data.queries:,} questions, {data.seeds} seeds")
    print("hits, false hits for each 1,000 questions, false-hit rate\n")
    print(f"{'':10} {'equality, score 1.23':>26} {'defaults':>26}")
    rules: dict[str, dict[str, Any]] = {
        "before": {"target_false_hit_rate": None, "embed_answers": False},
        "now": {},
    }
    found: dict[str, Any] = {"questions": data.queries, "seeds": data.seeds, "sets": {}}
    with Server(None) as server:
        for name in LABELLED:
            chosen = [
                load_set(name, None, half="all", count=data.queries, seed=seed, languages=[]).questions
                for seed in range(data.seeds)
            ]
            texts = sorted({normalise(question.text) for questions in chosen for question in questions})
            embedder = _Known(texts, data.embed(texts))
            counts = {
                rule: _through_the_cache(server, embedder, chosen, rule, settings)
                for rule, settings in rules.items()
            }
            found["sets"][name] = {rule: count.as_dict() for rule, count in counts.items()}
            print(f"{name:10} " + " ".join(f"{_shown(count):>26}" for count in counts.values()), flush=True)
    for rule in rules:
        rows = [one[rule] for one in found["sets"].values()]
        means = {key: sum(row[key] for row in rows) / len(rows) for key in ("hit_ratio", "wrong_per_1000")}
        found.setdefault("mean", {})[rule] = means
        print(f"mean, {rule}: {means['hit_ratio']:.1%} {means['wrong_per_1000']:.1f}")
    return found


def _shown(count: Count) -> str:
    rate = count.wrong / max(1, count.hits)
    return f"{count.hits / count.asked:10.1%} {1000 * count.wrong / count.asked:6.1f} ({rate:6.2%})"


def _through_the_cache(
    server: Server,
    embedder: _Known,
    chosen: Sequence[Sequence[Question]],
    rule: str,
    settings: dict[str, Any],
) -> Count:
    total = Count()
    for seed, questions in enumerate(chosen):
        context = {"rule": rule, "seed": seed, "run": time.time()}
        cache = SemanticCache(
            embedder,
            server.config("unix"),
            context=context,
            thresholds=EQUALITY if rule == "before" else DEFAULT_THRESHOLDS,
            settings=SemanticSettings(ttl_seconds=3600, audit_rate=0, **settings),
        )
        run = evaluate(cache, questions)
        cache.invalidate(context=context)
        total = Count(total.asked + run.questions, total.hits + run.hits, total.wrong + run.wrong)
    return total


TABLES = {"streams": streams, "halves": halves, "labels": labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=sorted(TABLES), action="append")
    parser.add_argument("--seeds", type=int, default=2, help="samples of each set of labels")
    parser.add_argument("--queries", type=int, default=3000, help="questions of each set of labels")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    facts = RunFacts("onnxruntime")
    data = Data(arguments.seeds, arguments.queries)
    found = {name: TABLES[name](data) for name in arguments.table or list(TABLES)}
    if arguments.json:
        write_json(arguments.json, facts, found)


if __name__ == "__main__":
    main()
