"""What the guards object to, and what they let pass, by guard and language."""

from __future__ import annotations

import pytest

from lix_cache.matching.guards import GUARDS, check, is_elliptical
from lix_cache.matching.guards.numbers import quantities
from lix_cache.matching.guards.reading import read

pytestmark = pytest.mark.promise("right-answer")

_DOCUMENT = (
    "The tenant may live in the flat from the first of May. The landlord keeps the deposit until the "
    "flat is empty and looks after the roof, the heating and the garden. Pets are allowed if the "
    "neighbours agree to it in writing."
)
OBJECTED = {
    "numbers": [
        ("top 5 films", "top 50 films"),
        ("how many are 5² apples", "how many are 52 apples"),
        ("add 1½ cups", "add 11/2 cups"),
        ("add ½ cup of sugar", "add ¼ cup of sugar"),
        ("solve x² = 4", "solve x = 4"),
        ("send 1,000 euros to Anna", "send 1,000,000 euros to Anna"),
        ("a run of 5 km", "a run of 5 miles"),
        ("is $100 enough", "is €100 enough"),
        ("raise it by 5%", "raise it by 15%"),
        ("what changed in Python 3.1", "what changed in Python 3.10"),
        ("install numpy v1.2.3", "install numpy v1.3.2"),
        ("what happened on May 6", "what happened on May 7"),
        ("what happened on 2024-05-06", "what happened on 2024-05-07"),
        ("wake me at 5:30 pm", "wake me at 5:30 am"),
        ("the 2nd chapter", "the 3rd chapter"),
        ("the second chapter", "the third chapter"),
        ("a table for two people", "a table for three people"),
        ("it costs two hundred dollars", "it costs two thousand dollars"),
        ("list the planets", "list the 3 largest planets"),
        ("is -5 degrees cold", "is 5 degrees cold"),
        ("ein Tisch für zwei Personen", "ein Tisch für drei Personen"),
        ("une table pour deux personnes", "une table pour trois personnes"),
        ("una mesa para dos personas", "una mesa para cuatro personas"),
        ("стол на двух человек", "стол на трех человек"),
        ("预订两张票", "预订三张票"),
        ("第二章讲什么", "第三章讲什么"),
        ("5月6日有什么活动", "5月7日有什么活动"),
        ("三人で予約したい", "四人で予約したい"),
        ("세 명 예약해 주세요", "네 명 예약해 주세요"),
    ],
    "direction": [
        ("treatment of hypertension", "treatment of hypotension"),
        ("increment the counter", "decrement the counter"),
        ("argmax in numpy", "argmin in numpy"),
        ("an endothermic reaction", "an exothermic reaction"),
        ("turn the socket off", "turn on the plug socket"),
        ("explain inner joins", "explain outer joins"),
        ("cancel my alarm for tomorrow", "set an alarm for tomorrow"),
        ("sort ascending", "sort descending"),
        ("sort the list in ascending order", "sort the list in descending order"),
        ("turn the light on", "turn the light off"),
        ("switch on the heating", "switch off the heating"),
        ("enable two-factor login", "disable two-factor login"),
        ("enabling notifications", "disabling notifications"),
        ("how to open an account", "how to close an account"),
        ("when should I buy shares", "when should I sell shares"),
        ("increase the limit", "decrease the limit"),
        ("flights to Rome", "flights from Rome"),
        ("may I eat before the exam", "may I eat after the exam"),
        ("the minimum of a list", "the maximum of a list"),
        ("first name of the author", "last name of the author"),
        ("encode a string", "decode a string"),
        ("deposit cash", "withdraw cash"),
        ("my credit card", "my debit card"),
        ("lock my card", "unlock my card"),
        ("install the driver", "uninstall the driver"),
        ("is this an honest reply", "is this a dishonest reply"),
        ("sortiere aufsteigend", "sortiere absteigend"),
        ("Licht einschalten", "Licht ausschalten"),
        ("die Benachrichtigungen aktivieren", "die Benachrichtigungen deaktivieren"),
        ("ouvrir un compte", "fermer un compte"),
        ("abrir una cuenta", "cerrar una cuenta"),
        ("aprire un conto", "chiudere un conto"),
        ("abrir uma conta", "fechar uma conta"),
        ("de verlichting inschakelen", "de verlichting uitschakelen"),
        ("включить уведомления", "отключить уведомления"),
        ("打开通知", "关闭通知"),
        ("按升序排列", "按降序排列"),
        ("昇順に並べ替える", "降順に並べ替える"),
        ("알림 켜 줘", "알림 꺼 줘"),
    ],
    "negation": [
        ("if x is None in python", "if x is not None in python"),
        ("do delete the old records", "do n\u200bot delete the old records"),
        ("do delete the old records", "do n\u00adot delete the old records"),
        ("can I withdraw money", "why can't I withdraw money"),
        ("foods that contain gluten", "foods that do not contain gluten"),
        ("countries that never joined NATO", "countries that joined NATO"),
        ("pasta with no meat please", "pasta with meat please"),
        ("Ich kann mich anmelden", "Ich kann mich nicht anmelden"),
        ("pourquoi je peux payer ici", "pourquoi je ne peux pas payer ici"),
        ("por que puedo pagar con tarjeta", "por que no puedo pagar con tarjeta"),
        ("perche posso pagare con la carta", "perche non posso pagare con la carta"),
        ("por que posso pagar com o cartão", "por que não posso pagar com o cartão"),
        ("waarom kan ik betalen", "waarom kan ik niet betalen"),
        ("почему приходят уведомления", "почему не приходят уведомления"),
        ("我喜欢这首歌", "我不喜欢这首歌"),
        ("别给他打电话", "给他打电话"),
        ("この曲が好きです", "この曲が好きではない"),
        ("이 노래를 좋아해", "이 노래를 좋아하지 않아"),
    ],
    "class": [
        ("what is open on monday", "what is open on tuesday"),
        ("weather in paris tomorrow", "weather in paris today"),
        ("how do I sort a list in python", "how do I sort a list in java"),
        ("capital of france", "capital of germany"),
        ("report my visa as lost", "report my mastercard as lost"),
        ("Wetter am Montag", "Wetter am Dienstag"),
        ("météo demain", "météo aujourd'hui"),
        ("北京的天气", "上海的天气"),
        ("明日の天気", "今日の天気"),
    ],
    "literal": [
        ("what does foo_bar do", "what does foo_baz do"),
        ("what does getUserName return", "what does getUserNames return"),
        ("how to use --force", "how to use --dry-run"),
        ('translate "good morning"', 'translate "good night"'),
        ("what is in `config.toml`", "what is in `setup.cfg`"),
        ("open /etc/hosts", "open /etc/passwd"),
        ("is a@b.com taken", "is c@d.com taken"),
        ("summarise https://a.org/x", "summarise https://a.org/y"),
        ("where is order AB123X", "where is order AB124X"),
        ("what is 0xFF00", "what is 0xFF01"),
        ("explain os.path.join", "explain os.path.split"),
        ("「こんにちは」の意味", "「さようなら」の意味"),
    ],
    "name": [
        ("who is Ada Lovelace", "who is Grace Hopper"),
        ("when did Bach live", "when did Vivaldi live"),
        ("¿quién fue Frida Kahlo?", "¿quién fue Gabriela Mistral?"),
        ("когда родился Пушкин", "когда родился Гоголь"),
    ],
    "code": [
        ("how does ++i work", "how does i++ work"),
        ("what does the regex a{2} match", "what does the regex a{2,} match"),
        ("what does ?. do in a chain", "what does ?? do in a chain"),
        ("what does .* match", "what does .*? match"),
        ("what does %s print", "what does %d print"),
        ("what does \\w match", "what does \\s match"),
        ("what does 2>&1 mean", "what does 1>&2 mean"),
        ("what does len(x) do", "what does sum(x) do"),
        ("what does :) mean", "what does :( mean"),
        ("take 5 qg daily", "take 5 µg daily"),
        ("a bill of 100kr", "a bill of 100zł"),
    ],
    "symbol": [
        ("filter rows where x = 3 AND y", "filter rows where x = 3 OR y"),
        ("what does a < b mean in python", "what does a > b mean in python"),
        ("compute a + b", "compute a - b"),
        ("how to read a file in C++", "how to read a file in C#"),
        ("learn C", "learn C++"),
        ("explain JOIN in a query", "explain LEFT JOIN in a query"),
        ("how is MAX used", "how is MIN used"),
        ("how much is it in €", "how much is it in $"),
        ("symptoms of hepatitis A", "symptoms of hepatitis B"),
        ("what is a type I error", "what is a type II error"),
        ("the causes of world war I", "the causes of world war II"),
        ("what does 👍 mean", "what does 👎 mean"),
        ("is it x ∈ S", "is it x ∉ S"),
        ("compare with ==", "compare with ==="),
        ("is p and q true", "is p or q true"),
        ("Li+ ion", "Li- ion"),
    ],
    "remainder": [
        (f"{_DOCUMENT} Summarise it in three points.", f"{_DOCUMENT} Translate it into French."),
        (f"Who pays the rent? {_DOCUMENT}", f"Who paints the walls? {_DOCUMENT}"),
        (
            f"Be brief. {_DOCUMENT} What happens to the deposit?",
            f"Be kind. {_DOCUMENT} What happens to the garden?",
        ),
    ],
    "order": [
        ("flights from Oakland to Fresno", "flights from Fresno to Oakland"),
        ("convert celsius to kelvin", "convert kelvin to celsius"),
        ("does the dog bite the man", "does the man bite the dog"),
        (
            "Harvard University defeated New York University",
            "New York University defeated Harvard University",
        ),
        ("un vuelo de Lima a Cusco", "un vuelo de Cusco a Lima"),
        ("ein Flug von Graz nach Linz", "ein Flug von Linz nach Graz"),
        ("билет из Омска в Тверь", "билет из Тверь в Омска"),
        ("从苏州到杭州的火车", "从杭州到苏州的火车"),
        ("仙台から札幌までの電車", "札幌から仙台までの電車"),
        ("서울에서 부산까지 기차", "부산에서 서울까지 기차"),
    ],
    "roles": [
        ("Who beat Germany", "Who did Germany beat"),
        ("Who was beaten by Germany", "Who beat Germany"),
        ("Can my landlord sue me", "Can I sue my landlord"),
        ("Wer liebt Anna", "Wen liebt Anna"),
    ],
    "writing": [
        # White space: in commands, code, data and literals.
        ("what does sed s/  / /g do", "what does sed s/ / /g do"),
        ("explain sed s/  / /g", "please explain sed s/ / /g"),
        ("is x  = 1 valid", "is x = 1 valid"),
        ("is x=1 valid", "is x = 1 valid"),
        ("grep 5  6", "grep 5 6"),
        ("my password is abc  def", "my password is abc def"),
        ("split col1\tcol2", "split col1 col2"),
        ("what does f(a,  b) do", "what does f(a, b) do"),
        ("find „a  b“", "find „a b“"),
        ("run:\nif a:\n    b()\n    c()", "run:\nif a:\n    b()\nc()"),
        ("all:\n\tcc x.c", "all:\n    cc x.c"),
        ("what is the key \t", "what is the key \u2003"),
        ("    if a:\n    b()", "if a:\n    b()"),
        # Quotes, and what cannot be seen, in code.
        ("what does print('x y') do", 'what does print("x y") do'),
        ("what does echo `ls -l` do", "what does echo 'ls -l' do"),
        ("is {“a”: 1} right", 'is {"a": 1} right'),
        ("does [ab, c] parse", "does [a\u200bb, c] parse"),
        ("open file\u202etxt.exe now", "open filetxt.exe now"),
        # Case.
        ("what does the US want", "what does the us want"),
        ("is IT safe here", "is it safe here"),
        ("how old is Polish history", "how old is polish history"),
        ("who may march in March", "who may march in march"),
        ("a plant of 5 mW", "a plant of 5 MW"),
        ("a line of 100Mb", "a line of 100MB"),
        ("a dose of 5 mg", "a dose of 5 Mg"),
        ("a loan of 5 m", "a loan of 5 M"),
        ("what does Foo_Bar() do", "what does foo_bar() do"),
        ("is x = X + 1 right", "is x = x + 1 right"),
    ],
    "elliptical": [("yes please", "yes"), ("what about tomorrow", "what is the weather tomorrow")],
    "length": [("a " * 10_001, "a " * 10_002)],
}

ACCEPTED = [
    ("le vol est sorti début 2003 .", "le vol est sorti début 2003."),
    ("he won the match 6--4, 7-5", "he won the match 6--4, 7--5"),
    ("1946년 인기곡입니다", "1946년의 인기곡입니다"),
    ("what is the user datagram protocol (UDP )", "what is the user datagram protocol (UDP)"),
    ("my money is gone, what now", "my money is gone :( what now"),
    ("no, the export does not work for me", "the export does not work for me"),
    ("I need $5 now", "I need 5$ now"),
    ("*urgent* my card is lost", "urgent my card is lost"),
    ("5 kg of rice", "5 kgs of rice"),
    ("turn off the light", "turn the light off"),
    ("I want to pay (with a card)", "I want to pay with a card"),
    ("weather Tokyo", "Tokyo weather forecast"),
    ("send 1,000 euros", "send 1000 euros"),
    ("send 1.000 euros", "send 1,000 euros"),
    ("5 percent of my pay", "5% of my pay"),
    ("a bill of $3.10", "a bill of $3.1"),
    ("$5m in sales", "5 million dollars in sales"),
    ("1.5k users", "1500 users"),
    ("twenty-five people", "25 people"),
    ("one hundred and five days", "105 days"),
    ("what happened on May 6, 2024", "what happened on 2024-05-06"),
    ("what happened on the 6th of May", "what happened on May 6"),
    ("what happened on 06/05/2024", "what happened on 6 May 2024"),
    ("meet at 5 pm", "meet at 17:00"),
    ("the 2nd chapter", "the second chapter"),
    ("fünfundzwanzig Leute und ich", "25 Leute und ich"),
    ("quatre-vingt-dix euros pour le billet", "90 euros pour le billet"),
    ("treinta y dos personas en la sala", "32 personas en la sala"),
    ("二十五个人", "25个人"),
    ("2024年5月6日的新闻", "2024-05-06的新闻"),
    ("pay with PayPal", "pay with paypal"),
    ("pay with PayPal", "PAY WITH PAYPAL"),
    ("Reset my password", "reset my password"),
    ("Tokyo is where?", "where is Tokyo?"),
    ("WHERE IS MY CARD", "where is my card"),
    ("Where Is My New Card", "where is my new card"),
    ("what's the weather", "what is the weather"),
    ("who was Paul McCartney", "who was paul mccartney"),
    ("Paris's museums", "museums of Paris"),
    ("I can't find my card", "where is my card"),
    ("why hasn't my payment gone through", "why has my payment not gone through"),
    ("the exchange rate is wrong", "the exchange rate isn't right"),
    ("is it open or not", "is it open"),
    ("do you know the way or not", "do you know the way"),
    ("In 1972 the family moved to Camp Hill", "The family moved to Camp Hill in 1972"),
    ("is it a bot or a person", "is it a person or a bot"),
    ("difference between TCP and UDP", "UDP vs TCP differences"),
    ("how do I cancel my order", "cancel my order, please"),
    ("这个好不好吃", "这个好吃吗"),
    ("what does `foo()` do", "what does foo do"),
    ("see https://a.org/x.", "see https://a.org/x"),
    ("Wo ist meine Karte", "wo ist meine karte"),
    ("the wi-fi password", "the WiFi password"),
    ("what is  this new thing made of", "what is this new thing made of"),
    ("Hello.  How does it work", "Hello. How does it work"),
    ("what does it cost\nin Rome", "what does it cost in Rome"),
    ("what’s a “good” price", 'what\'s a "good" price'),
    ("how do I use `foo` in python", "how do I use `foo` in Python"),
    ("how do I use `foo`\r\nin python", "how do I use `foo`\nin python"),
    ("add ½ cup of sugar", "add 1/2 cup of sugar"),
    ("a flat of 50 m²", "a flat of 50 m2"),
    ("WHAT DOES THE US WANT", "what does the us want"),
    ("a file of 5 mb", "a file of 5 MB"),
    ("elle est née le 15 mai 1978", "elle est née le 15 Mai 1978"),
    ("What were the sales on May 6?", "what were the sales on may 6"),
    ("Me and my dog walk", "me and my dog walk"),
    ("５ 個のりんご", "5 個のりんご"),
    ("do not delete the old records", "do NOT delete the old records"),
    ("café prices in town", "cafe\u0301 prices in town"),
]


@pytest.mark.parametrize(
    ("guard", "one", "other"), [(guard, *pair) for guard, pairs in OBJECTED.items() for pair in pairs]
)
def test_a_guard_objects(guard: str, one: str, other: str) -> None:
    found = check(one, other, enabled=frozenset({guard}))
    assert found is not None
    assert found.guard == guard
    assert check(one, other) is not None
    assert check(one, other, enabled=frozenset(GUARDS) - {guard}) != found


@pytest.mark.parametrize(("one", "other"), ACCEPTED)
def test_paraphrases_of_one_question_pass(one: str, other: str) -> None:
    assert check(one, other) is None


def test_no_guard_no_objection() -> None:
    assert check("sort ascending", "sort descending", enabled=frozenset()) is None


@pytest.mark.parametrize(
    "text",
    [
        "yes please",
        "and the second one?",
        "what about tomorrow",
        "continue",
        "why?",
        "the other one",
        "ok",
        "",
        "no thanks",
        "same for Berlin",
        "how about in Rome?",
        "tell me more",
        "go on",
        "more of that",
        "explain that",
        "ja bitte",
        "und morgen?",
        "und das zweite?",
        "weiter",
        "was ist mit Berlin",
        "oui merci",
        "et demain ?",
        "pourquoi ?",
        "le deuxième",
        "sí, por favor",
        "¿y mañana?",
        "el segundo",
        "continúa",
        "e domani?",
        "sì grazie",
        "il secondo",
        "sim, por favor",
        "e amanhã?",
        "continue por favor",
        "ja graag",
        "en morgen?",
        "да, пожалуйста",
        "а завтра?",
        "продолжай",
        "второй",
        "好的",
        "继续",
        "那明天呢",
        "为什么？",
        "第二个呢",
        "はい",
        "続けてください",
        "明日は？",
        "お願いします",
        "네",
        "계속해 주세요",
        "그럼 내일은?",
        "...",
        "?",
    ],
)
def test_follow_ups_mean_nothing_alone(text: str) -> None:
    assert is_elliptical(text)


@pytest.mark.parametrize(
    "text",
    [
        "what is the weather in Rome",
        "who are you",
        "how old are you",
        "what can you do for me",
        "sort ascending",
        "And what is the capital of France and its population?",
        "translate hello",
        "How about disposable virtual cards?",
        "cancel my order",
        "reset password",
        "Licht aus",
        "wie wird das Wetter",
        "quelle heure est-il à Paris",
        "¿qué tiempo hace en Lima?",
        "что такое энтропия",
        "北京的天气怎么样",
        "什么是量子力学",
        "東京の天気を教えて",
        "서울 날씨 알려줘",
        "yes " * 100,
    ],
)
def test_whole_questions_are_no_follow_ups(text: str) -> None:
    assert not is_elliptical(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,000,000", {"1000000"}),
        ("10,00,000", {"1000000"}),
        ("1'000", {"1000"}),
        ("1 000 000 people", {"1000000"}),
        ("3,5 million", {"3500000"}),
        ("2.5 billion", {"2500000000"}),
        ("٥", {"5"}),
        ("5.00", {"5"}),
        ("007", {"007"}),
        ("v2", {"2"}),
        ("at 3:30", {"t3:30", "t15:30"}),
        ("at 12 am", {"t0:00"}),
        ("三千五百", {"3500"}),
        ("一亿二千万", {"120000000"}),
        ("一百零五个", {"105"}),
        ("three million two hundred thousand and five", {"3200005"}),
        ("twelve", {"12"}),
        ("tweeëntwintig mensen in het huis", {"22"}),
        ("ninety nine point", {"99"}),
        ("99/99", {"99/99"}),
        ("1.2.3", {"1.2.3"}),
        ("12,5.5", {"125.5"}),
        ("3d film", set()),
        ("one of them", set()),
        ("第一百万", {"1000000"}),
    ],
)
def test_numbers_are_read(text: str, values: set[str]) -> None:
    found = quantities(read(text))
    assert values == set().union(*(q.values for q in found))


def test_every_guard_has_a_case_here() -> None:
    assert set(OBJECTED) == set(GUARDS)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\tx", "x"),
        ("x = 1", "x = 1 "),
        ("\n\nx = 1", "x = 1"),
        ("x = 1\n", "x = 1"),
        ("print 'a'", "print 'a '"),
        ("`x`", "x"),
        ("int x;", "int x"),
        ("  - item", "- item"),
        ("- a - b", "- a  - b"),
        ("sed s/  / /g", "sed s/ / /g"),
        ("class Foo:\n    pass", "class foo:\n    pass"),
        ("a = [1]\nB", "a = [1]\nb"),
        ("if x:\n    y()", "if x:\n  y()"),
        ("x(1, 2)", "x(1,2)"),
        ("a.b", "a. b"),
        ("f 'a'  'b'", "f 'a' 'b'"),
        ("{x: 1}", "{ x: 1}"),
        ("x\u00a0= 1", "x = 1"),
    ],
)
def test_code_is_answered_by_the_very_same_code_alone(one: str, other: str) -> None:
    for first, second in ((one, other), (other, one)):
        assert check(first, second) is not None
    assert check(one, one.replace("\n", "\r\n")) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I sort a list[int] in Python?", "how do I sort a list[int] in python"),
        ("What does foo() do?", "what does foo() do"),
        ("what does it cost\nin Rome", "what does it cost in Rome"),
        ("Where is Rome?  Show me a map.", "Where is Rome? Show me a map."),
    ],
)
def test_prose_around_code_is_prose(one: str, other: str) -> None:
    assert check(one, other) is None
