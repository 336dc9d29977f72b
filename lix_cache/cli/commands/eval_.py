"""``lix-cache eval``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from lix_cache import (
    DEFAULT_THRESHOLDS,
    STRICT_THRESHOLDS,
    CacheConfig,
    InvalidInput,
    SemanticCache,
    SemanticSettings,
    Thresholds,
    evaluate,
    evaluate_pairs,
    load_thresholds,
)
from lix_cache.cli.demo.stage import set_up
from lix_cache.cli.options import AsJson, settings_of
from lix_cache.cli.output import for_humans, print_json, progress, to_stderr, visible
from lix_cache.cli.quality.model import Remembering, find_embedder
from lix_cache.cli.quality.report import (
    evaluations_as_dicts,
    pairs_as_dicts,
    show_evaluations,
    show_pairs,
    show_summary,
)
from lix_cache.cli.quality.sets import HALVES, SETS, QuestionSet, load_set

__all__ = ["eval_"]

#: Longer than any run: nothing is to expire on the way.
_TTL_SECONDS = 7 * 86400
#: The thresholds that are compared, and whether guards help them.
_CACHES = {
    "lix-cache": (DEFAULT_THRESHOLDS, True),
    "lix-cache, strict": (STRICT_THRESHOLDS, True),
    **{
        f"plain cosine {least:.2f}": (Thresholds(threshold=least), False)
        for least in (0.80, 0.85, 0.90, 0.95)
    },
}


def eval_(
    ctx: typer.Context,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SET|FILE", help=f"One of {', '.join(SETS)}, or a file. Repeatable."),
    ] = None,
    queries: Annotated[int, typer.Option(min=0, help="Most questions of each set; 0 for all.")] = 3000,
    seed: Annotated[int, typer.Option(help="Seed of sample and order.")] = 0,
    half: Annotated[str, typer.Option(help="Of the set: dev, heldout or all.")] = "all",
    lang: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Of a set in several languages. Repeatable.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="DIR|NAME", help="ONNX model; 'lexical' needs none.")
    ] = None,
    thresholds: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Thresholds from 'calibrate', beside the built-in ones."),
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the evaluation sets.")] = None,
    data_dir: Annotated[str | None, typer.Option(metavar="DIR", help="Folder of the private server.")] = None,
    mistakes: Annotated[int, typer.Option(min=0, help="How many wrong hits of each set to show.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Run labelled questions through the real cache: hit ratio and false-hit rate.

    Online, on a real Redis: a hit serves what the cache holds, a miss stores the right answer, and
    mistakes stay in. If the set has a reply for each question, the cache stores that; else it stores the
    name of the answer. Plain cosine, without guards, runs beside it on the same
    questions. Audits are off. The intervals are exact, at 95%. For pairs, one text is stored and the
    other asked. A file has lines of {"query", "answer_id"}, with a "reply" if there is one, or of
    {"a", "b", "label"}. Works on keys of its own, and removes them.
    """
    if half not in HALVES:
        raise InvalidInput(f"--half is one of {', '.join(HALVES)}, not {half!r}")
    loaded = [
        load_set(name, data, half=half, count=queries, seed=seed, languages=lang or [])
        for name in (sets or ["answers", "banking77", "clinc150"])
    ]
    embedder = Remembering(find_embedder(model))
    caches = dict(_CACHES)
    if thresholds is not None:
        caches[thresholds] = (load_thresholds(thresholds, embedder=embedder.id), True)
    settings = settings_of(ctx)
    console = None if as_json else for_humans()
    with set_up(
        settings.config(), data_dir, url_was_given=settings.redis_url is not None, keep=False
    ) as stage:
        to_stderr().print(
            Text(f"Redis: {visible(stage.server)}\nembedder: {visible(embedder.id)}", style="dim"),
            soft_wrap=True,
        )
        world = _World(stage.config.replace(embedder_id=None, embedding_dim=None), embedder, caches, mistakes)
        results = [
            (_evaluate_pairs if chosen.pairs else _evaluate)(world, chosen, console) for chosen in loaded
        ]
    if console is not None and len(results) > 1:
        show_summary(console, results)
    if as_json:
        print_json({"seed": seed, "half": half, "embedder": embedder.id, "sets": results})


@dataclass(frozen=True)
class _World:
    """What all runs share.

    Attributes:
        config: of a store of its own.
        embedder: remembers what it embedded.
        caches: the thresholds to compare, and whether guards help them.
        mistakes: to show, of each.
    """

    config: CacheConfig
    embedder: Remembering
    caches: Mapping[str, tuple[Thresholds, bool]]
    mistakes: int

    def prepare(self, name: str, texts: Sequence[str]) -> None:
        with progress(f"{name}: embedding") as tell:
            self.embedder.prepare(texts, tell)

    def empty(self, chosen: QuestionSet, run: str) -> SemanticCache:
        """Return a cache that nothing is in."""
        thresholds, guards = self.caches[run]
        return SemanticCache(
            self.embedder,
            self.config,
            context={"set": chosen.name, "run": run},
            thresholds=thresholds,
            guards=guards,
            settings=SemanticSettings(
                audit_rate=0,
                target_false_hit_rate=0.02 if guards else None,
                embed_answers=guards,
                ttl_seconds=_TTL_SECONDS,
                max_entries=max(10_000, chosen.available),
            ),
        )


def _evaluate(world: _World, chosen: QuestionSet, console: Console | None) -> dict[str, Any]:
    world.prepare(chosen.name, [question.text for question in chosen.questions])
    runs = {}
    for name in world.caches:
        with progress(f"{chosen.name}: {name}") as tell:
            runs[name] = evaluate(world.empty(chosen, name), chosen.questions, progress=tell)
    if console is not None:
        show_evaluations(console, chosen, runs, world.mistakes)
    return {
        "set": chosen.name,
        "available": chosen.available,
        "caches": evaluations_as_dicts(runs, world.mistakes),
    }


def _evaluate_pairs(world: _World, chosen: QuestionSet, console: Console | None) -> dict[str, Any]:
    world.prepare(chosen.name, [text for pair in chosen.pairs for text in (pair.a, pair.b)])
    runs = {}
    for name in world.caches:
        with progress(f"{chosen.name}: {name}") as tell:
            runs[name] = evaluate_pairs(world.empty(chosen, name), chosen.pairs, progress=tell)
    if console is not None:
        show_pairs(console, chosen, runs)
    return {"set": chosen.name, "available": chosen.available, "caches": pairs_as_dicts(runs)}
