"""PostgreSQL's client encodings that Python knows as well.

Source: PostgreSQL 18, section "Character Set Support", table "PostgreSQL Character Sets".
"""

from __future__ import annotations

CODECS = {
    "BIG5": "big5",
    "EUC_CN": "gb2312",
    "EUC_JP": "euc_jp",
    "EUC_KR": "euc_kr",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "ISO_8859_5": "iso8859_5",
    "ISO_8859_6": "iso8859_6",
    "ISO_8859_7": "iso8859_7",
    "ISO_8859_8": "iso8859_8",
    "JOHAB": "johab",
    "KOI8R": "koi8_r",
    "KOI8U": "koi8_u",
    "LATIN1": "iso8859_1",
    "LATIN2": "iso8859_2",
    "LATIN3": "iso8859_3",
    "LATIN4": "iso8859_4",
    "LATIN5": "iso8859_9",
    "LATIN6": "iso8859_10",
    "LATIN7": "iso8859_13",
    "LATIN8": "iso8859_14",
    "LATIN9": "iso8859_15",
    "LATIN10": "iso8859_16",
    "SJIS": "shift_jis",
    "UHC": "cp949",
    "UTF8": "utf_8",
    "WIN866": "cp866",
    "WIN874": "cp874",
    **{f"WIN{page}": f"cp{page}" for page in range(1250, 1259)},
}


def convert(text: bytes, source: str, target: str) -> bytes:
    """Text in another of PostgreSQL's encodings; as it is if Python does not know both, or it cannot be said
    in the other one.
    """
    if source == target or text.isascii() or source not in CODECS or target not in CODECS:
        return text
    try:
        return text.decode(CODECS[source]).encode(CODECS[target])
    except UnicodeError:
        return text
