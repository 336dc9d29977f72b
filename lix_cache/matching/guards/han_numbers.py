"""Numbers that are written in Han characters. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lix_cache.matching.guards.lexicon.number_words import CJK_DIGITS, CJK_TENS

__all__ = ["LARGEST", "han_numbers"]

_NUMBER = re.compile(
    "[第〇零两兩一二三四五六七八九十百千万萬亿億](?:(?<!第)|(?=[〇零两兩一二三四五六七八九十百千万萬亿億]))[〇零两兩一二三四五六七八九十百千万萬亿億]*"
)
_AFTER = re.compile(
    "英里|公里|公斤|小时|小時|分钟|个月|ヶ月|時間|日間|週間|世纪|世紀"
    "|[个個位本张張台天日年月号號点點分秒块塊元次件只隻条條人岁歲時円歳名枚匹杯回番週周斤米度倍升间間层層楼樓辆輛家种種届屆颗顆%％]"
)
_MANY = frozenset("一百千万萬亿億")
#: Longer numbers in words are nonsense, and Python prints no integer of any length.
LARGEST = 10**30


def han_numbers(text: str) -> Iterator[tuple[str, str, str]]:
    """Return the numbers of a text: the value, the measure word behind it or "", and what is written."""
    if text.isascii():
        return
    for match in _NUMBER.finditer(text):
        run = match.group().removeprefix("第")
        after = _AFTER.match(text, match.end() + (text[match.end() : match.end() + 1] == " "))
        counted = after is not None or match.group() != run
        # 一 alone is an article or part of a word, and so are most single characters without
        # a measure word behind them; 百万 alone is "very many".
        if (
            run == "一"
            or (not counted and len(run) < 3 and not set(run) & set("十百千"))
            or (not counted and set(run) <= _MANY)
        ):
            continue
        yield _value(run), after.group() if after else "", run


def _value(run: str) -> str:
    if all(c in CJK_DIGITS for c in run):
        return "".join(str(CJK_DIGITS[c]) for c in run).lstrip("0") or "0"
    total = part = digit = 0
    for c in run:
        if c in CJK_DIGITS:
            digit = CJK_DIGITS[c]
            continue
        tens = CJK_TENS[c]
        if tens >= 10_000:
            section = part + digit
            total = total + section * tens if total >= tens else (total + section or 1) * tens
            total = min(total, LARGEST)
            part = digit = 0
        else:
            part, digit = part + (digit or 1) * tens, 0
    return str(total + part + digit)
