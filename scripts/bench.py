#!/usr/bin/env python3
"""Measure what lix_cache costs in time and memory, and the package it replaces beside it.

It measures and does not pass or fail: the targets are printed beside the figures, and the exit
code is 0 whatever they are. docs/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from _bench_hot import hot_codec
from _bench_report import Report, progress, write_between_marks
from _bench_speed import speed
from _bench_storage import archive, codec, memory, offload
from _bench_support import QUICK, ROOT, Bench, Server, Size, describe_run, find_old_package, load_texts
from _run_facts import RunFacts, write_json

from lix_cache.session import evictor

SECTIONS = {
    "speed": speed,
    "archive": archive,
    "codec": codec,
    "memory": memory,
    "hot-codec": hot_codec,
    "offload": offload,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--json", metavar="FILE", default="bench-results/bench.json", help="where the figures go")
    add("--redis-url", metavar="URL", help="measure on this server; by default one is started for the run")
    add(
        "--data",
        metavar="DIR",
        help="folder with conversations: conv_*/conversations.jsonl or *.jsonl; by default "
        "LIX_CACHE_SHARED, then ../shared, then those of the demo",
    )
    add("--work-dir", metavar="DIR", help="where archives are made; by default the system's temp folder")
    add("--only", metavar="SECTION", nargs="+", choices=SECTIONS, help="some of: %(choices)s")
    add("--quick", action="store_true", help="a smoke run: the numbers mean nothing")
    add(
        "--write-docs",
        metavar="FILE",
        nargs="?",
        const=str(ROOT / "docs" / "benchmarks.md"),
        help="put the tables between the marks in this document (docs/benchmarks.md)",
    )
    return parser.parse_args()


def main() -> None:
    """Measure and report."""
    arguments = _arguments()
    texts = load_texts(arguments.data)
    report = Report()
    facts = RunFacts("lix-open-cache")
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="lix-bench-", dir=arguments.work_dir) as folder,
        Server(arguments.redis_url) as server,
    ):
        environment = describe_run(server, texts, folder, quick=arguments.quick)
        old = find_old_package(server, report)
        bench = Bench(server, texts, QUICK if arguments.quick else Size(), report, folder, old)
        for name in arguments.only or SECTIONS:
            SECTIONS[name](bench)
        _stop_daemons()
    environment["seconds"] = time.monotonic() - started
    print(report.text())
    _write(arguments, environment, report, facts)


def _stop_daemons() -> None:
    """Before the server goes, so that they do not complain about it."""
    for one in list(evictor._evictors.values()):
        one.stop()
        one.join(60)


def _write(
    arguments: argparse.Namespace, environment: dict[str, Any], report: Report, facts: RunFacts
) -> None:
    figures = [{**vars(figure), "target": figure.target} for figure in report.figures]
    # The same numbers once more, to be looked up by name.
    values: dict[str, dict[str, dict[str, float]]] = {}
    for one in report.figures:
        values.setdefault(one.section, {}).setdefault(one.name, {})[one.variant] = one.value
    document = {"environment": environment, "values": values, "figures": figures, "notes": report.notes}
    write_json(arguments.json, facts, document)
    if arguments.write_docs:
        write_between_marks(Path(arguments.write_docs), report.markdown(environment))
        progress(f"written: {arguments.write_docs}")


if __name__ == "__main__":
    main()
