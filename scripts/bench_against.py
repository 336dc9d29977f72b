"""Measure this checkout beside another commit, or another checkout, in turn: A B A B, in short slices.

    make bench-against ARGS=HEAD~1
    make bench-against ARGS='../before --only add_message'

A commit is checked out as a git worktree of its own in a temporary folder, with its own build of the
extension, and removed at the end. Both sides run in processes that live side by side and share one
server. Each figure is measured in short slices, of one side and at once of the other; what is printed
is the median of the ratios of such pairs, with the quartiles. So a machine that gets slower meanwhile
slows down both.

The seconds of ``client`` and ``server`` are the processor's: other work on the machine does not count.
``time`` is the wall's, and means little on a busy machine. Sizes are exact.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
COLUMNS = ("client", "server", "time")
#: Beyond this a figure is marked, if both quartiles are.
MOST = 1.05


class Worker:
    """A process that measures one checkout. See ``_bench_pair.py``."""

    def __init__(self, checkout: Path, port: int, prefix: str, folder: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "scripts" / "_bench_pair.py"), str(port), prefix, folder],
            # The order of sets and dictionaries changes figures by some percent.
            env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONHASHSEED": "0"},
            cwd=checkout,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.checkout = checkout
        self.figures: list[str] = self._answer()

    def measure(self, figure: int, count: int) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{figure} {count}\n")
        self._process.stdin.flush()
        found: dict[str, float] = self._answer()
        return found

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.checkout}: the measuring process ended")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@contextlib.contextmanager
def checkout_of(name: str) -> Iterator[Path]:
    """Yield the folder of a checkout: the one that is named, or a new one of the commit."""
    if Path(name, "lix_cache").is_dir():
        yield Path(name).resolve()
        return
    git = ("git", "-C", str(HERE))
    found = subprocess.run(
        [*git, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], capture_output=True, text=True
    )
    if found.returncode:
        raise SystemExit(f"{name} is neither a commit nor a folder with a checkout")
    with tempfile.TemporaryDirectory(prefix="lix-before-") as folder:
        path = Path(folder, "checkout")
        subprocess.run(
            [*git, "worktree", "add", "--quiet", "--detach", path, found.stdout.strip()], check=True
        )
        try:
            print(f"building {name} ...", file=sys.stderr)
            subprocess.run(
                [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
                cwd=path,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            yield path
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", path], check=True)


def measure(
    checkouts: tuple[Path, Path], options: argparse.Namespace
) -> dict[str, list[tuple[dict[str, float], dict[str, float]]]]:
    """Return the pairs (this, other) of each figure that both have."""
    sys.path.insert(0, str(HERE))
    from tests.support.redis_server import RedisServer

    pairs = defaultdict(list)
    for turn in range(options.turns):
        # New processes each time: where the system puts one's memory changes figures by some percent.
        with tempfile.TemporaryDirectory() as folder, RedisServer() as server:
            sides = []
            for name, checkout in zip(("this", "past"), checkouts, strict=True):
                Path(folder, name).mkdir()
                sides.append(Worker(checkout, server.port, name, str(Path(folder, name))))
            wanted = [
                (name, [side.figures.index(name) for side in sides])
                for name in sides[0].figures
                if name in sides[1].figures and any(part in name for part in options.only or [""])
            ]
            for number in range(options.rounds):
                print(f"turn {turn + 1}, round {number + 1}", end="\r", file=sys.stderr)
                for name, places in wanted:
                    once = name.endswith(", bytes") or name.startswith("offload")
                    if once and number:
                        continue
                    order = (0, 1) if number % 2 == 0 else (1, 0)
                    found = {i: sides[i].measure(places[i], options.count) for i in order}
                    pairs[name].append((found[0], found[1]))
            for side in sides:
                side.close()
    return pairs


def _figure(pairs: list[tuple[dict[str, float], dict[str, float]]], column: str) -> str:
    """Return what the other side takes, this one, and the ratio with its quartiles."""
    both = [(this[column], other[column]) for this, other in pairs if column in this]
    if not both:
        return f"{'':>38}"
    ratios = sorted(this / other for this, other in both if other)
    if not ratios:
        return f"{'':>38}"
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    this, other = (statistics.median(values) for values in zip(*both, strict=True))
    mark = "!" if low > MOST else " "
    return f"{other:>8.1f} {this:>8.1f} {middle:>6.3f} [{low:.2f} {high:.2f}]{mark}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", help="a commit, or a folder with a checkout that is built")
    parser.add_argument("--turns", type=int, default=3, help="how often both processes are started anew")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of slices in each turn")
    parser.add_argument("--count", type=int, default=100, help="calls in a slice")
    parser.add_argument("--only", action="append", help="only figures whose names contain this")
    options = parser.parse_args()
    with checkout_of(options.other) as other:
        pairs = measure((HERE, other), options)
    print(f"this checkout beside {options.other}; microseconds a call: before, now, ratio [quartiles]")
    print(f"{'':<40}" + "".join(f"{column:^38}" for column in COLUMNS))
    for name, found in pairs.items():
        cells = "".join(_figure(found, column) for column in COLUMNS)
        print(f"{name:<40}{_figure(found, 'bytes') if 'bytes' in found[0][0] else cells}")
    print(f"! three of four pairs are more than {MOST - 1:.0%} slower")


if __name__ == "__main__":
    main()
