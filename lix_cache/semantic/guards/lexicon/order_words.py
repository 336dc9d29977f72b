"""Words that the order guard reads over, and endings it takes for words of their own."""

from __future__ import annotations

__all__ = ["ARTICLES", "HANGUL_PARTICLES", "JOINING", "UNSPACED_GLUE"]

_ARTICLES = """
the a an this that these those its his her their my your our
der die das den dem des ein eine einen einem einer eines
le la les l un une du
el los las unos unas una
il lo gli i uno
o os as um uma
de het een
en et
"""
#: They may come and go without a change of meaning.
ARTICLES = frozenset(_ARTICLES.split())

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
    "and or und oder et ou y o e u ed en of og eller и или dan atau ve veya ir i ili және 和 与 或 と や".split()
)
