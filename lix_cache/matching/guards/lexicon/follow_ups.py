"""What follow-ups are made of: words that answer or go on, and how they begin."""

from __future__ import annotations

__all__ = ["CJK_FOLLOW_UPS", "GREETINGS", "OPENERS", "POINTERS", "REPLIES", "YOU"]

_REPLIES = """
yes yeah yep yup ya sure ok okay k no nope nah please thanks thank you continue go on ahead again more another one
next previous same that this these those it them he she they first second third last former latter other both
either neither all none any some why how when where who what which really correct right exactly indeed perfect
great good nice cool fine got understood hmm hm oh ah well so and but or then too also instead else do did does
is are was were can could would should explain elaborate details detail example examples repeat retry
proceed stop wait never mind maybe perhaps agreed definitely absolutely course alright
ja jawohl doch nein bitte danke gerne genau weiter mach nochmal noch mehr warum wieso wann wer und oder dann klar
stimmt richtig gut super nachste zweite erste letzte andere anderen das dies diese beide beides wiederholen erklare
oui non merci continue continuez encore plus pourquoi comment quand et puis alors d'accord bien sur exact svp
deuxieme premiere derniere l'autre autre celui-la celle-la ca cela les deux vas-y
si claro gracias continua sigue otra vez mas por que cuando y entonces vale bueno exacto segundo segunda primero
primera ultimo ultima eso esto esa ese ambos adelante favor
certo grazie ancora perche come quando e poi allora va bene esatto seconda secondo prima primo ultima ultimo altro
quello quella questo questa entrambi avanti favore
sim nao obrigado obrigada continue novamente porque quando e entao claro certo exato isso isto aquele outra ambos
jawel nee alsjeblieft bedankt verder ga door nog meer waarom hoe wanneer en dan goed precies tweede eerste laatste
andere dat dit beide
да нет пожалуйста спасибо продолжай продолжить дальше еще почему как когда и а хорошо ладно конечно второй вторую
первый первую последний другой это этот оба давай понятно повтори
ya tidak tolong terima kasih lanjut lanjutkan lagi kenapa dan baik oke
evet hayir lutfen tesekkurler devam et neden tekrar peki tamam
taip ne aciu prasau dar kodel testi gerai
da ne hvala molim nastavi jos zasto dobro
jo ja nej tak fortsat igen hvorfor
"""
#: A text of nothing but these and grammar says nothing by itself.
REPLIES = frozenset(_REPLIES.split())

_POINTERS = """
this that these those it them one ones another second third last former latter other both either neither same again
more das dies diese dieser dieses nochmal beide zweite dritte andere anderen letzte ca cela celui-la celle-la l'autre deuxieme
derniere encore eso esto ese esa otra otro segunda segundo ultimo ultima mas ambos quello quella questo questa altro altra
secondo seconda ancora entrambi isso isto aquele outro outra novamente dat dit andere tweede beide nog это этот эту оба
другой другую второй вторую еще itu ini lagi bunu sunu onu tekrar
"""
#: Words that point at what was said before.
POINTERS = frozenset(_POINTERS.split())

#: A greeting goes on from nothing, and is answered alike each time.
GREETINGS = frozenset("hello hi hey".split())

#: The person asked about is here: "who made you" needs nothing before it.
YOU = frozenset(
    "you your yours yourself du dir dich sie ihnen tu te vous tu usted ti voce je jij u ты вы тебя вас".split()
)

#: Beginnings of a text of few words that goes on from another one.
OPENERS = r"""
    (?:(?:ok(?:ay)?|well|so|hmm|oh|yes|no|yeah)[\s,]+)?
    (?: and\b | but\b | or\b(?!\sdo|\sdoes) | what\sabout\b | how\sabout\b | what\sif\sinstead\b | what\selse\b
      | same\s(?:for|with|but)\b | now\s(?:for|with|do|in)\b | also\s(?:for|in|with)\b | then\b
      | und\b | oder\b | aber\b | wie\s(?:sieht|ist)\ses\smit\b | was\sist\smit\b | wie\swar['e]?s\smit\b | dann\b
      | et\b | mais\b | qu'en\sest\sil\b
      | y\b | pero\b | que\stal\b | que\shay\sde\b | pues\b
      | e(?=\s(?:il|la|lo|i|le|gli|per|con|in|nel|nella|a|o|os|as|um|uma|un|una|se|quando|come|como|dopo|depois|domani|amanha|poi|ora|agora)\b) | ma\b | mas\b(?=\se\b|\spara) | che\sne\sdici\sdi\b
      | en\b(?=\s(?:wat|hoe|dan|de|het|morgen|nu|die|dat)\b) | maar\b | hoe\szit\shet\smet\b | wat\sdacht\sje\svan\b
      | а\b | и\b | но\b | а\sчто\b | как\sнасчет\b
      | dan\s(?:bagaimana|apa)\b | bagaimana\sdengan\b | peki\sya\b | ya\b
      | og\b | hvad\smed\b | o\skas\sdel\b | a\ssta\sje\ssa\b
    )"""

#: The same in Chinese, Japanese and Korean: the whole text, or its beginning.
CJK_FOLLOW_UPS = r"""
    (?: ^(?:是的?|对的?|好的?|好吧|嗯+|不是?|不用了?|不要|谢谢(?:你|您)?|继续|请继续|继续说|再来(?:一个|一次)?|还有呢?|然后呢?|为什么|为何|怎么说
        |第[一二三四五六七八九十\d]个呢?|下一个|上一个|那个呢?|这个呢?|另一个呢?|两个都|请|可以|行|没问题|明白了?|知道了|详细(?:一点|说说)?|举个例子|那好吧?)[，。！？!?,.\s吧呢啊]*$
      | ^(?:那(?:么)?|还有|而|和).{0,12}呢[？?。\s]*$
      | ^.{1,6}呢[？?。\s]*$
      | ^(?:はい|ええ|うん|いいえ|いや|お願いします|はい、?お願いします|ありがとう(?:ございます)?|続けて(?:ください)?|続き|もう一度(?:お願いします)?|もっと|それで|次(?:は|の)?
        |なぜ|なんで|どうして|わかりました|了解(?:です)?|[一二三]つ目は?|[12２１]番目は?|(?:それ|これ|あれ)は?|両方|例えば|詳しく)[、。！？!?\s]*$
      | ^(?:では|じゃあ|それなら|あと)?[、\s]*.{1,10}(?:は|なら)[？?]\s*$
      | ^(?:네|예|아니요?|응|계속(?:해\s?(?:줘|주세요)?)?|감사합니다|고마워요?|왜요?|다시|더|그리고요?|좋아요?|알겠습니다|두\s?번째는?요?|그건요?)[.!?\s]*$
      | ^(?:그럼|그러면)\s.{1,12}(?:은|는)(?:요)?\?\s*$
    )"""
