"""The names that columns have in files, in many languages: one table, read without accents, case, marks and units."""

import re
import unicodedata
from functools import lru_cache

from kronos.data.bars import PRICES, SPELLINGS

# Names beside those of bars.SPELLINGS, the preferred ones first. Accents, case and marks do not matter.
_NAMES = {
    "instrument": """
        sym securitiescode instrumentname instname symbolname symroot
        windcode sinfowindcode orderbookid secucode securitycode stkcd symbolcode tckrsymb tickersymbol tic
        ric fundcode indexcode bondcode stockid secid instrumentid instid contract assetid asset pair
        product underlying security scrip scripcode sccode epic 合约代码 交易代码 基金代码 指数代码 标的代码
        证券编码 股票编码 品种代码 合约 品种 标的 證券代號 證券代碼 股票代號 股票代碼 銘柄コード コード
        종목코드 permno gvkey isin figi cusip name stockname secname securityname 股票名称 证券名称 证券简称
        股票简称 简称 名称 證券名稱 código codigo ativo papel тикер 종목명 銘柄 銘柄名
    """,
    "datetime": """
        datetimeutc datetimelocal gmttime utctime localtime opentime starttime begintime bartime candletime
        candlebegintime tradetime windowstart tsevent timeopen startat eob bob bartimestamp openat 交易时间
        时间戳 日期时间 日時 ts kltime
    """,
    "date": """
        tag dia día jour giorno dag 日
        tradingday tradingdate datadate trddt tradedt traddt caldt tradedate bizdt quotedate pricedate
        dates date1 dtyyyymmdd dlycaldt 交易日 日期日 年月日 交易日期年月日 日付 日付け 일자 날짜 datum
        fecha data дата tarih tanggal ngày dato datumtijd päivämäärä dátum ημερομηνία תאריך วันที่
        วันเดือนปี التاريخ تاريخ तारीख
    """,
    "time": """
        t timem timems hour hr timeofday время heure uhrzeit hora zeit час tijd tid saat godzina
        czas waktu 时刻 時間 时间 시간 เวลา الوقت 時刻 시각 ora klokkeslæt
    """,
    "epoch": """
        unix unixtime unixtimestamp epoch epochtime
    """,
    "year": """
        year yyyy jahr año anno année annee год 年 年份 年度
    """,
    "month": """
        month monat mes mois mese месяц 月 月份
    """,
    "yearday": """
        doy dayofyear yearday jday julianday
    """,
    "zone": """
        timezone tz tzname tzid utcoffset gmtoffset tzoffset timezoneoffset 时区 時區
    """,
    "open": """
        openpx opnprc opnpric openprc pxopen priceopen openingprice opening prcod sdqopen tradeopen openmid
        今开 今开盘 开 開 開盤 開盤價 开盘价格 始値 시가 오픈 시작가 dlyopen erster eröffnung eroeffnung
        eröffn eröffnungskurs startkurs ouverture ouv apertura abertura aperto precioapertura openen
        openingskoers öppen öppningskurs öppning åpning åpningskurs åbning åbningskurs avaus otwarcie
        kursotwarcia açılış pembukaan buka mở mởcửa giámở giámởcửa otevřeno otevření nyitó nyitóár
        deschidere άνοιγμα открытие откр ценаоткрытия відкриття відкр ціна_відкриття отваряне פתיחה
        שערפתיחה เปิด ราคาเปิด افتتاح الافتتاح مفتوح فتح
    """,
    "high": """
        highpx hiprc hghpric highprc askhi pxhigh pricehigh highestprice highest prchd sdqhigh tradehigh
        max maximum 高 最高價 最高价格 高値 고가 최고가 dlyhigh high1 maxprice hi hoch höchst höchstkurs
        höchster tageshoch tageshöchst plushaut haut máximo máxima máx preciomáximo massimo maximo hoog
        hoogste hoogstekoers högst högsta högstakurs høy høyest høj højest ylin korkein najwyższy kursmax
        maksimum maks yüksek enyüksek tertinggi tinggi cao caonhất giácao giácaonhất maximum legmagasabb
        maxim υψηλό υψηλο максимум макс наивысшая максимальнаяцена максимальна גבוה שערגבוה สูงสุด
        ราคาสูงสุด مرتفع أعلى الأعلى عالي
    """,
    "low": """
        lowpx loprc lwpric lowprc bidlo pxlow pricelow lowestprice lowest prcld sdqlow tradelow min
        minimum 低 最低價 最低价格 安値 저가 최저가 dlylow low1 minprice lo tief tiefst tiefstkurs tiefster
        tagestief plusbas bas mínimo mínima mín preciomínimo minimo minima laag laagste laagstekoers
        lägst lägsta lägstakurs lav lavest alin matalin najniższy kursmin düşük endüşük terendah
        rendah thấp thấpnhất giáthấp giáthấpnhất legalacsonyabb minim χαμηλό минимум мин наименьшая
        минимальнаяцена мінімум мін мінімальна נמוך שערנמוך ต่ำสุด ราคาต่ำสุด منخفض أدنى الأدنى أقل
    """,
    "close": """
        closepx clsprc clspric closeprc closelast pxclose priceclose closingprice closing sdqclose
        tradeclose 收 收盤 收盤價 收盘价格 終値 종가 prccd prc 今收盘 今收 dlyclose dlyprc schluss schlusskurs
        kursschluss cloture clôture clot cierre preciocierre chiusura fechamento slot slotkoers
        sluiting sluitingskoers slutkurs stängning sluttkurs slutkurs päätös päätöskurssi zamknięcie
        kurszamknięcia kapanış penutupan tutup đóng đóngcửa giáđóng giáđóngcửa zavřeno zavření záró
        záróár închidere inchidere κλείσιμο закрытие закр ценазакрытия закриття закр затваряне סגירה
        שערסגירה ปิด ราคาปิด إغلاق الإغلاق اغلاق settle settleprice settlementprice settlement
        settlement_price pxlast lastpx 最新价 最新 现价 latest latestprice last lastprice trdprc1
        ultimoprezzo último ultimo últimopreço últimoprecio dernier derniercours zuletzt letzter
        laatste senaste senast siste seneste viimeisin ostatnio ostatni şimdi sonfiyat terakhir
        lầncuối posledni poslední utolsó ultim τελευταία последняя остання останняціна אחרון ล่าสุด
        الأخير الاخير آخر 현재가 現在値 price цена ціна kurs cena fiyat harga giá koers prezzo precio
        preço cours prix hinta
    """,
    "volume": """
        vol volumn tradevolume tradingvolume tradedvolume totalvolume sharestraded tottrdqty totvol
        totalvol volumetraded tottradqtty tottradqty ttltradgvol totaltradequantity noofshrs noofshares
        dnshrtrd cshtrd sdqvolume pxvolume totalshares basevolume volumefrom volumebase realvolume 成交数量
        成交股数 交易量 总量 总手 总成交量 成交股數 成交數量 出来高 거래량 stücke stuecke stück stueck
        volumen quantidade quantity qty dlyvol acvoluns acvol1 numberofshares ttltrdqnty
        totaltradedquantity 売買高 成交張數 成交仟股 volccy tradedqty tradedquantity umsatzstück
        umsatzinstück gehandeltestücke hac hacim işlemhacmi wolumen wol obrót volym omsattantal aantal
        kolvo количество колво объем объём обсяг обєм обʼєм об'єм khốilượng kl klgd objem forgalom όγκος
        נפח מחזור ปริมาณ ปริมาณการซื้อขาย الحجم حجم حجمالتداول volumi volúmenes cantidad quantité
        tickvolume tickvol tickqty ticks
    """,
    "amount": """
        totalturnover turnovervalue quotevolume quoteassetvolume volumequote volumeto volccyquote tottrdval
        ttltrfval dnvaltrd sdqamount netturnov tradingvalue tradedvalue dollarvolume amountcny 成交金额
        成交金額 成交額 金额 总额 交易额 成交总额 총거래대금 거래대금 売買代金
        成交仟元 volquote turnoverlacs umsatzineuro umsatzeuro omsättning omsetning omsætning capitaux
    """,
    "adj_close": """
        adjustedclose adjustedclosing closeadj closeadjusted adjclosing adjustclose 复权收盘价 后复权收盘价
        前复权收盘价 收盘价复权 adjustmentclose 調整後終値 调整后收盘价
    """,
    "factor": """
        adjustfactor adjustmentfactor cumadjfactor 复权因子
    """,
    "split": """
        splitcoefficient stocksplit
    """,
    "series": """
        series sctysrs securityseries
    """,
    "interval": """
        interval frequency per period timeframe resolution barsize kline klinetype 周期 频率
    """,
    "volume_up": "up upvol upvolume",  # of trades at rising prices: the volume is their sum with the other ones
    "volume_down": "down downvol downvolume",
}  # fmt: skip
TIMES = ("datetime", "date", "time", "epoch")
PARTS = ("year", "month", "yearday")  # of days that are spread over columns
SIDES = ("volume_up", "volume_down")
ROLES = (
    "instrument", *TIMES, *PARTS, "zone", *PRICES, "volume", "amount", "adj_close", "factor", "split", "limit_up",
    "limit_down", "series", "interval",
)  # fmt: skip
PERMANENT = ("permno",)  # numbers that stay when a ticker changes hands: preferred to tickers
_DATES = ("date", "day", "tradedate", "日期", "交易日期")  # of bars.SPELLINGS["datetime"]
_TIMES = ("time", "时间")
BRACKETS = re.compile(r"[(\[{（［【](.*?)[)\]}）］】]")
BILINGUAL = re.compile(r"([\u4e00-\u9fff]+)_[A-Za-z]\w*")  # 开盘价_Oppr
LETTERS = str.maketrans("łđøıæœßё", "ldoiaos\u0435")  # letters that have no accent to take off
FEWEST_LETTERS = 4  # of a name whose accents are left out: shorter ones would be other words, as Mở is no Mo


def squeeze(name: str) -> str:
    """Return a name in lower case without numbering, units in brackets, blanks and marks."""
    text = unicodedata.normalize("NFC", name).strip().strip("\"'").strip().lower().lstrip("\ufeff")
    if text[:1] == "<" and text[-1:] == ">":
        text = text[1:-1]
    text = BRACKETS.sub("", text) if BRACKETS.sub("", text).strip() else text
    text = re.sub(r"^\d+[.)]\s+", "", text)
    return re.sub(r"[\W_]+", "", text)


def folded(text: str) -> str:
    """Return a text in lower case without the accents of Latin letters."""
    text = text.lower().translate(LETTERS)
    if text.isascii():
        return text
    return "".join(
        unicodedata.normalize("NFD", char)[0] if char < "\u0250" or "\u1e00" <= char < "\u2000" else char
        for char in unicodedata.normalize("NFC", text)
        if not "\u0300" <= char <= "\u036f"
    )


def _roles() -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, int]]]:
    """Return role and rank of every known name, and of those without accents."""
    exact: dict[str, tuple[str, int]] = {}
    bare: dict[str, tuple[str, int]] = {}
    for role in (*ROLES, *SIDES):
        own = SPELLINGS.get(role, ())
        if role == "datetime":
            own = tuple(name for name in own if name not in (*_DATES, *_TIMES))
        own = {"date": _DATES, "time": _TIMES, "instrument": (*PERMANENT, *own)}.get(role, own)
        for rank, name in enumerate((*own, *_NAMES.get(role, "").split())):
            plain = squeeze(name)
            exact.setdefault(plain, (role, rank))
            if len(folded(plain)) >= FEWEST_LETTERS:
                bare.setdefault(folded(plain), (role, rank))
    return exact, bare


_EXACT, _BARE = _roles()


@lru_cache(maxsize=2048)
def role_of(name: str) -> tuple[str, int]:
    """Return what a name means, one of ROLES or SIDES, and its rank among the names of that; empty for none."""
    plain = squeeze(name)
    found = _EXACT.get(plain) or _BARE.get(folded(plain))
    if found is None and (both := BILINGUAL.fullmatch(name.strip())):
        found = _EXACT.get(both[1])
    return found or ("", 0)
