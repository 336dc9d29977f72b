"""Words that the order guard reads over, and endings it takes for words of their own."""

from __future__ import annotations

__all__ = ["AFTER_A_LABEL", "ARTICLES", "HANGUL_PARTICLES", "JOINING", "UNSPACED_GLUE"]

#: They may come and go without a change of meaning.
ARTICLES: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the a an this that these those its his her their my your our",
        "de": "der die das den dem des ein eine einen einem einer eines",
        "fr": "le la les l un une",
        "es": "el la los las un una unos unas",
        "it": "il lo la gli i le un uno una",
        "pt": "o a os as um uma",
        "nl": "de het een",
        "da": "en et den det",
    }.items()
}

#: Behind an "a" that is a name and no article.
AFTER_A_LABEL = frozenset(
    "to from and or is are was on of in by than with before after into for as at vs over under does do the a if when then has".split()
)

#: Particles of Korean, the longest first: they say the role of the word they end.
HANGUL_PARTICLES = tuple(
    "에서는 으로는 에게서 이라는 에서 으로 에게 까지 부터 한테 보다 처럼 라는 이나 와의 과의 은 는 이 가 을 를 에 로 의 와 과 도 만".split()
)

#: Characters of Chinese and Japanese that carry grammar: all of hiragana, and these.
UNSPACED_GLUE = frozenset(map(chr, range(0x3041, 0x3097))) | frozenset(
    "的了是在有和与及或也都就而且但并被把将为之其该此这那个一着过于以所等上中下里他她它们我你您吗呢吧啊"
)

#: What stands between two words of one rank: "a or b" is "b or a".
JOINING = frozenset(
    "and or vs versus und oder et ou y o e u ed en of og eller и или dan atau ve veya ir i ili және 和 与 或 と や".split()
)
