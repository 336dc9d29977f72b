"""Words that deny, by language, and phrases in which they do not."""

from __future__ import annotations

__all__ = [
    "IMPLICIT",
    "IMPLICIT_SUBSTRINGS",
    "INTENSIFIERS",
    "NEGATIONS",
    "NEGATIVE_SUBSTRINGS",
    "NEUTRAL_PHRASES",
    "NOT_BEFORE_FEW",
    "SCARCE",
]

#: Words that leave so little that they deny: not after an article, where they leave some.
SCARCE = frozenset(
    """
    few little wenig wenige wenigen peu poco poca pocos pocas pochi poche pouco pouca poucos poucas weinig мало
    malo mazai
    """.split()
)
NOT_BEFORE_FEW = frozenset(
    """
    a the an this that these those his her its their my your our every last past next first
    ein eine einige die der das diese den letzten nachsten ersten un une le la les derniers prochains premiers
    una el los las unos unas ultimos proximos primeros il lo gli i um uma o os as een de het et en den det bir
    """.split()
)

NEGATIONS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": """not no never none nothing nobody nowhere neither nor without cannot cant dont doesnt didnt isnt wont
            wouldnt shouldnt couldnt hasnt havent hadnt wasnt werent arent aint nope mustnt neednt
            noone hardly barely scarcely seldom rarely infrequently few little""",
        "de": "nicht kein keine keinen keinem keiner keines nie niemals nichts ohne niemand nirgends nirgendwo weder keins keinerlei kaum selten wenig wenige wenigen",
        "fr": "pas jamais aucun aucune rien sans ni personne non ne guere rarement peine peu",
        "es": "no nunca jamas ningun ninguna ninguno nada nadie sin tampoco ni apenas raramente rara poco poca pocos pocas",
        "it": "non mai nessun nessuna nessuno niente nulla senza ne raramente malapena poco poca pochi poche",
        "pt": "nao nunca jamais nenhum nenhuma nada ninguem sem nem raramente dificilmente pouco pouca poucos poucas",
        "nl": "niet geen nooit niets niemand zonder nergens nauwelijks amper zelden weinig",
        "da": "ikke ingen intet aldrig uden næppe sjældent",
        "ru": "не нет никогда без нельзя ничего никто ни едва редко вряд мало",
        "id": "tidak bukan jangan tanpa belum tak jarang",
        "tr": "degil yok olmadan hic nadiren",
        "lt": "ne nera niekada be retai vos mazai",
        "sr": "ne nije nisu nema nikad nikada bez nemoj nisam retko jedva malo",
        "kk": "емес жоқ сирек",
        "ar": "لا لم لن ليس ليست بدون غير ما نادرا بالكاد",
    }.items()
}

#: Between a negation and what it denies, beside adverbs in -ly.
INTENSIFIERS = frozenset(
    "longer very always often ever sehr immer tres toujours siempre molto sempre muito erg altijd vez".split()
)

#: Beginnings of words that deny something without a negation.
IMPLICIT = tuple(
    """
    unable unab unsuccess fail declin refus reject denied deny block cancel miss lack lost lose losing problem trouble issue wrong
    incorrect error stuck pending wait stop avoid broke damag prevent disappear gone fehl problem verlor storn kaputt falsch
    warte verweiger probl perd annul echou refuse falt error rechaz cancel bloque manc sbagli rifiut erro recus falh kwijt
    mislukt geweiger kapot fout пробл ошиб потер отмен отказ слома gagal hilang salah hata kayip iptal
    """.split()
)

#: Looked for anywhere in texts of scripts without spaces, and in Korean.
NEGATIVE_SUBSTRINGS: dict[str, str] = {
    "zh": "很少|极少|甚少|鲜少|罕|不|没|沒|(?:^|[，。！？,.!?请你您先都就也千万 ])别(?!的|人|墅|名|处|称|致)|無|无|勿|非(?!常|洲)|未(?!来)",
    "ja": "ない|なかった|ません|なく|ず(?=に|、)|なし|無し|不",
    "ko": "않|못|없|아니(?!라)|아닌|아닙|(?<![가-힣])안 |지 마|지마",
}

#: The same for words that deny without a negation.
IMPLICIT_SUBSTRINGS: dict[str, str] = {
    "zh": "失败|拒绝|禁止|停止|取消|错误|缺乏|缺少|失去|丢失|丢了|避免|难以|免",
    "ja": "失敗|拒否|禁止|停止|キャンセル|エラー|欠|失|避け|珍し|めった",
    "ko": "실패|거부|거절|금지|취소|오류|부족|잃|드물|덜",
}

#: Phrases that hold a negation and deny nothing of what is asked about.
NEUTRAL_PHRASES: dict[str, str] = {
    "en": r"""
        \b(?:do|does|did|is|are|was|were|has|have|had|can|could|will|would|should)n'?t\s
            (?:it|you|they|he|she|we)\s*[?.!]*$
        | \b(?:
          or\snot | whether\sor\snot | if\snot | why\snot(?=\W*$) | not\sonly | no\sproblem | no\sworries
        | no\smatter(?:\swhat|\show)? | nothing\sbut | not\ssure | not\scertain
        | (?:i\s|we\s)?(?:do\snot|don'?t|didn'?t|did\snot)\s(?:really\s)?(?:know|understand|remember|think|mind|recall)
        | can(?:no|')?t\s(?:figure|find|locate|see|seem\sto|tell|wait|understand|remember|help|believe)
        | (?:if\s)?you\s(?:do\snot|don'?t)\smind | no\sidea | no\sdoubt
        )\b""",
    "de": r"\b(?:oder\snicht|ob\s.{0,30}oder\snicht|nicht\snur|kein\sproblem|nicht\swahr|weiss\snicht|nicht\ssicher)\b",
    "fr": r"\b(?:n'est-ce\spas|ou\spas|ou\snon|pas\sseulement|pas\sde\sprobleme|ne\ssais\spas|pourquoi\spas(?=\W*$))\b",
    "es": r"\b(?:o\sno|no\ssolo|no\sse|no\sestoy\ssegur[oa]|por\sque\sno(?=\W*$))\b",
    "it": r"\b(?:o\sno|non\ssolo|non\sso|perche\sno(?=\W*$))\b",
    "pt": r"\b(?:ou\snao|nao\sso|nao\ssei|por\sque\snao(?=\W*$))\b",
    "nl": r"\b(?:of\sniet|niet\salleen|weet\sniet|waarom\sniet(?=\W*$)|niet\swaar)\b",
    "ru": r"\b(?:или\sнет|не\sтолько|не\sзнаю|почему\sбы\sне)\b",
    "zh": r"是不是|能不能|会不会|可不可以|有没有|要不要|好不好|行不行|对不对|不好意思|不但|不仅|不过|不同(?!意)|不错|不久|不少|不论|不如|不管|差不多|没关系|没问题|不客气|不知道|对不起|无论|南非|非洲|不断|不得不|与众不同",
    "ja": r"間もなく|まもなく|少なくとも|ないし|じゃない(?:です)?か|ではないか|ませんか|ないですか|かもしれない|かもしれません|なければならない|なければなりません|なくてはならない|少ない|すみません|つまらない|申し訳ありません|わかりません|なくなる",
    "ko": r"뿐만 아니라|뿐 아니라|않을까|않나요|없나요|틀림없|끊임없",
}
