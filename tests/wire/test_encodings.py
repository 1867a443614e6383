"""Texts in another client_encoding: Python's codecs say what PostgreSQL's conversions do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trio_pool.wire.encodings import CODECS, convert

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

SAMPLE = 150
"""How many characters of each encoding are compared."""
SAID = """
create or replace function said(code int, encoding text) returns text language plpgsql as $$
begin
    return encode(convert_to(chr(code), encoding), 'hex');
exception when untranslatable_character then
    return '';
end $$;
"""


def characters(codec: str) -> list[int]:
    """Some of those beyond ASCII that Python's codec has, evenly spread."""
    found = []
    for code in range(128, 1 << 16):
        try:
            chr(code).encode(codec)
        except UnicodeError:
            continue
        found.append(code)
    return found[:: max(1, len(found) // SAMPLE)]


def test_the_codecs_are_postgresqls_encodings(postgres: LocalPostgres) -> None:
    """Every character that both know is the same bytes for both, in each encoding of the table."""
    questions = [
        f"select '{encoding}', code, said(code, '{encoding}') from unnest(array{characters(codec)}) code;"
        for encoding, codec in CODECS.items()
    ]
    answer = postgres.run_sql(SAID + "".join(questions))
    compared = dict.fromkeys(CODECS, 0)
    for line in answer.splitlines():
        encoding, code, said = line.split("|")
        if said:
            character = chr(int(code))
            assert character.encode(CODECS[encoding]).hex() == said, (encoding, character)
            assert bytes.fromhex(said).decode(CODECS[encoding]) == character
            compared[encoding] += 1
    assert min(compared.values()) > 30, compared


def test_no_encoding_of_postgresql_is_forgotten_that_python_has(postgres: LocalPostgres) -> None:
    """What is missing has no codec, or none that agrees."""
    listed = postgres.run_sql("select distinct pg_encoding_to_char(n) from generate_series(0, 60) n")
    missing = {name for name in listed.splitlines() if name} - CODECS.keys()
    assert missing == {"SQL_ASCII", "MULE_INTERNAL", "EUC_TW", "EUC_JIS_2004", "SHIFT_JIS_2004"}
    assert set(listed.splitlines()) >= CODECS.keys()


@pytest.mark.parametrize(
    ("text", "source", "target", "expected"),
    [
        ("é".encode(), "UTF8", "LATIN1", b"\xe9"),
        (b"\xe9", "LATIN1", "UTF8", "é".encode()),
        (b"\xe9", "LATIN1", "WIN1252", b"\xe9"),
        ("日本".encode("euc_jp"), "EUC_JP", "SJIS", "日本".encode("shift_jis")),
        (b"plain", "UTF8", "EUC_TW", b"plain"),
        ("é".encode(), "UTF8", "UTF8", "é".encode()),
    ],
)
def test_texts_are_converted(text: bytes, source: str, target: str, expected: bytes) -> None:
    """From any to any encoding; ASCII is the same in all of them."""
    assert convert(text, source, target) == expected


@pytest.mark.parametrize(
    ("text", "source", "target"),
    [
        ("日".encode(), "UTF8", "LATIN1"),
        (b"\xff\xfe", "UTF8", "LATIN1"),
        ("é".encode(), "UTF8", "EUC_TW"),
        (b"\xe9", "SQL_ASCII", "UTF8"),
        (b"\xe9", "NONSENSE", "UTF8"),
    ],
)
def test_what_cannot_be_converted_stays_as_it_is(text: bytes, source: str, target: str) -> None:
    """A character that the other encoding has not, bytes that are none, an encoding that Python has not."""
    assert convert(text, source, target) == text
