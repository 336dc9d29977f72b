#!/usr/bin/env python3
"""Show on a real Redis Cluster what a failover may lose, and what moving slots costs.

    python scripts/failover.py                      # everything: 20 kills and 5 partitions twice, 1,500 slots
    python scripts/failover.py --only replica --kills 3 --partitions 1

Writers in several processes add messages and note which were acknowledged. Meanwhile masters are killed
(SIGKILL) and one is cut off from the majority with writers on its side; or slots move. Then all is healed, a
process that knows nothing reads every session, and each message is compared:

  replica     durability="replica": no acknowledged message may be missing.
  default     durability="redis": what is missing must be as many as get_stats() reports (lost_messages).
  resharding  slots move under load: nothing missing, nothing doubled, no call that fails.

No message may be there twice, or in another order. Ends with 1 if a promise is broken. A partition is a veth
pair between network namespaces, which needs root or namespaces of users; elsewhere a master is stopped
instead, and the output says so.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _failover_drill import Outcome, Plan, fail_over, reshard
from _failover_sides import enter_own_network, open_sides
from _run_facts import RunFacts, write_json
from rich.console import Console
from rich.table import Table

#: Milliseconds that the longest call should take while slots move. Said, not demanded: machines are busy.
STALL_AIM_MS = 250
DRILLS = ("replica", "default", "resharding")


def broken_promises(name: str, outcome: Outcome) -> list[str]:
    """Return which promises a drill has broken, in words."""
    broken = outcome.others()
    if name == "default":
        if outcome.lost != outcome.reported:
            broken.append(f"{outcome.lost} messages are lost, and get_stats says {outcome.reported}")
        return broken
    if outcome.lost or outcome.reported:
        broken.append(f"{outcome.lost} acknowledged messages are lost (get_stats says {outcome.reported})")
        found = [one for one in outcome.verdict.findings if one.kind == "lost"]
        broken += [f"lost: {one.count} in {one.where}: {one.detail[:300]}" for one in found[:5]]
    if name == "resharding" and outcome.failed:
        broken.append(f"calls failed: {dict(outcome.failed)}")
    return broken


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", choices=DRILLS, action="append", help="only this drill; may be given again")
    add("--kills", type=int, default=20, help="masters killed in each of the first two (default 20)")
    add("--partitions", type=int, default=5, help="partitions in each of them (default 5)")
    add("--slots", type=int, default=1500, help="slots that move (default 1500)")
    add(
        "--pace",
        type=float,
        default=0.004,
        metavar="S",
        help="seconds between a writer's calls (default 0.004)",
    )
    add("--seed", type=int, help="order of the faults; drawn otherwise")
    add("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def run(chosen: argparse.Namespace, console: Console) -> tuple[dict[str, Any], list[str]]:
    """Run the drills; return their figures, and the promises that were broken."""
    seed = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    plan = Plan(chosen.kills, chosen.partitions, chosen.slots, chosen.pace, seed)
    figures: dict[str, Any] = {"seed": seed}
    wrong: list[str] = []
    sides = open_sides()
    try:
        for name in chosen.only or DRILLS:
            with console.status(name) as status:

                def say(what: str) -> None:
                    status.update(what)
                    if not console.is_terminal:
                        print(what, file=sys.stderr, flush=True)

                if name == "resharding":
                    outcome = reshard(plan, say)
                else:
                    figures["partition"] = sides.how
                    outcome = fail_over("replica" if name == "replica" else "redis", plan, sides, say)
            figures[name] = outcome.as_dict()
            wrong += [f"{name}: {one}" for one in broken_promises(name, outcome)]
            console.print(table(name, outcome))
    finally:
        sides.close()
    if "partition" in figures:
        console.print(f"partitions: {figures['partition']}; seed {seed}", highlight=False, soft_wrap=True)
    return figures, wrong


def table(name: str, outcome: Outcome) -> Table:
    rows = {
        **{what: f"{n:,}" for what, n in sorted(outcome.done.items())},
        "messages acknowledged": f"{outcome.verdict.acknowledged:,}",
        "lost": f"{outcome.lost:,}",
        "lost, as get_stats says": f"{outcome.reported:,}",
        "doubled": f"{outcome.verdict.count('doubled'):,}",
        "other findings": f"{len(outcome.others()):,}",
        "calls that failed": f"{outcome.failed.total():,} of {outcome.calls:,}",
        "longest call": f"{max(outcome.longest, default=0.0) * 1000:,.0f} ms"
        + (f" (aim: {STALL_AIM_MS})" if name == "resharding" else ""),
        "written to disk first, no replica": f"{outcome.counters['unreplicated_adds']:,}",
        "written to disk, Redis away": f"{outcome.counters['archived_adds']:,}",
        "sessions found to have gone back": f"{outcome.counters['rolled_back']:,}",
    }
    made = Table("", name, show_header=True)
    made.columns[1].justify = "right"
    for what, value in rows.items():
        made.add_row(what, value)
    return made


def main() -> int:
    chosen = arguments()
    enter_own_network()
    # Servers and writers are ended on the way out: there must be one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    facts = RunFacts()
    console = Console(width=None if sys.stdout.isatty() else 120)
    figures, wrong = run(chosen, console)
    if chosen.json:
        write_json(chosen.json, facts, {**figures, "broken": wrong})
    for one in wrong:
        console.print(f"BROKEN: {one}", highlight=False, markup=False, soft_wrap=True)
    if not wrong:
        console.print("every promise was kept")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
