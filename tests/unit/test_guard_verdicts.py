"""What the guards say of two long texts that differ in one place: frozen, so that no shortcut changes it."""

from __future__ import annotations

import pytest

from lix_cache.matching.guards import check

_BEFORE = """\
You are the assistant of a bank. Answer in two or three sentences, and say so if you do not know.
Our cards are called Basic, Plus and Gold; the annual fee is 0, 24 and 96 euros. A transfer takes one to
three working days, or 10 seconds if it is instant. “Instant” costs 0.50 € and is sent to /v1/transfers.
Customers write from Kraków, São Paulo and München. Don't promise what isn't written here.

"""
_AFTER = """

The customer has been with us since May 2019, has two accounts and wrote on 2024-03-05 at 17:30. The last
answer was: "Your card was blocked because the PIN was entered 3 times". They were not satisfied with it.
"""


def _long(middle: str) -> str:
    return _BEFORE + middle + _AFTER


#: Two questions; the guard that objects to them within a long text, and by themselves.
_PROBES = {
    "same question": ("Why is my card blocked?", "why is my card blocked", None, None),
    "a number": ("Can I send 500 euros to Ann?", "Can I send 5,000 euros to Ann?", "numbers", "numbers"),
    "a number in words": ("Can I open three accounts?", "Can I open four accounts?", "numbers", "numbers"),
    "a number in both": ("Can I send 500 euros?", "Can I send five hundred euros?", "remainder", None),
    "a unit": ("Is it 5 km to the bank?", "Is it 5 miles to the bank?", "remainder", "numbers"),
    "a date": ("Was it paid on May 6?", "Was it paid on May 7?", "numbers", "numbers"),
    "a direction": ("How do I enable alerts?", "How do I disable alerts?", "direction", "direction"),
    "a negation": ("Why can I withdraw money?", "Why can't I withdraw money?", None, "negation"),
    "a class": ("Is the bank open on Monday?", "Is the bank open on Tuesday?", "class", "class"),
    "a literal": ("What does `amount_due` mean?", "What does `amount_paid` mean?", "literal", "literal"),
    "an address": ("Is a.b@example.org my contact?", "Is c.d@example.org my contact?", "literal", "literal"),
    "a name": ("Did I pay it to Anna Kowalska?", "Did I pay it to Piotr Zieba?", "name", "name"),
    "an operator": ("Is a fee charged if x <= y?", "Is a fee charged if x >= y?", "symbol", "symbol"),
    "a currency": ("Is the fee in € here?", "Is the fee in $ here?", "code", "symbol"),
    "capitals": ("What is the IBAN for?", "What is the SWIFT for?", "name", "name"),
    "roles": ("Move it from Plus to Gold please?", "Move it from Gold to Plus please?", None, "order"),
    "another question": (
        "How do I order a new card?",
        "What does the instant transfer cost me?",
        "remainder",
        None,
    ),
    "white space in code": ("Does f(x) = 'a b' hold?", "Does f(x) = 'a  b' hold?", "writing", "writing"),
    "case of a unit": ("Does it need 5 mW of power?", "Does it need 5 MW of power?", "writing", "writing"),
    "curly apostrophe": ("Why can't I pay?", "Why can’t I pay?", None, None),
    "an accent": ("Is there a branch in Krakow?", "Is there a branch in Kraków?", None, None),
    "an ending": ("Why was my transfer delayed?", "Why were my transfers delayed?", None, None),
    "in Chinese": ("我的卡为什么被冻结了？", "我的卡为什么没有被冻结？", "negation", "negation"),
    "in Korean": ("카드가 왜 정지되었나요?", "카드가 왜 정지되지 않았나요?", "negation", "negation"),
    "in Russian": ("Почему карта заблокирована?", "Почему карта не заблокирована?", "negation", "negation"),
    "in German": ("Kann ich zwanzig Euro abheben?", "Kann ich dreißig Euro abheben?", "remainder", "numbers"),
}


@pytest.mark.parametrize("name", _PROBES)
def test_what_the_guards_say_of_long_texts(name: str) -> None:
    one, other, guard, _ = _PROBES[name]
    found = check(_long(one), _long(other))
    assert (found.guard if found else None) == guard
    assert check(_long(other), _long(one)) == found


@pytest.mark.parametrize("name", _PROBES)
def test_what_the_guards_say_of_the_questions_alone(name: str) -> None:
    one, other, _, guard = _PROBES[name]
    found = check(one, other)
    assert (found.guard if found else None) == guard
