"""Words that make the answer a matter of hours, in all languages of the guards."""

from __future__ import annotations

__all__ = ["TIME_SUBSTRINGS", "TIME_WORDS"]

_WORDS = """
today todays today's tonight now currently current latest newest recent recently nowadays yesterday tomorrow upcoming
breaking news headlines weather forecast traffic
heute jetzt momentan aktuell aktuelle aktueller aktuellen aktuelles derzeit neueste neuesten neuester gestern morgen gerade
nachrichten wetter
aujourd'hui maintenant actuel actuelle actuellement derniere dernieres dernier derniers recent recents hier demain actualites
meteo
hoy ahora actual actualmente ultimo ultima ultimos ultimas reciente recientes ayer manana noticias clima
oggi adesso ora attuale attualmente ultimo ultima ultime ultimi recente recenti ieri domani notizie meteo
hoje agora atual atualmente ultimo ultima ultimos ultimas recente recentes ontem amanha noticias
vandaag nu huidige momenteel laatste nieuwste recente gisteren morgen nieuws weer
idag nu aktuel aktuelle seneste nyeste igar nyheder vejr
сегодня сейчас теперь текущий текущая текущее последние последний последняя новости вчера завтра погода недавно
bugun simdi guncel yarin haberler hava
sekarang terbaru terkini kemarin besok berita cuaca
siandien dabar naujausi vakar rytoj naujienos orai
danas sada trenutno najnovije juce sutra vesti vreme
бүгін қазір ертең кеше жаңалықтар
오늘 지금 현재 최신 최근 어제 내일 뉴스 날씨
"""
#: Whole words, folded.
TIME_WORDS = frozenset(_WORDS.split())

_SUBSTRINGS = """
今天 今日 现在 現在 目前 当前 最新 最近 刚刚 刚才 昨天 昨日 明天 明日 本周 本月 今年 此刻 新闻 天气 今すぐ いま ただいま ニュース 天気
오늘 지금 현재 최신 최근 اليوم الآن حاليا أحدث آخر أمس غدا الأخبار
"""
#: Looked for anywhere, for scripts without spaces and for words with endings.
TIME_SUBSTRINGS = tuple(_SUBSTRINGS.split())
