"""Opposites: an axis a line, its two poles apart by ``|``; all languages together.

A word with a star matches whatever begins so. An axis is named by its first word. Weak axes
are made of words with other uses ("on", "up"): there the neighbour must be the same too.
"""

from __future__ import annotations

__all__ = [
    "CJK_OPPOSITES",
    "CONTRASTS",
    "ENDINGS",
    "NOT_OPPOSITES",
    "PREFIXES",
    "STRONG",
    "SWITCHING",
    "WEAK",
]

STRONG = """
ascending asc ascend* aufsteigend* croissant* ascendente* oplopend* возраста* | descending desc descend* absteigend* decroissant* descendente* aflopend* убыва*
increase* increasing raise* boost* erhoh* steiger* zunehm* augment* aument* vergro* verhoog* увелич* повы* artir* | decrease* decreasing reduc* lower* lessen* senk* verringer* reduzier* vermind* diminu* baisse* disminu* reduz* ridu* verlaag* vermind* уменьш* сниз* сниж* azalt*
enable* enabling activate* activating aktivier* einschalt* activer active activar habilit* attiv* ativ* inschakel* включ* etkinlestir* | disable* disabling deactivate* deactivating deaktivier* ausschalt* desactiv* deshabilit* disattiv* disabilit* desativ* desabilit* uitschakel* выключ* отключ*
open opens opened opening offne* geoffnet ouvr* ouvert* abrir abre* abri abierto* abert* aprir* apri apert* openen открыв* открыт* откро* | close closes closed closing shut schliess* geschlossen fermer ferme ferm* cerrar cierr* cerrad* fechar fech* chiude* chius* sluit* gesloten закрыв* закрыт* закро*
buy buys buying bought purchase* purchasing kauf* kaufen gekauft acheter achet* comprar compr* acquist* kopen koop kocht купи* покупа* | sell sells selling sold verkauf* vendre vend* vender vendi* verkop* verkoop* продать прода*
lock locks locked locking verriegel* sperre* gesperrt verrouill* bloquear bloquer bloque* bloquea* blocc* | unlock* entsperr* entriegel* deverrouill* desbloque* debloqu* sblocc* desbloquear deblokkeer*
deposit* einzahl* depos* ingres* versa* storten | withdraw* abheb* retir* retrait* preleva* saqu* opnemen снять снят*
send sends sending sent senden sende schick* gesendet envoyer envoi* envoye enviar envi* inviar* invia manda* mandar sturen stuur отправ* | receive* receiving received erhalt* empfang* recevoir recoi* recib* ricev* receb* ontvang* получ*
lend lends lending lent verleih* preter | borrow* leih* emprunt*
encode* encoding kodier* encodier* codier* encoder | decode* decoding dekodier* decodier* decoder
encrypt* verschlussel* chiffr* cifrar cifra* encript* | decrypt* entschlussel* dechiffr* descifr* decifr* desencript* decript*
compress* komprimier* | decompress* uncompress* dekomprimier* unzip* entpack*
zip zipping | unzip*
serialize* serialise* serializ* serialisier* | deserialize* deserialise* deserializ* deserialisier*
upload* hochlad* hochgeladen televers* subir cargar carica* | download* herunterlad* heruntergeladen telecharg* descarg* scarica* baixar
import* | export*
install* | uninstall* deinstall* desinstal* disinstall*
subscribe* subscrib* abonnier* | unsubscribe* unsubscrib* cancel* kundig* abbestell*
login logon | logout logoff
connect* verbind* | disconnect* trenn*
attach* | detach*
include* including | exclude* excluding
minimum min minimal* minimiz* minimis* minimo* minimale | maximum max maximal* maximiz* maximis* maximo* massimo* maximale
smallest kleinste* lowest niedrigste* least mindest* cheapest gunstigste* billigste* moins fewest | biggest largest grosste* highest hochste* most greatest teuerste* priciest
cheap cheaper cheapest billig* gunstig* barato* barata* economico* goedkoop* дешев* | expensive dear teuer* cher chere* caro cara costos* duur дорог*
earliest fruheste* | latest spateste*
oldest alteste* | newest neueste* youngest jungste*
best beste* besten meilleur* mejor* miglior* melhor* лучш* | worst schlechteste* schlimmste* pire* peor* peggior* pior* худш*
first erste* premier* primer* primo prima primeir* eerste перв* | last letzte* dernier* ultimo* ultima* laatste последн*
before avant antes prima | after apres despues dopo depois
above oberhalb | below beneath unterhalb
inside within innen innerhalb dentro | outside draussen ausserhalb dehors fuera fuori fora
left links gauche izquierda sinistra esquerda влево лев* | right rechts droite derecha destra direita вправо прав*
north* nord* norte sever* север* | south* sud* sul юг* южн*
east* ost osten est este leste oost восто* | west* westen ouest oeste запад*
start starts started starting begin begins beginning start* beginn* commenc* empez* comenz* iniciar inizia* comec* начать начал* начин* | stop stops stopped stopping end ends ending finish* beende* anhalt* arret* termin* parar deten* ferma* прекрат* останов* законч*
push pushes pushed pushing | pull pulls pulled pulling pop
append* | prepend*
add adds added adding hinzufug* ajout* agreg* anad* aggiung* adicion* toevoeg* добав* | remove* removing delet* entfern* losch* supprim* elimin* quitar rimuov* cancella* remov* verwijder* удал* subtract*
accept* annehm* akzeptier* acept* accett* aceit* прин* | reject* refuse* refusing decline* declining ablehn* rechaz* rifiut* recus* отклон*
allow* erlaub* permit* autoris* | deny denies denied forbid* prohibit* verbiet* verbot* interdi* prohib* block*
approve* genehmig* | disapprove* reject*
win wins winning won gewinn* gagn* ganar vincer* | lose loses losing lost verlier* perd*
profit* gewinne | loss losses verlust*
credit | debit
income einkommen* einnahm* ingresos | expense* spending ausgabe* gastos
public* offentlich* | private* privat*
positive positiv* | negative negativ*
true wahr vrai* verdadero vero | false falsch faux fausse falso
even | odd
hot hotter hottest heiss* chaud* caliente* | cold colder coldest kalt* froid* frio*
warm warmer | cool cooler
long longer longest lang langer | short shorter shortest kurz*
fast faster fastest quick* schnell* rapid* | slow* langsam* lent*
heavy heavier heaviest | light lighter lightest
high higher hoch hoher | low lower niedrig*
large larger big bigger gross* | small smaller little klein*
more mehr plus mas | less fewer weniger moins menos
old older alt | new newer neu neue*
young younger | old older
rich | poor
full voll* | empty leer*
early earlier fruh* | late later spat*
arrive* arriving arrival* ankunft* ankomm* arrivee* llegada* arriv* | depart* departure* departing abfahrt* abflug* abfahr* salida* partenz* leav*
join joins joined joining beitret* | leave leaves leaving left verlass*
show shows showing display* zeig* anzeig* montrer affich* mostrar muestr* mostra* toon показ* | hide hides hiding hidden versteck* ausblend* cacher masqu* ocult* nascond* verberg* скры*
expand* ausklapp* | collapse* einklapp*
mute muting stumm* | unmute*
follow follows following | unfollow*
pin pinning pinned | unpin*
check checked | uncheck*
select selected | deselect* unselect*
freeze freezing frozen | unfreeze* unfrozen thaw*
block blocked blocking | unblock*
sync synchronous* | async asynchronous*
input* eingab* entree | output* ausgab* sortie
source | destination target
sender* absender* | recipient* receiver* empfanger*
buyer* kaufer* | seller* verkaufer*
employer* | employee*
parent parents | child children
husband* ehemann | wife wives ehefrau
mother* mutter mere madre mae | father* vater pere padre pai
son sons sohn | daughter* tochter
brother* bruder | sister* schwester*
king kings konig | queen* konigin
male males mannlich* man men | female* weiblich* woman women
morning morgens | evening abends
day tag | night nacht
vormittag* | nachmittag*
weekday weekdays werktag* | weekend weekends wochenende*
summer sommer* ete verano estate verao zomer лето летом | winter* hiver invierno inverno зима зимой
indoor indoors | outdoor outdoors
asc | desc
ingoing incoming inbound eingehend* | outgoing outbound ausgehend*
internal* intern* | external* extern*
advantage* pro pros vorteil* avantage* ventaja* vantaggi* | disadvantage* con cons nachteil* inconvenient* desventaja* svantaggi*
benefit* | risk risks drawback*
legal* | illegal*
possible | impossible
safe safely | unsafe dangerous*
healthy | unhealthy
success* succeed* erfolg* | fail fails failed failing failure* fehlgeschlagen
love loves loved liebe* | hate hates hated hasse*
like | dislike*
agree* zustimm* | disagree*
appear* erschein* | disappear* verschwind*
create* creating erstell* creer cree crear crea* criar | delete* deleting destroy* losch* supprim* elimin* borrar
save saves saving speicher* | discard* verwerf*
read reads reading lesen lese lire leer leggere ler | write writes writing written schreib* ecrire escrib* scriv* escrev*
gain gains gaining | lose loses losing lost
pass passes passed passing | fail fails failed failing
lossy | lossless
mutable | immutable
static | dynamic
client clients | server servers
horizontal* | vertical* vertikal*
row rows zeile* | column columns spalte*
prefix | suffix
singular | plural
numerator | denominator
multiply multiplication | divide division
sunrise* sonnenaufgang* | sunset* sonnenuntergang*
set sets setting schedule* reserve* | cancel* remov* delet* unset
inner | outer
upper | lower
absolute | relative
major | minor
grant* | revoke*
floor | ceil ceiling
forward* | backward* reverse*
concave | convex
inc | dec
signed | unsigned
able | unable
once einmal eenmaal однажды | twice zweimal tweemaal дважды | thrice dreimal driemaal трижды
half halve* halving halb* moitie mitad helft polovin* | double doubl* twofold doppel* verdoppel* doble* duplic* doppi* dobr* dubbel* удво* | triple tripl* threefold dreifach* verdreifach* | quadruple* fourfold vierfach*
single singles bachelor* unmarried ledig* solter* celibataire* | couple couples married marri* verheiratet* pareja* casad*
single singles einzel* | double doppel* doble* | triple
always immer toujours siempre sempre altijd всегда usually often frequently meist* oft haufig souvent menudo frecuen* spesso vaak часто | sometimes occasionally manchmal gelegentlich parfois veces talvolta soms иногда | rarely seldom selten rarement raramente rara zelden редко | never nie niemals jamais nunca jamas nooit никогда
weekly wochentlich | biweekly fortnightly
monthly monatlich | bimonthly
differ differs differen* unterschied* diferen* differenz* diverso verschil* verschieden* разниц* различ* | similar* alike same identical ahnlich* gemeinsamkeit* identisch* semejan* parecid* ressembl* similit* simil* somiglian* uguale semelhan* overeenkomst* сход* похож*
strength* strong stronger strongest stark starke* forte fort forts forza fuerte* fuerza* sterk* силь* | weak* schwach* faible* debil* debol* fraco fraca zwak* слаб*
causes ursache* causa causas causes oorzaak причин* | effect effects consequence* outcome* auswirkung* folge folgen wirkung* efecto* consecuen* effet* effett* consegu* efeito* gevolg* последств*
good gut gute* buen* bon bonne buono buona bom boa goed* хорош* | bad schlecht* malo mala mauvais* cattiv* mau slecht* плох*
better besser mieux migliore | worse schlechter schlimmer pire peor peggiore
easy easier easiest einfach* leicht* facile* facil* makkelijk* легк* | hard harder hardest difficult* schwer* schwierig* difficile* dificil* moeilijk* трудн*
beginner* novice* newbie* anfanger* debutant* principiant* principiante* | expert* advanced professional* experte* fortgeschritten* avanzad* avance*
boy boys junge jungen garcon* nino ninos ragazzo ragazzi jongen* | girl girls madchen fille filles nina ninas ragazza ragazze meisje*
uncle* onkel | aunt* tante*
nephew* neffe* | niece* nichte*
grandfather* grandpa grossvater abuelo* | grandmother* grandma grossmutter abuela*
boyfriend* | girlfriend*
groom | bride*
widow widows | widower*
actor actors schauspieler | actress* schauspielerin*
adult* grown-up* erwachsen* adulte* adulto* | child children kid kids minor minors kinder enfant* nino ninos
teacher* lehrer* profesor* professeur* | student* pupil* schuler* alumno* eleve*
doctor* arzt medico* medecin* | patient patients patienten paciente*
landlord* vermieter* | tenant* mieter* renter*
lender* creditor* glaubiger* | borrower* debtor* schuldner*
guest* gast gaste | host hosts gastgeber*
winner* gewinner* sieger* ganador* gagnant* | loser* verlierer* perdedor* perdant*
wins victory victories sieg siege victoria* victoire* vittori* | losses defeats niederlage* derrota* defaite* sconfitt*
leader* | follower*
predator* | prey
predecessor* vorganger* | successor* nachfolger*
ancestor* vorfahr* | descendant* nachfahr* nachkomme*
hero heroes | villain*
friend friends freund* amig* ami amis | enem* feind* enemig* ennemi*
ally allies | opponent* rival*
vegetarian* herbivor* vegan* | carnivor* meat-eater*
optimis* | pessimis*
bullish | bearish
asset assets | liabilit*
surplus* | deficit* shortage*
supply angebot | demand nachfrage
wet nass* mojad* mouille* bagnat* | dry trocken* seco seca seche* asciutt*
ancient antik* | modern*
theory theoretical theorie* teoria* | practice practical praxis practica*
tighten* tight anzieh* | loosen* loose
thicken* thick thicker dick dicke* epais* grues* | thin thinner thinn* dunn* mince
widen* wide wider breit* | narrow* schmal*
lengthen* verlanger* alarg* | shorten* verkurz* acort*
strengthen* | weaken*
deep deeper tief* profond* profund* | shallow* flach*
tall taller tallest | short shorter shortest
near nearby nearest closest nah nahe | far farther farthest furthest fern weit
rising rise rises steigen steigt | falling fall falls fallen fallt
float floats floating | sink sinks sinking
melt melts melting | freeze freezes freezing
remember* merken erinner* recordar recuerd* | forget* vergess* vergiss* olvid* oubli*
loud louder loudest noisy laut* ruido* bruyant* | quiet quieter silent leise* ruhig* silencios* tranquil*
praise* lob loben | criticise* criticize* criticism* kritisier*
calm | rough stormy
smooth* glatt* | rough*
sharp scharf* | blunt dull stumpf*
raw roh rohe cru crudo | cooked gekocht* cuit* cocido*
fresh frisch* | stale rotten
clean* sauber* limpi* propre* pulit* | dirty schmutzig* sucio sucia sporc*
bright helle* | dark dunkel*
light helle* | dark dunkel*
alive lebendig* | dead tot tote*
born birth* geboren* geburt* nacid* nacimient* naissance* | died death* gestorben* tod muert* mort morte deces
marry marries marriage* heirat* | divorce* scheid*
hire hires hired hiring einstell* | fire fires fired firing dismiss* entlass*
build builds built building | demolish* destroy* abreiss*
attract* | repel*
attack* angriff* angreif* ataque* attaqu* | defend* defense* defence* verteidig* defens*
laugh* | cry cries crying
asleep sleep sleeping | awake wake waking
throw throws | catch catches
guilty schuldig* culpable | innocent unschuldig* inocente
victim* opfer | perpetrator* tater
war krieg guerre guerra | peace frieden paix paz pace
rich wealth* reich* rico ricos riche* | poor poverty arme* pobre* pauvre*
urban stadtisch* | rural landlich*
online | offline in-store
permanent* | temporar* vorubergehend*
mandatory required obligatory pflicht* obligatori* obligatoire* | optional* freiwillig* opcional* facultatif*
manual manually manuell* | automatic* automated automatically automatisch*
real genuine authentic echt* | fake counterfeit forged gefalscht*
natural naturlich* | artificial synthetic kunstlich*
previous vorherig* anterior precedent* | next nachste* siguiente* prochain* suivant*
past vergangenheit pasado passe | future zukunft futur*
former | latter
enter enters entering entrance* eingang* entrad* | exit exits exiting ausgang*
clockwise | counterclockwise anticlockwise
fixed | variable floating
gross brutto bruto | net netto neto
active | passive
vowel* vokal* | consonant* konsonant*
masculine maskulin* | feminine feminin*
synonym* | antonym*
majority mehrheit* mayoria majorite | minority minderheit* minoria minorite
odds | evens
frontend front-end | backend back-end
landscape querformat* | portrait hochformat*
appreciat* | depreciat*
"""

WEAK = """
on an ein einzuschalten encendid* allum* acceso aan вкл acik | off aus ab ausgeschaltet apagad* eteint* eteind* spento uit выкл kapali
in into | out
up hoch rauf | down runter
up | out
to | from
nach zu zum zur | von vom aus
a al vers | de du del depuis desde
para | de do da
naar | van
в к на | из от с
with mit avec con com met | without ohne sans sin senza sem zonder
over | under
give gives gave giving | take takes took taking
come comes coming | go goes going
vor | nach
voor | na
uber | unter
ahead | behind
top | bottom
front | back
right | wrong
all every alle jede jeder jedes todos todas tous toutes tutti tutte | some einige manche algunos algunas certains certaines alcuni alcune | none keiner ninguno aucun aucune nessuno
cause | effect effects
both beide beiden ambos ambas deux | either one | neither
everybody everyone anybody anyone | nobody no-one noone
everything anything | nothing
everywhere anywhere | nowhere
"""

#: Chinese, Japanese, Korean: looked for anywhere in the text, the longest first.
CJK_OPPOSITES = """
升序 昇順 오름차순 | 降序 降順 내림차순
增加 提高 上升 增やす 上げる 上げて 增大 增长 늘리 | 减少 降低 下降 減らす 下げる 下げて 減少 줄이
打开 开启 启用 开放 オン 有効 つける つけて 点ける 開く 開けて 켜 활성화 | 关闭 关掉 禁用 关上 オフ 無効 消す 消して 閉じる 閉めて 꺼 끄 비활성화
购买 买入 买 購入 買う 買い 사고 구매 | 出售 卖出 卖 売却 売る 売り 판매 팔
上传 アップロード 업로드 | 下载 ダウンロード 다운로드
加密 暗号化 | 解密 復号
编码 エンコード | 解码 デコード
压缩 圧縮 | 解压 解凍
安装 インストール 설치 | 卸载 アンインストール 삭제
最大 最高 最多 最长 最远 최대 최고 | 最小 最低 最少 最短 最近 최소 최저
最早 | 最晚
第一 最初 最先 처음 첫 | 最后 最後 마지막
之前 以前 の前 前に 전에 | 之后 以后 の後 後に 후에
上面 上方 上に | 下面 下方 下に
左 왼쪽 | 右 오른쪽
发送 寄出 送る 送信 보내 | 接收 收到 受け取 受信 받
存款 存入 存钱 入金 預け 입금 | 取款 取出 取钱 出金 引き出 출금
借出 貸す 빌려주 | 借入 借りる
添加 加入 增添 追加 추가 | 删除 移除 去掉 削除 제거
开始 開始 시작 | 停止 结束 終了 やめ 종료
允许 許可 허용 | 禁止 不许 금지
到达 到着 도착 | 出发 離陸 出発 출발
显示 表示 보여 표시 | 隐藏 非表示 숨기
接受 承認 수락 | 拒绝 拒否 거절
锁定 上锁 ロック | 解锁 アンロック
登录 ログイン 로그인 | 登出 退出登录 ログアウト 로그아웃
优点 好处 長所 メリット 장점 | 缺点 坏处 短所 デメリット 단점
便宜 安い 싼 | 昂贵 贵 高い 비싼
白天 昼 낮 | 晚上 夜 밤
早上 上午 午前 朝 아침 오전 | 下午 晚上 午後 夕方 夜 저녁 오후
父亲 爸爸 父 아버지 | 母亲 妈妈 母 어머니
丈夫 夫 남편 | 妻子 妻 아내
输入 入力 입력 | 输出 出力 출력
收入 | 支出
北 | 南
东 東 | 西
公开 公共 | 私有 私人
"""

#: What turns a word into its opposite.
PREFIXES = ("un", "dis", "non", "in", "im", "ir", "mis", "de", "des", "anti")

#: Beginnings of two words that are opposites if the rest is the same: hypotension, hypertension.
CONTRASTS = (
    ("hyper", "hypo"), ("endo", "exo"), ("macro", "micro"), ("maxi", "mini"), ("pre", "post"), ("ante", "post"),
    ("over", "under"), ("up", "down"), ("upper", "lower"), ("inter", "intra"), ("intro", "extro"),
    ("intra", "extra"), ("mono", "poly"), ("uni", "multi"), ("uni", "bi"), ("sub", "super"), ("infra", "ultra"),
    ("anti", "pro"), ("in", "de"), ("in", "ex"), ("im", "ex"), ("en", "de"), ("at", "de"), ("for", "back"),
    ("homo", "hetero"), ("sym", "asym"), ("synchron", "asynchron"), ("inner", "outer"), ("sin", "plu"),
)  # fmt: skip
#: The same of ends: argmax, argmin.
ENDINGS = (
    ("max", "min"), ("left", "right"), ("in", "out"), ("on", "off"), ("up", "down"), ("first", "last"),
    ("asc", "desc"), ("before", "after"),
)  # fmt: skip
#: Verbs that say nothing without their particle: "turn the light off", "turn off the light".
SWITCHING = frozenset({
    *("turn", "turns", "turned", "turning", "switch", "switched", "switching", "shut", "put", "power", "powered"),
    *("schalte", "schalten", "mach", "mache", "machen", "dreh", "drehe", "drehen", "zet", "doe", "sla"),
})  # fmt: skip

_NOT_OPPOSITES = """
cover count play charge miss pose tribute patch appear side come form tend deed land sure vest voice stall stance press
port prove part pact posit sign scribe fine pend mand lay liver cline rive fault gree grade light note sire tail take lead
"""
#: Words that with such a prefix are another word, not their opposite ("discover", "income").
NOT_OPPOSITES = frozenset(_NOT_OPPOSITES.split())
