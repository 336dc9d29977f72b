"""Closed classes: a text that names one member does not mean another.

A class a paragraph, a member a line or a piece between commas, with its names in several
languages. Words with a second everyday meaning are left out (Turkey, Jordan, Nice, Go, orange).
"""

from __future__ import annotations

__all__ = ["CJK_CLASSES", "CLASSES"]

CLASSES = {
    "weekday": """
        monday mon mondays montag lundi lunes lunedi segunda-feira maandag mandag понедельник pazartesi senin pirmadieni
        tuesday tue tuesdays dienstag mardi martes martedi terca-feira dinsdag tirsdag вторник sali selasa antradieni
        wednesday wed wednesdays mittwoch mercredi miercoles mercoledi quarta-feira woensdag onsdag среду среда carsamba rabu
        thursday thu thursdays donnerstag jeudi jueves giovedi quinta-feira donderdag torsdag четверг persembe kamis
        friday fri fridays freitag vendredi viernes venerdi sexta-feira vrijdag fredag пятницу пятница cuma jumat
        saturday sat saturdays samstag sonnabend samedi sabado sabato zaterdag lordag субботу суббота cumartesi sabtu
        sunday sundays sonntag dimanche domingo domenica zondag sondag воскресенье pazar minggu""",
    "day": """
        today todays today's heute aujourd'hui hoy oggi hoje vandaag idag сегодня bugun siandien danas бүгін
        tomorrow tomorrows tomorrow's demain amanha domani morgen imorgen завтра yarin besok rytoj sutra ертең
        yesterday yesterdays yesterday's gestern hier ayer ieri ontem gisteren igar вчера dun kemarin vakar juce кеше""",
    "time of day": """
        morning matin mattina manha ochtend sabah утром pagi
        noon midday lunchtime mittag mittags mezzogiorno
        afternoon apres-midi pomeriggio middag siang
        evening tonight abend abends soir sera avond вечером aksam sore
        midnight mitternacht minuit medianoche mezzanotte""",
    "meal": """
        breakfast fruhstuck petit-dejeuner desayuno colazione ontbijt завтрак kahvalti sarapan
        lunch mittagessen dejeuner almuerzo pranzo almoco обед
        dinner supper abendessen diner cena jantar avondeten ужин
        brunch""",
    "month": """
        january januar janvier enero gennaio janeiro januari январе января
        february februar fevrier febrero febbraio fevereiro februari феврале февраля
        april avril aprile апреле апреля
        june juni juin junio giugno junho
        july juli juillet julio luglio julho
        august aout agosto augustus
        september septembre septiembre settembre setembro
        october oktober octobre octubre ottobre outubro
        november novembre noviembre novembro
        december dezember decembre diciembre dicembre dezembro""",
    "season": """
        spring fruhling printemps primavera lente voorjaar
        summer sommer ete verano estate verao zomer
        autumn herbst automne otono autunno outono herfst
        winter hiver invierno inverno""",
    "direction": """
        north nord norte noord
        south sud sul zuid
        east osten este leste oost
        west westen ouest oeste""",
    "colour": """
        red rot rouge rojo roja rosso rossa vermelho vermelha rood красный
        blue blau bleu bleue azul blu blauw синий
        green grun grune vert verte verde groen зеленый
        yellow gelb jaune amarillo amarilla giallo gialla amarelo amarela geel желтый
        black schwarz noir noire negro negra nero nera preto preta zwart черный
        white weiss blanc blanche blanco blanca bianco bianca branco branca wit белый
        purple violet lila violett morado viola roxo paars
        pink rosa
        brown braun marron marrone bruin
        grey gray grau gris grigio cinza grijs""",
    "country": """
        france frankreich francia franca frankrijk франция франции
        germany deutschland allemagne alemania germania alemanha duitsland германия германии
        italy italien italie italia italië италия италии
        spain spanien espagne espana spagna espanha spanje испания испании
        portugal
        england
        scotland schottland ecosse escocia scozia
        ireland irland irlande irlanda
        netherlands holland niederlande
        belgium belgien belgique belgica belgio
        switzerland schweiz suisse suiza svizzera suica zwitserland
        austria osterreich autriche oostenrijk
        poland polen pologne polonia
        sweden schweden suede suecia svezia zweden
        norway norwegen norvege noruega norvegia noorwegen
        denmark danemark dinamarca danimarca denemarken
        finland finnland finlande finlandia
        russia russland russie rusia rusland россия россии
        ukraine ucrania
        greece griechenland grece grecia griekenland
        india indien inde
        japan japon giappone japao япония японии
        korea
        vietnam
        thailand
        indonesia
        australia australien australie
        canada kanada
        mexico mexiko mexique messico
        brazil brasil brasilien bresil brasile brazilie
        argentina argentinien argentine
        chile
        peru
        egypt agypten egypte egipto egitto
        nigeria
        kenya
        morocco marokko maroc marruecos
        israel
        iran
        iraq irak
        usa america amerika""",
    "city": """
        london londres londra londen лондон лондоне
        paris parigi parijs париж париже
        berlin berlino
        tokyo tokio
        rome rom roma
        madrid
        barcelona
        lisbon lissabon lisboa
        amsterdam
        brussels brussel bruxelles
        vienna wien vienne viena
        zurich
        geneva genf geneve
        moscow moskau moscou москва москве
        beijing peking pekin pechino
        shanghai
        seoul
        delhi
        mumbai bombay
        dubai
        sydney
        melbourne
        toronto
        montreal
        vancouver
        chicago
        boston
        seattle
        houston
        dallas
        denver
        miami
        atlanta
        philadelphia
        detroit
        austin
        munich munchen monaco
        hamburg
        frankfurt
        milan mailand milano
        venice venedig venezia venise
        naples neapel napoli
        istanbul
        cairo
        athens athen
        dublin
        prague prag praga
        warsaw warschau varsovia
        budapest
        stockholm
        oslo
        copenhagen kopenhagen copenhague
        helsinki
        lagos
        nairobi""",
    "language": """
        english englisch anglais ingles inglese engels английский английском
        german deutsch allemand aleman tedesco alemao duits немецкий немецком
        french franzosisch francais frances francese frans французский
        spanish spanisch espagnol espanol spagnolo espanhol spaans испанский
        italian italienisch italien italiano italiaans
        portuguese portugiesisch portugais portugues portoghese
        dutch niederlandisch neerlandais holandes olandese
        russian russisch russe ruso russo
        chinese chinesisch chinois chino cinese mandarin
        japanese japanisch japonais japones giapponese
        korean koreanisch coreen coreano
        arabic arabisch arabe arabo
        hindi
        latin latein""",
    "currency": """
        dollar dollars usd
        euro euros eur
        pound pounds gbp sterling
        yen jpy
        yuan cny renminbi
        rupee rupees inr
        franc francs chf
        peso pesos
        ruble rubles rouble rub
        bitcoin btc
        ethereum eth""",
    "programming language": """
        python
        java
        javascript js
        typescript ts
        rust
        golang
        ruby
        php
        kotlin
        swift
        scala
        perl
        haskell
        matlab
        sql
        bash
        html
        css""",
    "database": """
        postgres postgresql
        mysql
        sqlite
        mongodb
        redis
        oracle
        cassandra
        elasticsearch""",
    "framework": """
        react
        angular
        vue
        svelte
        django
        flask
        fastapi
        rails
        laravel
        numpy
        pandas
        polars
        pytorch
        tensorflow""",
    "system": """
        windows
        macos osx
        linux ubuntu debian
        android
        ios iphone ipad""",
    "cloud": """
        aws
        azure
        gcp""",
    "format": """
        json
        xml
        csv
        yaml
        pdf
        png
        jpeg jpg
        parquet""",
    "payment": """
        visa
        mastercard
        amex
        paypal
        swift
        sepa""",
    "planet": """
        mercury merkur mercure mercurio
        venus venere
        earth erde
        mars marte
        jupiter giove
        saturn saturne saturno
        uranus urano
        neptune neptun nettuno
        pluto""",
    "period": """
        daily taglich quotidien diario giornaliero dagelijks
        weekly wochentlich hebdomadaire semanal settimanale wekelijks
        monthly monatlich mensuel mensual mensile mensal maandelijks
        yearly annual annually jahrlich annuel anual annuale jaarlijks
        hourly stundlich""",
    "drink or food": """
        coffee kaffee cafe
        tea tee
        beer bier biere cerveza birra cerveja
        wine wein vin vino vinho wijn
        beef rindfleisch boeuf
        pork schweinefleisch porc cerdo maiale
        chicken hahnchen poulet pollo frango""",
    "animal": """
        dog dogs hund chien perro cane
        cat cats katze gato gatto
        horse horses pferd cheval caballo cavallo
        cow cows""",
}

CJK_CLASSES = {
    "weekday": "周一 星期一 礼拜一 月曜 월요일, 周二 星期二 火曜 화요일, 周三 星期三 水曜 수요일, 周四 星期四 木曜 목요일, 周五 星期五 金曜 금요일, 周六 星期六 土曜 토요일, 周日 星期日 星期天 日曜 일요일",
    "day": "今天 今日 오늘, 明天 明日 내일, 后天 明後日 모레, 昨天 昨日 어제, 前天 一昨日",
    "meal": "早餐 早饭 朝食 朝ごはん 아침식사, 午餐 午饭 昼食 昼ごはん 점심, 晚餐 晚饭 夕食 晩ごはん 저녁식사",
    "season": "春天 春季, 夏天 夏季, 秋天 秋季, 冬天 冬季",
    "colour": "红色 赤い, 蓝色 青い, 绿色 緑の, 黄色 黄色い, 黑色 黒い, 白色 白い",
    "country": "中国, 日本, 韩国 韓国, 美国 アメリカ, 英国 イギリス, 法国 フランス, 德国 ドイツ, 意大利 イタリア, 西班牙 スペイン, 俄罗斯 ロシア, 印度 インド, 加拿大 カナダ, 澳大利亚 オーストラリア, 巴西 ブラジル",
    "city": "北京, 上海, 广州, 深圳, 南京, 杭州, 东京 東京, 大阪, 京都, 首尔 ソウル, 巴黎 パリ, 伦敦 ロンドン, 纽约 ニューヨーク, 柏林 ベルリン",
    "language": "中文 汉语 中国語, 英文 英语 英語, 日文 日语 日本語, 法文 法语 フランス語, 德文 德语 ドイツ語, 西班牙语 スペイン語, 韩语 韓国語, 俄语 ロシア語",
    "currency": "美元 ドル, 欧元 ユーロ, 英镑 ポンド, 日元 円, 人民币",
}
