"""The meaning of columns by their names, in English, Chinese and a few other languages, with units in brackets."""

import re
from functools import lru_cache
from typing import NamedTuple

from kronos.data.bars import PRICES, SPELLINGS
from kronos.data.sources.csv_zones import zone_of_name
from kronos.utils.errors import UserError

# Names beside those of bars.SPELLINGS, without blanks and marks, in lower case, the preferred ones first.
_NAMES = {
    "instrument": """
        sym securitiescode instrumentname instname symbolname symroot
        windcode sinfowindcode orderbookid secucode securitycode stkcd symbolcode tckrsymb tickersymbol tic
        ric fundcode indexcode bondcode stockid secid instrumentid instid contract assetid asset pair
        product underlying security scrip scripcode sccode epic 合约代码 交易代码 基金代码 指数代码 标的代码
        证券编码 股票编码 品种代码 合约 品种 标的 證券代號 證券代碼 股票代號 股票代碼 銘柄コード コード
        종목코드 permno gvkey isin figi cusip name stockname secname securityname 股票名称 证券名称 证券简称
        股票简称 简称 名称 證券名稱 código codigo ativo papel тикер
    """,
    "datetime": """
        datetimeutc datetimelocal gmttime utctime localtime opentime starttime begintime bartime candletime
        candlebegintime tradetime windowstart tsevent timeopen startat eob bob bartimestamp openat 交易时间 时间戳
        日期时间 日時 ts kltime
    """,
    "date": """
        tradingday tradingdate datadate trddt tradedt traddt caldt tradedate bizdt quotedate pricedate dates
        tag dia día jour giorno dag 日
        date1 dtyyyymmdd dlycaldt 交易日 日期日 年月日 交易日期年月日 日付 日付け 일자 날짜 datum fecha data дата
    """,
    "time": """
        t timem timems hour hr timeofday время heure uhrzeit hora zeit ora tid tijd godzina saat klokkeslæt 时刻
        時刻 時間 时间 시간 시각
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
        otwarcie kursotwarcia açılış acilis aperto
        openpx opnprc opnpric openprc pxopen priceopen openingprice prcod sdqopen tradeopen openmid 今开
        今开盘 开 開 開盤 開盤價 开盘价格 始値 시가 erster eroffnung eröffnung eröffnungskurs ouverture
        apertura abertura dlyopen ouv eröffn eroffn открытие откр ценаоткрытия
    """,
    "high": """
        najwyzszy najwyższy massimo yüksek yuksek máx 
        highpx hiprc hghpric highprc askhi pxhigh pricehigh highestprice prchd sdqhigh tradehigh max 高
        最高價 最高价格 高値 고가 hoch höchstkurs tageshoch plushaut haut máximo maximo maxprice
        dlyhigh high1 максимум макс
    """,
    "low": """
        najnizszy najniższy minimo düşük dusuk mín
        lowpx loprc lwpric lowprc bidlo pxlow pricelow lowestprice prcld sdqlow tradelow min 低 最低價
        最低价格 安値 저가 tief tiefstkurs tagestief plusbas bas mínimo minimo
        dlylow low1 минимум мин
    """,
    "close": """
        zamkniecie zamknięcie şimdi simdi kapanış kapanis ultimoprezzo
        closepx clsprc clspric closeprc closelast pxclose priceclose closingprice sdqclose tradeclose 收
        收盤 收盤價 收盘价格 終値 종가 pxlast prccd prc schluss schlusskurs cloture clôture dernier cierre
        chiusura fechamento último ultimo últimopreço 最新价 最新 现价 今收盘 今收 dlyclose dlyprc trdprc1
        clot zuletzt закрытие закр ценазакрытия last lastprice price цена
        settle settleprice settlementprice settlement
    """,
    "volume": """
        wolumen obrót
        vol volumn tradevolume tradingvolume tradedvolume totalvolume sharestraded tottrdqty
        ttltradgvol totaltradequantity noofshrs noofshares dnshrtrd cshtrd sdqvolume pxvolume totalshares
        basevolume volumefrom volumebase realvolume 成交数量 成交股数 交易量 总量 总手 总成交量 成交股數
        成交數量 出来高 거래량 stücke stuecke stück volumen quantidade quantity qty dlyvol acvoluns acvol1
        numberofshares ttltrdqnty totaltradedquantity 売買高 成交張數 成交仟股 объем объём volccy
        tickvolume tickvol ticks
    """,
    "amount": """
        totalturnover turnovervalue quotevolume quoteassetvolume volumequote volumeto volccyquote tottrdval
        ttltrfval dnvaltrd sdqamount netturnov tradingvalue tradedvalue dollarvolume amountcny 成交金额
        成交金額 成交額 金额 总额 交易额 成交总额 총거래대금 거래대금 売買代金
        成交仟元 volquote turnoverlacs
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
}  # fmt: skip
NAMES = {role: tuple(text.split()) for role, text in _NAMES.items()}
TIMES = ("datetime", "date", "time", "epoch")
PARTS = ("year", "month", "yearday")  # of days that are spread over columns
ROLES = (
    "instrument",
    *TIMES,
    *PARTS,
    "zone",
    *PRICES,
    "volume",
    "amount",
    "adj_close",
    "factor",
    "split",
    "limit_up",
    "limit_down",
    "series",
    "interval",
)
PIECES = {"quantidade", "stücke", "stuecke", "stück"}
PERMANENT = ("permno",)  # numbers that stay when a ticker changes hands: preferred to tickers
_ENGLISH = {
    "thousands": 1e3, "thousand": 1e3, "000s": 1e3, "000": 1e3, "'000": 1e3, "'000s": 1e3, "k": 1e3,
    "millions": 1e6, "million": 1e6, "m": 1e6, "mn": 1e6, "mm": 1e6, "mln": 1e6, "mio": 1e6,
    "billions": 1e9, "billion": 1e9, "b": 1e9, "bn": 1e9, "lacs": 1e5, "lakhs": 1e5, "crores": 1e7,
}  # fmt: skip
UNITS = {
    "volume": {"股": 1.0, "份": 1.0, "手": 100.0, "千股": 1e3, "万股": 1e4, "百万股": 1e6, "亿股": 1e8, "万手": 1e6,
               "張": 1e3, "張數": 1e3, "仟股": 1e3, "千股數": 1e3, "lots": 100.0, **_ENGLISH},
    "amount": {"元": 1.0, "千元": 1e3, "万元": 1e4, "百万元": 1e6, "亿元": 1e8, "万": 1e4, "亿": 1e8, "仟元": 1e3,
               "萬元": 1e4, "億元": 1e8, **_ENGLISH},
}  # fmt: skip
_DATES = ("date", "day", "tradedate", "日期", "交易日期")  # of bars.SPELLINGS["datetime"]
_TIMES = ("time", "时间")
_DAYS = ("day", "tag", "dia", "día", "jour", "giorno", "dag", "日")  # of a month or a year, beside a year
BRACKETS = re.compile(r"[(\[{（［【](.*?)[)\]}）］】]")
NOT_A_VOLUME = re.compile(r"volat|taker|adj|avg|average|open|ratio|change|量比|换手|均量|涨")
UNIT_BEHIND = re.compile(r"(張數?|仟股|[仟千]元|lacs|lakhs|crores)$")  # units that stand without brackets
BILINGUAL = re.compile(r"([\u4e00-\u9fff]+)_[A-Za-z]\w*")  # 开盘价_Oppr


class Meaning(NamedTuple):
    """What columns mean: their places by role (the preferred first), the factors of their units, and time zones.

    `parts` are the places of year, month and day, or of year and day of the year, where no column holds whole days.
    """

    places: dict[str, tuple[int, ...]]
    scales: dict[int, float]
    zones: dict[int, str]
    parts: tuple[int, ...] = ()

    def missing(self) -> list[str]:
        """The columns that bars need and that are not there."""
        time = [] if self.parts or any(role in self.places for role in TIMES) else ["datetime"]
        return time + [name for name in PRICES if name not in self.places]


def squeeze(name: str) -> str:
    """Return a name in lower case without numbering, units in brackets, blanks and marks."""
    text = name.strip().strip("\"'").strip().lower().lstrip("\ufeff")
    if text[:1] == "<" and text[-1:] == ">":
        text = text[1:-1]
    text = BRACKETS.sub("", text) if BRACKETS.sub("", text).strip() else text
    text = re.sub(r"^\d+[.)]\s+", "", text)
    return re.sub(r"[\W_]+", "", text)


def _roles() -> dict[str, tuple[str, int]]:
    """Return role and rank of every known name."""
    found: dict[str, tuple[str, int]] = {}
    for role in ROLES:
        own = SPELLINGS.get(role, ())
        if role == "datetime":
            own = tuple(name for name in own if name not in (*_DATES, *_TIMES))
        own = {"date": _DATES, "time": _TIMES, "instrument": (*PERMANENT, *own)}.get(role, own)
        for rank, name in enumerate((*own, *NAMES.get(role, ()))):
            found.setdefault(squeeze(name), (role, rank))
    return found


KNOWN = _roles()


@lru_cache(maxsize=512)
def meaning(names: tuple[str, ...]) -> Meaning:
    """Find what the columns of these names mean.

    Raises UserError where two columns have one name that is needed.
    """
    found: dict[str, list[tuple[int, int]]] = {}
    scales: dict[int, float] = {}
    zones: dict[int, str] = {}
    for place, name in enumerate(names):
        role, rank = KNOWN.get(squeeze(name), ("", 0))
        bare, zone = zone_of_name(name) if not role or role in TIMES else ("", None)
        if zone and not role and (timed := KNOWN.get(squeeze(bare), ("", 0)))[0] in TIMES:
            role, rank = timed
        if not role and (both := BILINGUAL.fullmatch(name.strip())):
            role, rank = KNOWN.get(both[1], ("", 0))
        asset = re.fullmatch(r"vol(?:ume)?[\s_](?!ma\b|sma|ema|avg|\d)(\w{2,6})", name.strip().lower())
        if not role and asset:
            role, rank = (
                "volume",
                100 + place,
            )  # "Volume BTC" beside "Volume USDT": told apart by their values
            if asset[1] in ("usd", "usdt", "cny", "eur", "currency"):
                role = "amount"
        if not role:
            continue
        unit = _unit(name)
        if role == "volume" and unit in ("元", "currency", "quote", "usd", "万元", "亿元"):
            role = "amount"
        if role in UNITS and unit in UNITS[role]:
            scales[place] = UNITS[role][unit]
        if role in TIMES and zone:
            zones[place] = zone
        found.setdefault(role, []).append((rank, place))
    counts = {squeeze(names[place]) for _, place in found.get("volume", ())} & PIECES
    if counts and "amount" not in found:  # a volume beside a number of pieces is money
        money = [one for one in found["volume"] if squeeze(names[one[1]]) in ("volume", "volumen")]
        found |= (
            {"amount": money, "volume": [one for one in found["volume"] if one not in money]} if money else {}
        )
    places = {}
    for role, ranked in found.items():
        ranked.sort()
        best = names[ranked[0][1]].strip().lower()
        if sum(name.strip().lower() == best for name in names) > 1:
            raise UserError(f"column {names[ranked[0][1]].strip()} is there twice: rename or remove one")
        places[role] = tuple(place for _, place in ranked)
    return Meaning(places, scales, zones, _parts(names, places))


def _parts(names: tuple[str, ...], places: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    if "year" not in places or {"datetime", "epoch"} & set(places):
        return ()
    if "date" not in places:
        return (places["year"][0], places["yearday"][0]) if "yearday" in places else ()
    if len(places["date"]) > 1 or squeeze(names[places["date"][0]]) not in _DAYS:
        return ()
    return tuple(places[role][0] for role in ("year", "month", "date") if role in places)


def _unit(name: str) -> str:
    found = BRACKETS.search(name.lower()) or UNIT_BEHIND.search(name.strip().lower())
    return found[1].strip() if found else ""


def like_a_volume(names: tuple[str, ...], known: Meaning) -> list[int]:
    """Return the places of columns that may be volumes under a name of their own, such as `contracts vol`."""
    used = {place for places in known.places.values() for place in places}
    found = []
    for place, name in enumerate(names):
        text = name.lower()
        if place not in used and re.search(r"vol|量", text) and not NOT_A_VOLUME.search(text):
            found.append(place)
    return found


def renamed(names: tuple[str, ...], given: tuple[str, ...] | None, headless: bool) -> tuple[str, ...]:
    """Return the names with those of the field `column_names` (`file's name=our name`) replaced by ours.

    A file without a header has its columns named 1, 2, 3, ... Names that the file does not have are left out, since
    other files of the folder may have them. Raises UserError for a name of ours that does not exist.
    """
    if not given:
        return names
    chosen = list(names)
    for pair in given:
        theirs, _, ours = pair.rpartition("=")
        if ours not in ROLES:
            raise UserError(
                f"column_names: {pair!r} names no column of ours: one of {', '.join(ROLES)} was expected"
            )
        for place, name in enumerate(names):
            if name.strip() == theirs.strip() or (headless and str(place + 1) == theirs.strip()):
                chosen[place] = ours
            elif chosen[place].strip().lower() == ours:
                chosen[place] = f"{name} of the file"  # what is named so by the user stands alone
    return tuple(chosen)
