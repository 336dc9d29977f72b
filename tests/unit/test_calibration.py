"""Calibration: what is proven holds for unseen questions."""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lix_cache.errors import ConfigError, InvalidInput
from lix_cache.evaluation.binomial import upper_limit
from lix_cache.evaluation.calibration import Calibration, calibrate, calibration_curve, halves
from lix_cache.evaluation.fitting import Sample, fit_thresholds
from lix_cache.evaluation.offline import new_texts, play
from lix_cache.evaluation.questions import Question
from lix_cache.evaluation.thresholds_file import load_thresholds, save_thresholds
from lix_cache.matching.decision import decide
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, Thresholds
from tests.support.sphere import sphere


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    questions, vectors = sphere(2400)
    return calibrate(questions, vectors, bound=0.05, guards=False)


class TestPlay:
    def outcomes(
        self, questions: list[Question], vectors: list[list[float]], thresholds: Thresholds
    ) -> list[str]:
        array = np.array(vectors, dtype=np.float32)
        array /= np.linalg.norm(array, axis=1, keepdims=True)
        return [
            "miss" if not step.is_hit else "wrong" if step.is_wrong else "right"
            for step in play(questions, array, thresholds)
        ]

    def test_a_miss_stores_the_right_answer_and_a_hit_serves_it(self) -> None:
        asked = [Question("a", "1"), Question("b", "1"), Question("c", "2")]
        assert self.outcomes(asked, [[1, 0], [1, 0.1], [0, 1]], Thresholds(threshold=0.9)) == [
            "miss",
            "right",
            "miss",
        ]

    def test_mistakes_stay_in(self) -> None:
        # The second answer never comes in, because the first one is served in its place.
        asked = [Question("a", "1"), Question("b", "2"), Question("c", "2")]
        assert self.outcomes(asked, [[1, 0], [1, 0.1], [1, 0.1]], Thresholds(threshold=0.9)) == [
            "miss",
            "wrong",
            "wrong",
        ]

    def test_scopes_never_meet(self) -> None:
        asked = [Question("a", "1", "s"), Question("b", "1", "t"), Question("c", "1", "s")]
        assert self.outcomes(asked, [[1, 0]] * 3, Thresholds(threshold=0.9)) == ["miss", "right", "miss"]

    def test_an_objection_makes_a_miss(self) -> None:
        asked = [Question("turn it on", "1"), Question("turn it off", "2")]
        vectors = np.array([[1, 0], [1, 0]], dtype=np.float32)
        steps = list(
            play(asked, vectors, Thresholds(threshold=0.9), object_to=lambda query, held: f"{query} / {held}")
        )
        assert [step.is_hit for step in steps] == [False, False]
        assert [step.is_objected for step in steps] == [False, True]

    def test_many_blocks_are_as_one(self) -> None:
        questions, vectors = sphere(700, seed=3)
        thresholds = replace(DEFAULT_THRESHOLDS, score=1.1)
        hits = [step.is_hit for step in play(questions, vectors, thresholds)]
        held: list[int] = []
        for number, hit in enumerate(hits):
            similarities = vectors[held] @ vectors[number] if held else np.empty(0, dtype=np.float32)
            step_is_possible = bool(len(similarities)) and similarities.max() >= thresholds.threshold
            assert step_is_possible or not hit
            if not hit:
                held.append(number)
        assert 0 < sum(hits) < 700

    def test_repeated_words_are_asked_once(self) -> None:
        asked = [Question("a  b", "1"), Question("a b", "1"), Question("a b", "1", "t"), Question("c", "1")]
        assert new_texts(asked) == [0, 2, 3]


class TestFit:
    def samples(self, seed: int = 0) -> list[Sample]:
        random = np.random.default_rng(seed)
        found = []
        for _ in range(2000):
            margin = random.uniform(0, 0.4)
            similarity = random.uniform(0.5, 1.0)
            chance = 1 / (1 + math.exp(-40 * (margin - 0.1)))
            found.append(Sample(similarity, similarity - margin, (similarity,), random.random() < chance))
        return found

    @pytest.mark.parametrize("share", [0.01, 0.03, 0.1])
    def test_the_share_is_kept_on_the_samples(self, share: float) -> None:
        samples = self.samples()
        thresholds = fit_thresholds(samples, share, DEFAULT_THRESHOLDS)
        hits = [s for s in samples if self.passes(s, thresholds)]
        wrong = sum(not s.is_right for s in hits)
        assert len(hits) > 100
        # Score is rounded down to a thousandth, which may let one more in.
        assert wrong <= share * len(hits) + 2

    def passes(self, sample: Sample, thresholds: Thresholds) -> bool:
        competitor = max(sample.other, thresholds.floor)
        margin = sample.similarity - competitor
        score = sample.similarity + thresholds.margin_weight * margin
        return (
            sample.similarity >= thresholds.threshold
            and margin >= thresholds.margin
            and score >= thresholds.score
        )

    def test_a_smaller_share_asks_for_a_higher_score(self) -> None:
        samples = self.samples()
        like = fit_thresholds(samples, 0.05, DEFAULT_THRESHOLDS)
        asked = [
            fit_thresholds(samples, share, DEFAULT_THRESHOLDS, like=like).score for share in (0.1, 0.05, 0.02)
        ]
        assert asked == sorted(asked)
        assert asked[0] < asked[-1]

    def test_what_a_guard_refuses_is_no_hit(self) -> None:
        samples = [replace(sample, is_allowed=False) for sample in self.samples()]
        thresholds = fit_thresholds(samples, 0.5, DEFAULT_THRESHOLDS)
        perfect = np.ones(thresholds.vote_cap, dtype=np.float32)
        assert decide(perfect, np.zeros(thresholds.vote_cap, dtype=np.int64), thresholds).reason == "score"

    def test_without_samples_nothing_is_changed(self) -> None:
        assert fit_thresholds([], 0.02, DEFAULT_THRESHOLDS) == DEFAULT_THRESHOLDS


class TestCalibrate:
    def test_what_is_proven_holds_for_unseen_questions(self, calibration: Calibration) -> None:
        assert calibration.thresholds is not None
        hits = wrong = 0
        for seed in range(1, 5):
            # Other texts, other answers.
            (point,) = calibration_curve(*sphere(1200, seed=seed), [calibration.thresholds], guards=False)
            hits, wrong = hits + point.hits, wrong + point.wrong
        assert hits > 500
        assert wrong / hits < calibration.bound

    def test_the_statement_is_the_exact_limit_of_what_was_counted(self, calibration: Calibration) -> None:
        best = calibration.best
        assert best is not None
        strict = 1 - (1 - calibration.confidence) / 4
        assert best.upper == upper_limit(best.wrong, best.hits, strict) < calibration.bound
        assert all(p.is_proven == (p.is_tried and p.upper < calibration.bound) for p in calibration.points)
        assert best.hits == max(point.hits for point in calibration.points if point.is_proven)

    def test_the_curve_goes_from_few_sure_hits_to_many_doubtful_ones(self, calibration: Calibration) -> None:
        points = calibration.points
        assert [p.thresholds.score for p in points] == sorted(
            (p.thresholds.score for p in points), reverse=True
        )
        assert points[0].hits < points[-1].hits
        assert points[0].false_hit_rate <= points[-1].false_hit_rate

    def test_it_beats_plain_cosine(self, calibration: Calibration) -> None:
        assert calibration.best is not None
        cosines = [Thresholds(threshold=threshold / 100) for threshold in range(50, 100, 2)]
        plain = calibration_curve(*sphere(1200, seed=9), cosines, guards=False)
        (ours,) = calibration_curve(*sphere(1200, seed=9), [calibration.best.thresholds], guards=False)
        as_good = [point.hits for point in plain if point.false_hit_rate <= max(ours.false_hit_rate, 0.02)]
        assert ours.hits > max(as_good, default=0)

    def test_too_few_questions_prove_nothing_and_say_how_many_it_takes(self) -> None:
        result = calibrate(*sphere(120), bound=0.01, guards=False)
        assert result.thresholds is None
        assert result.needed > 400

    def test_it_is_the_same_every_time(self) -> None:
        one, other = (calibrate(*sphere(600), bound=0.1, guards=False) for _ in range(2))
        assert one == other

    def test_progress_ends_at_all(self) -> None:
        told: list[tuple[int, int]] = []
        calibrate(*sphere(200), bound=0.1, guards=False, progress=lambda *step: told.append(step))
        assert [done for done, _ in told] == list(range(1, len(told) + 1))
        assert told[-1][0] == told[-1][1]

    def test_no_text_is_in_both_halves(self) -> None:
        asked = [Question(f"Question {n % 50}" if n % 2 else f"question  {n % 50}", "1") for n in range(100)]
        fit, tried = halves(asked)
        assert sorted(fit + tried) == list(range(100))
        words = [{asked[n].text.casefold().replace("  ", " ") for n in part} for part in (fit, tried)]
        assert not words[0] & words[1]

    def test_each_question_needs_a_vector(self) -> None:
        questions, vectors = sphere(10)
        with pytest.raises(InvalidInput, match="10 questions, but 9"):
            calibrate(questions, vectors[:9], guards=False)

    @pytest.mark.parametrize("given", [{"bound": 0.0}, {"bound": 1.0}, {"confidence": 1.0}])
    def test_a_bound_that_makes_no_sense_is_refused(self, given: dict[str, float]) -> None:
        with pytest.raises(InvalidInput):
            calibrate(*sphere(10), guards=False, **given)


class TestFile:
    def test_thresholds_come_back_for_their_embedder_and_class(
        self, calibration: Calibration, tmp_path: Path
    ) -> None:
        path = tmp_path / "thresholds.json"
        assert calibration.best is not None
        other = replace(
            calibration, best=replace(calibration.best, thresholds=replace(DEFAULT_THRESHOLDS, score=9.0))
        )
        save_thresholds(path, calibration, embedder="one")
        save_thresholds(path, other, embedder="one", group="faq")
        save_thresholds(path, other, embedder="two")
        assert load_thresholds(path, embedder="one") == calibration.thresholds
        assert load_thresholds(path, embedder="one", group="faq") == other.thresholds
        assert load_thresholds(path, embedder="one", group="unknown") == calibration.thresholds
        assert load_thresholds(path, embedder="two") == other.thresholds
        save_thresholds(path, calibration, embedder="two")
        assert load_thresholds(path, embedder="two") == calibration.thresholds
        assert len(json.loads(path.read_text())["entries"]) == 3

    def test_another_embedders_thresholds_are_never_used(
        self, calibration: Calibration, tmp_path: Path
    ) -> None:
        save_thresholds(tmp_path / "l.json", calibration, embedder="one")
        with pytest.raises(ConfigError, match=r"'two'.*'one'"):
            load_thresholds(tmp_path / "l.json", embedder="two")

    def test_what_is_not_proven_is_not_saved(self, calibration: Calibration, tmp_path: Path) -> None:
        with pytest.raises(InvalidInput, match="proved no thresholds"):
            save_thresholds(tmp_path / "l.json", replace(calibration, best=None), embedder="one")
        assert os.listdir(tmp_path) == []

    def test_a_write_that_fails_leaves_the_old_file(
        self, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "l.json"
        save_thresholds(path, calibration, embedder="one")
        before = path.read_bytes()

        def full(_handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            save_thresholds(path, calibration, embedder="two")
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["l.json"]

    def test_the_application_may_read_it(self, calibration: Calibration, tmp_path: Path) -> None:
        save_thresholds(tmp_path / "l.json", calibration, embedder="one")
        assert stat.S_IMODE((tmp_path / "l.json").stat().st_mode) == 0o644

    @pytest.mark.parametrize(
        "content",
        [
            "no json",
            "[" * 100_000,
            "[]",
            '{"format": "other", "entries": []}',
            '{"format": "lix-cache thresholds 1", "entries": 3}',
            '{"format": "lix-cache thresholds 1", "entries": [3]}',
            '{"format": "lix-cache thresholds 1", "entries": [{"embedder": "one"}]}',
            '{"format": "lix-cache thresholds 1", "entries": [{"embedder": "one", "group": ""}]}',
            (
                '{"format": "lix-cache thresholds 1",'
                ' "entries": [{"embedder": "one", "group": "", "thresholds": {}}]}'
            ),
        ],
    )
    def test_a_file_of_another_kind_is_named(self, content: str, tmp_path: Path) -> None:
        path = tmp_path / "l.json"
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"l\.json"):
            load_thresholds(path, embedder="one")
