"""What the embedded ClickHouse reads off SQL text itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedded import statement
from embedded.statement import Insert


def split(request: bytes) -> tuple[bytes, str, bytes]:
    """Return statement, format and data of an insert."""
    insert = statement.insert_of(request)
    assert insert is not None
    return insert.sql.strip(), insert.format, request[insert.data_start :]


def test_the_rows_of_an_insert_begin_behind_the_first_line_end_after_the_format() -> None:
    request = b'INSERT INTO t (a, b) FORMAT JSONEachRow\n{"a":1}\n'
    assert split(request) == (b"INSERT INTO t (a, b)", "JSONEachRow", b'{"a":1}\n')


@pytest.mark.parametrize("gap", [b" ", b"\n", b"\r\n", b"  \t\n", b" \r\n"])
def test_blanks_and_one_line_end_belong_to_the_statement(gap: bytes) -> None:
    assert split(b"INSERT INTO t FORMAT Native" + gap + b"\x00\x01") == (b"INSERT INTO t", "Native", b"\x00\x01")


def test_further_line_ends_are_data() -> None:
    assert split(b"INSERT INTO t FORMAT TSV\n\nx")[2] == b"\nx"


@given(st.binary().filter(lambda data: data[:1] not in {b" ", b"\t", b"\f", b"\r", b"\n"}))
def test_data_of_any_bytes_is_left_as_it_is(data: bytes) -> None:
    assert split(b"INSERT INTO t FORMAT RowBinary\n" + data)[2] == data


def test_values_need_no_format_clause() -> None:
    assert split(b"insert into t values (1, 'a')") == (b"insert into t", "Values", b" (1, 'a')")
    assert split(b"INSERT INTO t FORMAT Values (1)") == (b"INSERT INTO t", "Values", b" (1)")


def test_settings_of_an_insert_stay_with_the_statement() -> None:
    request = b"INSERT INTO t SETTINGS async_insert=0 FORMAT CSV\n1"
    assert split(request) == (b"INSERT INTO t SETTINGS async_insert=0", "CSV", b"1")


@pytest.mark.parametrize(
    "request_body",
    [
        b'INSERT INTO `format` (`values`, "format") FORMAT CSV\n1,2',
        b"INSERT INTO values FORMAT CSV\n1,2",
        b"INSERT INTO db.format (a) FORMAT CSV\n1,2",
        b"INSERT INTO t (values, format) FORMAT CSV\n1,2",
        b"/* FORMAT TSV */ INSERT INTO t -- VALUES (\n FORMAT CSV\n1,2",
        b"INSERT INTO TABLE t FORMAT CSV\n1,2",
        b"INSERT INTO FUNCTION null('a FORMAT x') FORMAT CSV\n1,2",
    ],
)
def test_names_strings_and_comments_are_not_taken_for_clauses(request_body: bytes) -> None:
    assert split(request_body)[1:] == ("CSV", b"1,2")


@pytest.mark.parametrize(
    "sql",
    [
        b"INSERT INTO t SELECT 1 FORMAT CSV",
        b"INSERT INTO t (SELECT 1)",
        b"INSERT INTO t WITH 1 AS x SELECT x",
        b"INSERT INTO t FROM INFILE 'x' FORMAT CSV",
        b"INSERT INTO t",
        b"INSERT INTO t FORMAT",
        b"SELECT 'INSERT INTO t FORMAT CSV'",
        b"EXPLAIN INSERT INTO t VALUES (1)",
        b"",
    ],
)
def test_a_statement_without_rows_of_its_own_is_left_to_the_engine(sql: bytes) -> None:
    assert statement.insert_of(sql) is None


@given(st.binary(max_size=200))
def test_any_bytes_can_be_looked_at(sql: bytes) -> None:
    found = statement.insert_of(sql)
    assert found is None or isinstance(found, Insert)
    assert statement.format_of(sql, "Default")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (b"SELECT 1 FORMAT JSON", "JSON"),
        (b"select 1 format CSV;", "CSV"),
        (b"SELECT 1 FORMAT Native SETTINGS max_threads=1", "Native"),
        (b"SELECT 1 FORMAT TSV -- the end", "TSV"),
        (b"SELECT 1", "Default"),
        (b"SELECT format FROM t", "Default"),
        (b"SELECT 'x FORMAT JSON'", "Default"),
        (b"SELECT * FROM (SELECT 1 FORMAT JSON)", "Default"),
    ],
)
def test_the_format_clause_of_a_query_is_found(sql: bytes, expected: str) -> None:
    assert statement.format_of(sql, "Default") == expected


@pytest.mark.parametrize(
    ("sql", "format_name", "expected"),
    [
        (b"SELECT 1", "Native", True),
        (b"WITH 1 AS x SELECT x", "JSONEachRow", True),
        (b"(SELECT 1)", "CSV", True),
        (b"SELECT 1", "JSON", False),
        (b"SELECT 1", "CSVWithNames", False),
        (b"SELECT 1, count() GROUP BY 1 WITH TOTALS", "Native", False),
        (b"SHOW TABLES", "Native", False),
        (b"CREATE TABLE t (a Int8) ENGINE = Memory", "Native", False),
        (b"", "Native", False),
    ],
)
def test_only_selects_in_formats_of_independent_rows_are_streamed(sql: bytes, format_name: str, expected: bool) -> None:  # noqa: FBT001 - a table of cases
    assert statement.can_stream(sql, format_name) is expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (b"SET max_threads = 1", True),
        (b"use polymarket", True),
        (b"CREATE TEMPORARY TABLE t (a Int8)", True),
        (b"CREATE OR REPLACE TEMPORARY TABLE t (a Int8)", True),
        (b"CREATE TABLE t (temporary Int8) ENGINE = Memory", False),
        (b"SELECT 1", False),
    ],
)
def test_statements_that_a_session_has_to_remember_are_known(sql: bytes, expected: bool) -> None:  # noqa: FBT001 - a table of cases
    assert statement.leaves_state(sql) is expected
