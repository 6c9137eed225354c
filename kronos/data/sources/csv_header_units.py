"""Units in the names of columns: Volume (Mio.), Volume in Lakhs, 成交量(万股), Umsatz in Stück."""

import re
from functools import lru_cache
from typing import NamedTuple

from kronos.data.sources.csv_words import BRACKETS, folded, role_of

SCALES = {
    word: scale
    for scale, words in {
        1e2: "hundred hundreds 00 00s centaines 百 백",
        1e3: """thousand thousands thou 000 000s k ths th tsd tausend tys tysiace milliers mille migliaia miles
            milhares duizend tusen tuhat bin ribu nghin ngan тыс тис тысяч тисяч хил พัน الف 千 仟 천""",
        1e4: "万 萬 만 ten_thousand",
        1e5: "lakh lakhs lac lacs 십만 十万",
        1e6: """million millions m mn mm mln mio mil. mill milj millionen milioni millones milhoes milhao milion
            milionow miljoen miljoner miljoonaa milyon juta trieu млн миллионов мільйонів ล้าน مليون 百万 百萬 백만""",
        1e7: "crore crores cr 千万 千萬 천만",
        1e8: "亿 億 억",
        1e9: """billion billions b bn bln mrd mld md mlrd milliarden miliardi miliar miljard milyar млрд مليار 十亿
            十億 십억""",
    }.items()
    for word in words.split()
}
PIECES = {  # what is counted, and how many shares one of them is
    word: shares
    for shares, words in {
        1.0: """
        share shares shs sh units unit qty quantity pcs pieces nos no number stk st stuck stucke
        stueck aktien titres actions titoli azioni acciones titulos acoes sztuk szt stuks aandelen
        aktier adet pay saham lembar шт акций contracts contract kontrakte contratos contratti
        lot/contract base coins coin 股 股數 股数 份 张 枚 口 株 주 份额
    """,
        100.0: "lots lot 手",
        1000.0: "張 張數",
    }.items()
    for word in words.split()
}
_MONEY = """
    currency quote money value turnover usd usdt usdc busd fdusd eur euro euros gbp gbx chf jpy cny
    rmb hkd twd krw inr rs rupees rupee sgd aud cad nzd brl mxn zar try tl lira sek nok dkk pln zl
    czk huf rub руб uah грн thb idr rp vnd php myr rm ils sar aed dollar dollars us$ hk$ nt$ r$ a$
    c$ s$ $ € £ ¥ ₹ ₩ ₽ ฿ 元 圆 圓 円 원 美元 港元 日元 人民币 新台幣 港币
"""
MONEY = frozenset(_MONEY.split())
CJK = re.compile(
    "("
    + "|".join(sorted((one for one in SCALES if ord(one[0]) > 0x2E80), key=len, reverse=True))
    + ")?("
    + "|".join(sorted((one for one in {*PIECES, *MONEY} if ord(one[0]) > 0x2E80), key=len, reverse=True))
    + ")?"
)
BEHIND = re.compile(r"((?:[百千万萬仟]*)(?:張數?|仟股|[仟千]元)|lacs|lakhs|crores)$")  # without brackets
APART = re.compile(
    r"^(.*?\w[.]?)\s*(?:,\s*|/\s*|;\s*|\s(?:in|en|em|w|i|x|×|-|–)\s+|\s(?=['’‘]?\S+$))(.+)$", re.I
)
ROUND = re.compile(r"[x×*]?(10\^\d|1e\d|10+)['’]?s?")


class Unit(NamedTuple):
    """What a unit means: its factor to single shares or units of currency, and whether it is money or a number."""

    scale: float
    money: bool
    pieces: bool


def unit_of(name: str) -> tuple[str, str]:
    """Divide a column's name into its base and the text of its unit, which is empty where there is none.

    A unit without brackets is one only behind a volume or an amount, and only where it is understood.
    """
    text = name.strip()
    bracket = BRACKETS.search(text)
    if bracket:
        return text[: bracket.start()] + text[bracket.end() :], bracket[1].strip()
    if behind := BEHIND.search(text.lower()):
        return re.sub(r"(?:_|\s+in)?[_\s]*$", "", text[: behind.start()]) or text, behind[1]
    for found in filter(None, (APART.match(text), re.match(r"^(.*?\w)[\s_]+(\S+)$", text))):
        if role_of(found[1])[0] in ("volume", "amount") and read_unit(found[2]) is not None:
            return found[1], found[2].strip()
    return text, ""


@lru_cache(maxsize=512)
def read_unit(text: str) -> Unit | None:
    """Understand the text of a unit; None where one of its words is not known."""
    plain = text.strip().lower().strip(":：")
    if not plain:
        return None
    plain = re.sub(r"(?<=\d)[ ,.'’](?=000)", "", plain)  # 1,000 shares
    unit = Unit(1.0, False, False)
    for word in re.split(
        r"[\s,/]+", re.sub(r"^(?:in|en|em|of|unit|units|单位|單位|単位)\b[:：]?\s*", "", plain)
    ):
        known = _word(word)
        if known is None:
            return None
        unit = Unit(unit.scale * known.scale, unit.money or known.money, unit.pieces or known.pieces)
    return unit


def _word(word: str) -> Unit | None:
    if word in SCALES:
        return Unit(SCALES[word], False, False)
    if found := ROUND.fullmatch(word):
        return Unit(float(found[1].replace("10^", "1e")), False, False)
    bare = folded(word).strip(".'’‘()").replace("'", "").replace("’", "")
    if bare in ("", "of", "in", "de", "d", "per"):
        return Unit(1.0, False, False)
    if bare in SCALES:
        return Unit(SCALES[bare], False, False)
    if bare in PIECES:
        return Unit(PIECES[bare], False, True)
    if bare in MONEY:
        return Unit(1.0, True, False)
    found = CJK.fullmatch(word)
    if found and (found[1] or found[2]):
        return Unit(
            SCALES.get(found[1] or "", 1.0) * PIECES.get(found[2] or "", 1.0),
            found[2] in MONEY,
            found[2] in PIECES,
        )
    return None
