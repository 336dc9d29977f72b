"""Words that carry grammar, by language: they tell languages apart, and content from glue.

A word may stand in several lists. Languages written without spaces are told by their script.
"""

from __future__ import annotations

__all__ = ["FUNCTION_WORDS"]

_TABLE = {
    "en": """
        a about after again all also am an and any are aren't as at be because been before being both but by can
        can't cannot could couldn't did didn't do does doesn't doing don't done each either else even ever every
        for from get gets getting go going gonna got had hadn't has hasn't have haven't having he he's her here
        hers him his how how's however i i'd i'll i'm i've if in into is isn't it it's its itself just kind let
        let's like made make many may me might mine more most much must my myself need of off on only or other
        our ours out over own please quite rather really s shall she she's should shouldn't so some such sure
        than that that's the their theirs them themselves then there there's these they they're this those
        though through thus to too under until up upon us use used using very via want wanna wants was wasn't
        way we we're well were weren't what what's whats when when's where where's whether which while who
        who's whom whose why why's will with within won't would wouldn't yet you you'd you're you've your yours
        dont cant didnt doesnt isnt wont im ive tell know show give thanks thank hey hi hello ok okay no not
        yes thing things something anything been another same""",
    "de": """
        aber alle allem allen aller alles als also am an ander andere anderen auch auf aus bei beim bin bis bist
        bitte da damit dann das dass dein deine dem den denn der des deren dessen die dies diese diesem diesen
        dieser dieses dir dich doch dort du durch ein eine einem einen einer eines er es etwas euch euer fur
        gegen gibt gib haben habe hat hatte hatten hier hin ich ihm ihn ihnen ihr ihre ihrem ihren ihrer im in
        ins ist ja jede jedem jeden jeder jedes jetzt kann kannst konnen konnte konnten mag man mal mehr mein
        meine meinem meinen meiner meines mich mir mit moglich muss musste nach nicht noch nun nur ob oder schon
        sehr sein seine seinem seinen seiner seit sich sie sind so soll sollte sowie um und uns unser unsere
        unter viel vom von vor wann war waren warum was weil wen wem welche welchen welcher welches wenn wer werden wird
        wurde wurden wie wieder will willst wir wo wurde wurden zu zum zur zwischen uber kein keine keinen""",
    "fr": """
        a ai as au aussi autre aux avec avez avoir avons c'est ca car ce cela ces cet cette ceux chez comme
        comment combien d'un d'une dans de des deux donc dont du elle elles en encore est est-ce et etait ete etes
        etre eu faire fait il ils j'ai je l'on la le les leur leurs lui ma mais me meme mes moi mon n'est ne nos
        notre nous on ont ou par pas peu peut peux plus pour pouvez pourquoi qu'est-ce qu'il qu'elle quand que
        quel quelle quelles quels qui quoi s'il sa sans se ses si son sont sous sur ta te tes toi ton tous tout
        toute toutes tres tu un une vers veux vos votre vous y etaient puis ainsi fut""",
    "es": """
        a al algo algun alguna ante antes aqui asi aun aunque cada como con cual cuales cuando cuanto cuantos de
        del desde donde dos e el ella ellas ellos en entre era eran eres es esa ese eso esta estaba estan estar
        estas este esto estos estoy fue fueron ha haber hace hacer hacia han hasta hay he la las le les lo los
        mas me mi mis mucho muy nada ni no nos nosotros o os otra otro para pero por porque puede puedo que quien quienes
        quiero se ser si sin sobre solo son soy su sus tambien te tiene tengo tienen ti todo todos tu tus un una
        unas uno unos usted y ya yo favor""",
    "it": """
        a ad agli ai al alla alle allo anche ancora avere c'e che chi ci cio come con cosa cui d'un da dagli dai
        dal dalla dalle dei del della delle dello dell di do dove due e ed era erano essere fa fare fino fra gli
        ha hai hanno ho i il in io l la le lei li lo loro lui ma me mi mia mie miei mio molto ne negli nei nel
        nella nelle nello noi non nostro o ogni per perche piu poi posso puo qual quale quali quando quanto quel
        quella quelle quelli quello questa queste questi questo qui se sei senza si sia sono sta stato su sua sue
        sugli sui sul sulla suo tra tu tua tuo tutti tutto un una uno vi voglio voi favore""",
    "pt": """
        a ainda algum alguma ao aos as ate com como da das de dela dele deles depois do dos e ela elas ele eles
        em entre era eram essa esse esta estao estar estava este eu fazer foi foram ha isso isto ja la lhe mais
        mas me mesmo meu meus minha minhas muito na nao nas nem no nos nossa nosso num numa o os ou para pela
        pelas pelo pelos por porque posso pode qual quais quando quanto que quem quero se sem ser seu seus so
        sobre sua suas sao tambem te tem tenho ter teu tua tudo um uma umas uns voce voces favor""",
    "nl": """
        aan al alle alleen als andere bij ben bent dan dat de deze die dit doe doen door dus een en er ga gaan
        geen had hadden heb hebben hebt heeft hem het hier hij hoe hoeveel hun iets ik in is ja je jij jou jouw
        jullie kan kunnen kunt maar me meer men met mij mijn moet moeten mogen na naar niet niets nog nu of om
        omdat ons onze ook op over te tegen toch toen tot u uit uw van veel voor waar waarom wanneer waren was
        wat we wel welke werd werden wie wij wil wilt word worden wordt zal ze zich zij zijn zo zonder zou
        alsjeblieft alstublieft graag""",
    "da": """
        af alle alt at blev bliver da de dem den denne der deres det dig din dine disse du efter eller en er et
        fra for gar gor ham han hans har havde hej hende hendes her hun hvad hvem hver hvilken hvis hvor hvordan
        hvorfor i ikke ind jeg jer kan kunne lige man mange med meget men mig min mine mit mod ned noget nogle nar
        nu og ogsa om op os over pa sa selv sig sin skal skulle som til ud under var ved vi vil ville vore vaere
        vaer venlig""",
    "id": """
        ada adalah agar akan aku anda apa apakah atas atau bagaimana bahwa banyak berapa bisa boleh bukan dalam
        dan dapat dari dengan di dia harus hingga ini itu jika juga kalau kami kamu kapan karena ke kepada kita
        lagi lain lebih maka mana masih mau mereka mohon nya oleh pada para punya saat saja sampai sangat saya
        sebagai sebuah sedang sekarang semua seperti siapa sudah telah tentang tersebut tidak tolong untuk yang
        yg""",
    "tr": """
        acaba ama ancak ayrica az bana bazi ben beni benim bir biraz bircok biz bizim bu buna bunu bunun da daha
        de degil diye en gibi hangi hem hep hepsi her hic icin ile ise iki kac kadar ki kim lutfen mi mu mı ne
        neden nasil nerede o olan olarak oldu olur ona onlar onu onun sen seni senin siz sizin su tum var ve veya
        ya yani yok""",
    "lt": """
        ant apie ar as bei bet bus buvo del iki ir is ja jei ji jie jis jo jos jums ka kad kai kaip kam kas kiek
        kodel koks kokia kol kur kuris labai man mane mano mes mums musu ne nera nes noriu nuo o per po prasau
        pries prie sau savo su ta tai taip tau tavo tik to tu turi turiu uz visi visus yra""",
    "sr": """
        a ako ali bi bio bez biti bih da do ga gde i ih ili im iz ja je jos jesam jesu joj juce kad kada kako koja
        koje koji koliko kroz li me mene meni mi moj moja moje moze mogu molim mu na nam nas ne neki nego nije nisam
        o od on ona oni ono ovaj ovo pa po pod pre s sa sam samo se sebe si smo su sta sto sve svi ta taj te ti to
        tu u uz va vam vas vec za zasto zelim zbog""",
    "kk": """
        ал арқылы бар барлық бұл ғана де деп дейін екі ең жоқ және кім керек қалай қандай қанша қашан қайда маған
        мен менің мені не неге немесе ол олар оның осы сен сенің сол туралы үшін ішінде өтінемін емес бір бола
        болады""",
    "ru": """
        а без более бы был была были было быть в вам вас весь во вот все всего всех вы где да даже для до его ее
        если есть еще же за здесь и из или им их к как какая какие какой ко когда кого которая которые который кто
        ли мне меня мной мои мой моя моего мы на над надо нам нас наш не него нее нет ни них но ну о об один он
        она они оно от по под пожалуйста после потом почему при про с сам свой себя сейчас со так также такой там
        то тоже только том тот ты тебя у уже хочу чего чем что чтобы эта эти это этого этом этот я можно могу
        нужно""",
}

#: Language to its words.
FUNCTION_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split()) for language, words in _TABLE.items()
}
