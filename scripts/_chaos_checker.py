"""Whether what was read after an episode is what was acknowledged in it. Pure: evidence in, verdict out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from _chaos_log import Acknowledged, Evidence, Wipe, split_text

__all__ = ["FAULTS", "Finding", "Verdict", "check"]

#: Kinds of findings, in the order of the table.
FAULTS = {
    "lost": "acknowledged, and missing",
    "doubled": "there more than once",
    "disorder": "after a message that its writer added later",
    "foreign": "in a session it was not added to, or changed",
    "came back": "there again after a clear or a deletion",
    "context": "the context is not the end of the session",
    "unseen": "acknowledged, and not in a read of its writer",
    "empty": "a session with messages was read as empty",
    "error": "an error without a type of its own",
    "stuck": "a worker could not add when all was well again",
    "hung": "a worker did not end",
}

#: Where a worker found something by itself: it may have seen one message many times.
_WORKER = "a worker"
#: Texts that a finding quotes.
_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """Something that must not be.

    Attributes:
        kind: one of :data:`FAULTS`.
        where: session and way of reading.
        detail: what, in words.
        count: how many messages.
    """

    kind: str
    where: str
    detail: str
    count: int = 1


@dataclass
class Verdict:
    """What the checker says of an episode.

    Attributes:
        findings: all that is wrong; none if the episode passed.
        acknowledged: messages.
        allowed: acknowledged messages that are missing and may be.
    """

    findings: list[Finding] = field(default_factory=list)
    acknowledged: int = 0
    allowed: int = 0

    @property
    def kinds(self) -> set[str]:
        return {finding.kind for finding in self.findings}

    def count(self, kind: str) -> int:
        """Count the messages of one kind of finding, in the way of reading that has most of them."""
        # The same message is missed by every way of reading: it is one message.
        by_view: Counter[str] = Counter()
        for finding in self.findings:
            if finding.kind == kind:
                by_view[finding.where.rpartition(" by ")[2]] += finding.count
        seen_by_workers = by_view.pop(_WORKER, 0)
        return max(by_view.values(), default=seen_by_workers)


def check(evidence: Evidence) -> Verdict:
    """Compare every message."""
    verdict = Verdict(acknowledged=len(evidence.acknowledged))
    sessions = {a.session for a in evidence.acknowledged}
    sessions.update(session for view in evidence.full.values() for session in view)
    for session in sorted(sessions):
        _check_session(verdict, evidence, session)
    for trouble in evidence.troubles:
        verdict.findings.append(Finding(trouble.kind, _WORKER, trouble.detail))
    return verdict


def _check_session(verdict: Verdict, evidence: Evidence, session: str) -> None:
    acknowledged = [a for a in evidence.acknowledged if a.session == session]
    wipes = [w for w in evidence.wipes if w.session == session]
    may_miss = evidence.may_miss.get(session, set())
    wanted = [a for a in acknowledged if all(a.began > wipe.ended for wipe in wipes)]
    missed: set[str] = set()
    for view, by_session in evidence.full.items():
        if session not in by_session:
            continue  # it could not be read: that is among the troubles
        where = f"{session!r} by {view}"
        texts = by_session[session]
        verdict.findings += _strange(where, session, texts)
        verdict.findings += _disorder(where, acknowledged, texts)
        verdict.findings += _returned(where, acknowledged, wipes, evidence.rollbacks, texts)
        there = {text for text in texts if isinstance(text, str)}
        missing = [a.text for a in wanted if a.text not in there]
        missed |= {text for text in missing if text in may_miss}
        lost = [text for text in missing if text not in may_miss]
        if lost:
            verdict.findings.append(Finding("lost", where, _some(lost), len(lost)))
    verdict.allowed += len(missed)
    for view, contexts in evidence.context.items():
        if session in contexts:
            where = f"{session!r} by {view}"
            context, full = contexts[session]
            verdict.findings += _context(where, context, full, evidence.window, acknowledged, wipes)
    certain = [a for a in wanted if a.text not in may_miss]
    for read in evidence.empty_reads:
        before = [a.text for a in certain if a.ended < read.began] if read.session == session else []
        # A context may have been cleared; a session may not have been.
        if before and not (wipes and read.kind == "context"):
            verdict.findings.append(Finding("empty", f"{session!r} by a worker's {read.kind}", _some(before)))
    names = {(a.writer, a.number): a.text for a in certain}
    for view in ("context", "full"):
        reads = [m for m in evidence.missed if m.session == session and m.kind == view]
        unseen = {names[m.writer, n]: None for m in reads for n in m.numbers if (m.writer, n) in names}
        if unseen:
            verdict.findings.append(
                Finding("unseen", f"{session!r} by a worker's {view}", _some(list(unseen)), len(unseen))
            )


def _strange(where: str, session: str, texts: Sequence[Any]) -> list[Finding]:
    """Find what is there twice, and what no worker has added here."""
    found = []
    counts = Counter(text if isinstance(text, str) else repr(text) for text in texts)
    doubled = [text for text, count in counts.items() if count > 1]
    if doubled:
        found.append(Finding("doubled", where, _some(doubled), sum(counts[text] - 1 for text in doubled)))
    foreign = [text for text in counts if (parts := split_text(text)) is None or parts[0] != session]
    if foreign:
        found.append(Finding("foreign", where, _some(foreign), len(foreign)))
    return found


def _disorder(where: str, acknowledged: Iterable[Acknowledged], texts: Sequence[Any]) -> list[Finding]:
    """Find acknowledged messages that stand after a later one of the same writer."""
    acked = {a.text for a in acknowledged}
    newest: dict[str, int] = {}
    seen: set[str] = set()
    late = []
    for text in texts:
        parts = split_text(text)
        # A copy is another matter, and what was refused may be stored late.
        if parts is None or text not in acked or text in seen:
            continue
        seen.add(text)
        _, writer, number = parts
        if number < newest.get(writer, -1):
            late.append(f"{text} after number {newest[writer]}")
        newest[writer] = max(number, newest.get(writer, -1))
    return [Finding("disorder", where, _some(late), len(late))] if late else []


def _returned(
    where: str,
    acknowledged: Iterable[Acknowledged],
    wipes: Iterable[Wipe],
    rollbacks: Iterable[float],
    texts: Sequence[Any],
) -> list[Finding]:
    """Find what was deleted and is there. A server that went back after that may bring it back."""
    there = {text for text in texts if isinstance(text, str)}
    latest = max(rollbacks, default=float("-inf"))
    last = max((w.began for w in wipes if w.kind == "delete" and w.done and w.began > latest), default=None)
    if last is None:
        return []
    back = [a.text for a in acknowledged if a.ended < last and a.text in there]
    return [Finding("came back", where, "deleted: " + _some(back), len(back))] if back else []


def _context(
    where: str,
    context: list[Any],
    full: list[Any],
    window: int,
    acknowledged: Iterable[Acknowledged],
    wipes: Sequence[Wipe],
) -> list[Finding]:
    """Compare a context with the end of everything, as far as it was not cleared."""
    wrong = []
    if context != full[len(full) - len(context) :] or len(context) > window:
        wrong.append("it is not the end of the session")
    if not any(wipe.kind == "clear" for wipe in wipes):
        least = min(window, len(full))
    else:
        after = {a.text for a in acknowledged if all(a.began > w.ended for w in wipes)}
        least = min(window, sum(text in after for text in full if isinstance(text, str)))
    if len(context) < least:
        wrong.append("messages are missing")
    shown = f"{_ends(context)}, and the session ends {_ends(full[-window:])}"
    text = f"{', '.join(wrong)}: {len(context)} of at least {least}; {shown}"
    found = [Finding("context", where, text)] if wrong else []
    last = max((w.began for w in wipes if w.kind == "clear" and w.done), default=None)
    if last is not None:
        there = {text for text in context if isinstance(text, str)}
        back = [a.text for a in acknowledged if a.ended < last and a.text in there]
        if back:
            found.append(Finding("came back", where, "cleared: " + _some(back), len(back)))
    return found


def _short(text: Any) -> str:
    return str(text).rpartition("|")[0] or repr(text)[:60]


def _ends(texts: Sequence[Any]) -> str:
    return f"{_short(texts[0])} … {_short(texts[-1])}" if texts else "(nothing)"


def _some(texts: Sequence[str]) -> str:
    shown = ", ".join(_short(text) for text in texts[:_SHOWN])
    return shown + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
