"""Numbers and units in words.

One is left out everywhere: as a word it is an article or a pronoun more often than a number.
So are words that mean something else more often ("second" of time, French "neuf", new).
"""

from __future__ import annotations

__all__ = [
    "CJK_DIGITS",
    "CJK_TENS",
    "MONTHS",
    "NUMBER_WORDS",
    "ORDINAL_ENDINGS",
    "ORDINAL_WORDS",
    "SCALES",
    "UNITS",
]


def _words(table: str) -> dict[str, int]:
    return {
        word: int(value) for value, *words in map(str.split, table.strip().splitlines()) for word in words
    }


#: Language to {word: value}.
NUMBER_WORDS: dict[str, dict[str, int]] = {
    "en": _words("""
        0 zero
        2 two
        3 three
        4 four
        5 five
        6 six
        7 seven
        8 eight
        9 nine
        10 ten
        11 eleven
        12 twelve dozen
        13 thirteen
        14 fourteen
        15 fifteen
        16 sixteen
        17 seventeen
        18 eighteen
        19 nineteen
        20 twenty
        30 thirty
        40 forty fourty
        50 fifty
        60 sixty
        70 seventy
        80 eighty
        90 ninety"""),
    "de": _words("""
        0 null
        2 zwei zwo
        3 drei
        4 vier
        5 funf fuenf
        6 sechs
        7 sieben
        8 acht
        9 neun
        10 zehn
        11 elf
        12 zwolf zwoelf dutzend
        13 dreizehn
        14 vierzehn
        15 funfzehn fuenfzehn
        16 sechzehn
        17 siebzehn
        18 achtzehn
        19 neunzehn
        20 zwanzig
        30 dreissig
        40 vierzig
        50 funfzig fuenfzig
        60 sechzig
        70 siebzig
        80 achtzig
        90 neunzig"""),
    "fr": _words("""
        0 zero
        2 deux
        3 trois
        4 quatre
        5 cinq
        6 six
        7 sept
        8 huit
        10 dix
        11 onze
        12 douze douzaine
        13 treize
        14 quatorze
        15 quinze quinzaine
        16 seize
        20 vingt vingts vingtaine
        30 trente
        40 quarante
        50 cinquante
        60 soixante
        70 septante
        80 huitante octante
        90 nonante"""),
    "es": _words("""
        0 cero
        2 dos
        3 tres
        4 cuatro
        5 cinco
        6 seis
        7 siete
        8 ocho
        9 nueve
        10 diez
        11 once
        12 doce docena
        13 trece
        14 catorce
        15 quince
        16 dieciseis
        17 diecisiete
        18 dieciocho
        19 diecinueve
        20 veinte
        21 veintiun veintiuno
        22 veintidos
        23 veintitres
        24 veinticuatro
        25 veinticinco
        30 treinta
        40 cuarenta
        50 cincuenta
        60 sesenta
        70 setenta
        80 ochenta
        90 noventa
        200 doscientos doscientas
        300 trescientos trescientas
        500 quinientos quinientas"""),
    "it": _words("""
        0 zero
        2 due
        3 tre
        4 quattro
        5 cinque
        7 sette
        8 otto
        9 nove
        10 dieci
        11 undici
        12 dodici dozzina
        13 tredici
        14 quattordici
        15 quindici
        16 sedici
        17 diciassette
        18 diciotto
        19 diciannove
        20 venti
        30 trenta
        40 quaranta
        50 cinquanta
        60 sessanta
        70 settanta
        80 ottanta
        90 novanta"""),
    "pt": _words("""
        0 zero
        2 dois duas
        3 tres
        4 quatro
        5 cinco
        6 seis
        7 sete
        8 oito
        9 nove
        10 dez
        11 onze
        12 doze duzia
        13 treze
        14 catorze quatorze
        15 quinze
        16 dezesseis dezasseis
        17 dezessete dezassete
        18 dezoito
        19 dezenove dezanove
        20 vinte
        30 trinta
        40 quarenta
        50 cinquenta
        60 sessenta
        70 setenta
        80 oitenta
        90 noventa
        200 duzentos duzentas
        500 quinhentos quinhentas"""),
    "nl": _words("""
        0 nul
        2 twee
        3 drie
        4 vier
        5 vijf
        6 zes
        7 zeven
        8 acht
        9 negen
        10 tien
        11 elf
        12 twaalf dozijn
        13 dertien
        14 veertien
        15 vijftien
        16 zestien
        17 zeventien
        18 achttien
        19 negentien
        20 twintig
        30 dertig
        40 veertig
        50 vijftig
        60 zestig
        70 zeventig
        80 tachtig
        90 negentig"""),
    "da": _words("""
        0 nul
        2 to
        3 tre
        4 fire
        5 fem
        6 seks
        7 syv
        8 otte
        9 ni
        10 ti
        11 elleve
        12 tolv dusin
        13 tretten
        14 fjorten
        15 femten
        16 seksten
        17 sytten
        18 atten
        19 nitten
        20 tyve
        30 tredive
        40 fyrre
        50 halvtreds
        60 tres
        70 halvfjerds
        80 firs
        90 halvfems"""),
    "ru": _words("""
        0 ноль нуль
        2 два две двух двумя
        3 три трех тремя
        4 четыре четырех
        5 пять пяти
        6 шесть шести
        7 семь семи
        8 восемь восьми
        9 девять девяти
        10 десять десяти
        11 одиннадцать
        12 двенадцать
        13 тринадцать
        14 четырнадцать
        15 пятнадцать
        16 шестнадцать
        17 семнадцать
        18 восемнадцать
        19 девятнадцать
        20 двадцать двадцати
        30 тридцать тридцати
        40 сорок сорока
        50 пятьдесят пятидесяти
        60 шестьдесят
        70 семьдесят
        80 восемьдесят
        90 девяносто
        200 двести
        300 триста
        400 четыреста
        500 пятьсот"""),
    "id": _words("""
        0 nol
        2 dua
        3 tiga
        4 empat
        5 lima
        6 enam
        7 tujuh
        8 delapan
        9 sembilan
        10 sepuluh
        11 sebelas"""),
    "tr": _words("""
        0 sifir
        2 iki
        3 uc
        4 dort
        5 bes
        6 alti
        7 yedi
        8 sekiz
        9 dokuz
        10 on
        20 yirmi
        30 otuz
        40 kirk
        50 elli
        60 altmis
        70 yetmis
        80 seksen
        90 doksan"""),
    "lt": _words("""
        2 du dvi dviem
        3 trys tris trims
        4 keturi keturis keturias keturiom
        5 penki penkis penkias penkiom penkioms
        6 sesi sesis sesias
        7 septyni septynis septynias
        8 astuoni astuonis astuonias
        9 devyni devynis devynias
        10 desimt
        15 penkiolika
        20 dvidesimt
        30 trisdesimt"""),
    "sr": _words("""
        2 dva dve
        3 tri
        4 cetiri
        5 pet
        6 sest
        7 sedam
        8 osam
        9 devet
        10 deset
        11 jedanaest
        12 dvanaest
        15 petnaest
        20 dvadeset
        30 trideset"""),
    "ko": _words("""
        2 두
        3 세
        4 네
        5 다섯
        6 여섯
        7 일곱
        8 여덟
        9 아홉
        10 열
        20 스무"""),
    "kk": _words("""
        2 екі
        3 үш
        4 төрт
        5 бес
        6 алты
        7 жеті
        8 сегіз
        9 тоғыз
        10 он
        20 жиырма
        30 отыз"""),
}

#: Words that multiply what stands before them, in all languages.
SCALES: dict[str, int] = _words("""
    100 hundred hundreds hundert cien ciento honderd hundrede
    1000 k thousand thousands tausend mille duizend тысяча тысячи тысяч тыс
    1000000 million millions mln millionen millon millones milione milioni milhao milhoes miljoen миллион миллиона миллионов
    1000000000 billion billions bn milliarde milliarden milliard milliards miliardo miliardi миллиард миллиардов""")

#: Those that are another word elsewhere.
SCALES_OF: dict[str, dict[str, int]] = {
    "fr": {"cent": 100, "cents": 100},
    "es": {"mil": 1_000},
    "pt": {"cem": 100, "cento": 100, "mil": 1_000},
    "it": {"cento": 100, "mila": 1_000},
    "de": {"mio": 1_000_000},
    "da": {"tusind": 1_000},
    "ru": {"сто": 100},
    "sr": {"sto": 100},
    "tr": {"yuz": 100, "bin": 1_000},
    "id": {"ratus": 100, "seratus": 100, "ribu": 1_000, "seribu": 1_000},
}

#: Words that say which half of the day an hour is of.
DAY_HALVES: dict[str, tuple[str, ...]] = {
    "a": tuple(
        "morning morgens fruh vormittags matin manana mattina manha ochtend ochtends morgenen утра утром pagi sabah 上午 早上 午前 朝 오전 아침".split()
    ),
    "p": tuple(
        "afternoon evening tonight night nachmittag nachmittags abend abends apres-midi soir tarde noche pomeriggio sera noite middag avond avonds vanavond aften вечера вечером дня siang sore malam aksam 下午 晚上 午後 夜 夕方 오후 저녁 밤".split()
    ),
}

#: Ordinals in words. "Second" is an ordinal only after an article (see numbers.py).
ORDINAL_WORDS: dict[str, int] = _words("""
    1 first premier premiere primero primera primo prima primeiro primeira eerste первый 첫
    2 deuxieme segundo segunda secondo seconda tweede второй вторая вторую 두번째
    3 third troisieme tercero tercera tercer terzo terza terceiro terceira derde 세번째
    4 fourth quatrieme cuarto quarto vierde
    5 fifth cinquieme quinto quinta vijfde
    6 sixth sixieme sexto sesto zesde
    7 seventh septieme septimo settimo zevende
    8 eighth huitieme octavo ottavo achtste
    9 ninth neuvieme noveno nono negende
    10 tenth dixieme decimo tiende
    11 eleventh onzieme
    12 twelfth douzieme
    13 thirteenth
    14 fourteenth
    15 fifteenth
    20 twentieth vingtieme
    30 thirtieth""") | {
    stem + ending: number
    for number, stem in enumerate(
        "erst zweit dritt viert funft sechst siebt acht neunt zehnt elft zwolft".split(), 1
    )
    for ending in ("e", "en", "er", "es", "em")
}

#: What makes an ordinal of digits: "1st", "2º", "3-й".
ORDINAL_ENDINGS = frozenset(
    "st nd rd th er ere e eme o a de ste do ro ra to ta vo va no na mo ma й го я ый ая".split()
)

#: Months in words. "May" and "march" count only beside a number; "mar", "set" and the like are left out.
MONTHS: dict[str, int] = _words("""
    1 january jan januar janvier enero gennaio janeiro januari января январе
    2 february feb februar fevrier febrero febbraio fevereiro februari февраля феврале
    3 march marz maerz mars marzo marco maart марта марте
    4 april apr avril abril aprile апреля апреле
    5 may mai mayo maggio maio mei мая мае
    6 june jun juni juin junio giugno junho июня июне
    7 july jul juli juillet julio luglio julho июля июле
    8 august aug aout agosto augustus августа августе
    9 september sept sep septembre septiembre settembre setembro сентября сентябре
    10 october oct oktober octobre octubre ottobre outubro октября октябре
    11 november nov novembre noviembre novembro ноября ноябре
    12 december dec dezember dez decembre diciembre dicembre dezembro декабря декабре""")

#: Unit word to the unit it stands for. Only what may stand right after a number.
UNITS: dict[str, str] = {
    word: unit
    for unit, *words in map(
        str.split,
        """
        % percent pct prozent pourcent procent percento porcento процент процента процентов yuzde persen パーセント
        usd $ us$ dollar dollars dolar dolares dollari bucks доллар доллара долларов 美元 ドル 달러
        eur € euro euros евро 欧元 ユーロ 유로
        gbp £ pound pounds pfund quid фунт фунта фунтов 英镑 ポンド
        jpy ¥ yen yens 日元 円 엔
        cny yuan rmb 元 块 人民币
        inr ₹ rupee rupees
        rub ₽ рубль рубля рублей
        chf franken
        btc bitcoin bitcoins
        second s sec secs seconds sekunde sekunden seconde secondes segundo segundos secondi secondo секунд секунды 秒
        minute min mins minutes minuten minuto minutos minuti минут минуты minuut minutter minuta 分钟 分 분 menit dakika
        hour h hr hrs hours stunde stunden heure heures hora horas ora ore uur uren часов часа час 小时 時間 시간 timer jam
        day days tag tage tagen jour jours dia dias giorno giorni dag dagen dage день дня дней 天 日間 日 일 hari gun
        week weeks woche wochen semaine semaines semana semanas settimana settimane weken uge uger неделя недели недель 周 週間
        month months monat monate monaten mois mes meses mese mesi maand maanden месяц месяца месяцев 个月 ヶ月 개월 bulan
        year years yr yrs jahr jahre jahren an ans annee annees ano anos anni anno jaar год года лет 年 년 tahun yil
        am uhr-am a.m
        pm p.m
        mm millimeter millimetre millimeters millimetres
        cm centimeter centimetre centimeters centimetres zentimeter
        m meter metre meters metres metro metros metri метр метра метров 米 メートル 미터
        km kilometer kilometre kilometers kilometres kilometros chilometri км 公里 キロ 킬로미터
        mile miles meile meilen mi milla millas 英里 マイル
        ft foot feet fuss
        inch inches zoll pulgadas
        mg milligram milligrams milligramm
        g gram grams gramm grammes gramos grammi gramas 克 グラム 그램
        kg kilo kilos kilogram kilograms kilogramm кг 公斤 千克 キログラム
        lb lbs
        oz ounce ounces
        ml milliliter millilitre milliliters
        l liter litre liters litres litros litri литр литра литров 升 リットル
        gallon gallons
        cup cups
        tablespoon tablespoons tbsp
        teaspoon teaspoons tsp
        b byte bytes
        kb kilobyte kilobytes kib
        mb megabyte megabytes mib
        gb gigabyte gigabytes gib
        tb terabyte terabytes tib
        bit bits
        ms millisecond milliseconds
        hz hertz
        c celsius °c ℃ 摄氏度
        f fahrenheit °f ℉ 华氏度
        degree degrees grad degres grados gradi graus ° 度
        w watt watts
        kw kilowatt kilowatts
        mph
        kmh km/h kph
        """.strip().splitlines(),
    )
    for word in (unit, *words)
}

CJK_DIGITS: dict[str, int] = {c: i for i, c in enumerate("〇一二三四五六七八九")} | {
    "零": 0,
    "两": 2,
    "兩": 2,
}
CJK_TENS: dict[str, int] = {
    "十": 10,
    "百": 100,
    "千": 1_000,
    "万": 10_000,
    "萬": 10_000,
    "亿": 10**8,
    "億": 10**8,
}
