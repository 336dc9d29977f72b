"""Words that say who does what to whom: helping verbs, pronouns, irregular verbs of English."""

from __future__ import annotations

__all__ = ["AGENT", "AUXILIARIES", "BE", "GAPS", "LEMMAS", "PREPOSITIONS", "PRONOUNS", "QUESTION_WORDS"]

BE = frozenset(
    "is are was were be been being am isn't aren't wasn't weren't get gets got getting gotten".split()
)
#: What stands before the subject of a question.
AUXILIARIES = BE - frozenset("be been being get gets got getting gotten".split()) | frozenset(
    """
    do does did don't doesn't didn't has have had hasn't haven't hadn't can can't cannot could couldn't will won't would wouldn't
    may might must mustn't shall should shouldn't
    """.split()
)
AGENT = "by"
PREPOSITIONS = frozenset(
    "of to from than with for on in at by about into over under after before against behind".split()
)
QUESTION_WORDS = frozenset("who whom what which whose how why when where".split())

#: Pronouns in one form, whatever their case; in capitals, so that no other word is one.
PRONOUNS = {
    word: words.split()[0].upper()
    for words in ("i me", "we us", "he him", "she her", "they them", "you", "it")
    for word in words.split()
}

_VERBS = """
arise arose arisen;awake awoke awoken;bear bore borne;beat beaten;become became;begin began begun;bend bent;bet;bind bound
bite bit bitten;bleed bled;blow blew blown;break broke broken;breed bred;bring brought;build built;burn burnt;buy bought
catch caught;choose chose chosen;come came;cost;cut;deal dealt;dig dug;draw drew drawn;drink drank drunk;drive drove driven
eat ate eaten;fall fell fallen;feed fed;feel felt;fight fought;find found;flee fled;fly flew flown;forbid forbade forbidden
forget forgot forgotten;forgive forgave forgiven;freeze froze frozen;grow grew grown;hang hung;hear heard;hide hid hidden
hit;hold held;hurt;keep kept;lay laid;lead led;leave left;lend lent;lose lost;mean meant;meet met;overtake overtook overtaken
overthrow overthrew overthrown;pay paid;ride rode ridden;ring rang rung;rise rose risen;run ran;say said;see saw seen
seek sought;sell sold;send sent;shake shook shaken;shoot shot;shrink shrank shrunk;sing sang sung;sink sank sunk;sleep slept
speak spoke spoken;spend spent;spin spun;split;spread;stand stood;steal stole stolen;stick stuck;sting stung;strike struck
swallow;swear swore sworn;sweep swept;swim swam swum;take took taken;teach taught;tear tore torn;tell told;think thought
throw threw thrown;understand understood;undergo underwent undergone;wear wore worn;weave wove woven;win won;wind wound
withdraw withdrew withdrawn;write wrote written;know knew known;show showed shown;give gave given;make made
"""
LEMMAS = {
    form: forms.split()[0] for forms in _VERBS.replace("\n", ";").split(";") for form in forms.split()[1:]
}

#: By language, what shows that the doer is asked for in a passive, the doer, the one it is done to, and a passive.
GAPS: dict[str, tuple[str, str, str, str]] = {
    "de": (r"\bvon wem\b", r"\bwer\b", r"\bwen\b", r"\b(?:wurden?|wird|werden|worden)\b.*\bvon\b|\bvon\b.*\bworden\b"),
    "fr": (
        r"\bpar qui\b",
        r"^qui\b|\bqu'est-ce qui\b|\bqui est-ce qui\b",
        r"^qui\b.*-(?:t-)?(?:elles?|ils?|on|tu|vous|nous)\b|\bqu(?:i |')est-ce qu(?:e\b|')",
        r"\b(?:ete|est|sont|fut)\b.*\bpar\b",
    ),
    "es": (r"\bpor quien(?:es)?\b", r"\bquien(?:es)?\b", r"\ba quien(?:es)?\b", r"\b(?:fue|fueron|es|son|sido)\b.*\bpor\b"),
    # In these the question word is the same, and a passive tells.
    "it": (r"\bda chi\b", r"^chi\b", r"(?!)", r"\bstat[oaie]\b.*\bda(?:l|llo|lla|ll'|i|gli|lle)?\b"),
    "pt": (r"\bpor quem\b", r"^quem\b", r"(?!)", r"\b(?:foi|foram|e|sao|sido)\b.*\bp(?:or|elos?|elas?)\b"),
    "nl": (r"\bdoor wie\b", r"^wie\b", r"(?!)", r"\b(?:werd|werden|wordt|worden)\b.*\bdoor\b|\bdoor\b.*\b(?:werd|werden|wordt|worden)\b"),
    "ru": (r"\bкем\b", r"\bкто\b", r"\bкого\b", r"\bбыл[аио]?\b.*\b\w+(?:ой|ом|ей|ем|ами|ями)\b"),
}  # fmt: skip
