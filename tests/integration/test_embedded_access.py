"""Statements sent to the embedded ClickHouse reach its tables: no file, no command, no other server."""

import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from embedded.access import allowed
from tests.integration import statements
from tests.integration.test_embedded_clickhouse import Answer, ask
from tests.servers import ClickHouseServer

SECRET = "f2c94a0be1"
DENIED, NO_SUCH_TABLE, SYNTAX_ERROR, NOT_IMPLEMENTED = "497", "60", "62", "48"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that is the operator's, with a file in it."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "secret").write_text(SECRET)
    return folder


Run = Callable[..., Answer]


@pytest.fixture
def run(clickhouse_server: ClickHouseServer, folder: Path) -> Iterator[Run]:
    """Return what runs a statement in a database of its own, with a table `t`."""
    database = f"access_{uuid.uuid4().hex}"

    def run(sql: str, encoding: str = "utf-8", **parameters: str) -> Answer:
        sent = filled(sql, folder, database).encode(encoding)
        return post(clickhouse_server, sent, database=database, **parameters)

    assert post(clickhouse_server, f"CREATE DATABASE {database}").status == 200
    assert run("CREATE TABLE t (a Int64, s String) ENGINE = MergeTree ORDER BY a").status == 200
    assert run("INSERT INTO t VALUES (1, 'x')").status == 200
    yield run
    post(clickhouse_server, f"DROP DATABASE {database}")


def post(server: ClickHouseServer, sql: str | bytes, **parameters: str) -> Answer:
    body = sql.encode() if isinstance(sql, str) else sql
    return ask(server, "POST", f"/?{urllib.parse.urlencode(parameters)}", body)


def filled(sql: str, folder: Path, database: str = "default") -> str:
    secret = folder / "secret"
    quoted = f"char({','.join(str(byte) for byte in str(secret).encode())})"
    return sql.format(secret=secret, quoted=quoted, folder=folder, database=database)


def assert_denied(answer: Answer, folder: Path) -> None:
    assert SECRET.encode() not in answer.body
    # Several statements, or text that is no statement, are refused before anybody looks into them.
    assert answer.headers["X-ClickHouse-Exception-Code"] in {DENIED, SYNTAX_ERROR, NOT_IMPLEMENTED}, answer.body[:300]
    assert [path.name for path in folder.iterdir()] == ["secret"]


@pytest.mark.parametrize("sql", statements.READING)
def test_no_statement_reads_a_file(run: Run, folder: Path, sql: str) -> None:
    assert_denied(run(sql), folder)
    assert run("SELECT a, s FROM t").body == b"1\tx\n"


@pytest.mark.parametrize("sql", statements.ACTING)
def test_no_statement_writes_a_file_runs_a_command_or_reaches_another_server(run: Run, folder: Path, sql: str) -> None:
    assert_denied(run(sql), folder)


@pytest.mark.parametrize(("source", "layout"), statements.DICTIONARIES)
def test_no_dictionary_reads_anything_but_a_table(run: Run, folder: Path, source: str, layout: str) -> None:
    assert_denied(run(statements.DICTIONARY.format(source=source, layout=layout)), folder)


@pytest.mark.parametrize("database", ["", "default."])
def test_a_path_is_not_a_table(clickhouse_server: ClickHouseServer, folder: Path, database: str) -> None:
    answer = post(clickhouse_server, filled(f"SELECT * FROM {database}`{{secret}}`", folder))
    assert (answer.headers["X-ClickHouse-Exception-Code"], SECRET.encode() in answer.body) == (NO_SUCH_TABLE, False)


@pytest.mark.parametrize(
    ("sql", "name"),
    [
        ("SELECT arrayMap({{f:Identifier}}, ['{secret}'])", "file"),
        ("SELECT * FROM format({{f:Identifier}}, 'a String', '(file(''{secret}''))')", "Values"),
    ],
)
def test_no_parameter_names_what_a_statement_may_not(run: Run, folder: Path, sql: str, name: str) -> None:
    assert_denied(run(sql, param_f=name), folder)


@pytest.mark.parametrize(
    ("view", "harmless"),
    [
        ("SELECT arrayMap({{f:Identifier}}, ['{secret}'])", "upper"),
        ("SELECT * FROM format({{f:Identifier}}, 'a String', '(file(''{secret}''))')", "CSV"),
    ],
)
def test_no_view_leaves_a_function_to_whoever_selects_from_it(run: Run, folder: Path, view: str, harmless: str) -> None:
    """The parameter of the request that creates it says nothing of those that come later."""
    assert_denied(run(f"CREATE VIEW v AS {view}", param_f=harmless), folder)


def test_a_parameter_may_name_columns_and_ordinary_functions(run: Run) -> None:
    assert run("SELECT sum({{c:Identifier}}) FROM t", param_c="a").body == b"1\n"
    assert run("SELECT arrayMap({{f:Identifier}}, ['a'])", param_f="upper").body == b"['A']\n"
    assert run("SELECT {{x:String}}", param_x="file").body == b"file\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("additional_result_filter", "file('{secret}') != ''"),
        ("format_schema", "{secret}"),
        ("dialect", "kusto"),
        ("param_x='1', format_schema", "{secret}"),
    ],
)
def test_no_setting_beside_a_statement_reads_a_file(run: Run, folder: Path, name: str, value: str) -> None:
    answer = run("SELECT 1", **{name: filled(value, folder)})
    assert answer.status in {400, 403}
    assert SECRET.encode() not in answer.body


@pytest.mark.parametrize("sql", ["SELECT 1 SETTINGS {name} = 'x'", "SET {name} = 'x'"])
@pytest.mark.parametrize("setting", ["format_template_row", "input_format_record_errors_file_path", "url_base"])
def test_no_setting_within_a_statement_holds_a_path(run: Run, folder: Path, sql: str, setting: str) -> None:
    assert_denied(run(sql.format(name=setting)), folder)


def test_bytes_that_are_not_text_may_be_data(run: Run) -> None:
    sql = "SELECT length(a) FROM format(RowBinary, 'a FixedString(3)', '\xff\x00\x92')"
    assert run(sql, encoding="latin-1").body == b"3\n"


def test_an_error_that_quotes_bytes_that_are_not_text_is_an_answer(run: Run) -> None:
    answer = run("SELECT '\xff", encoding="latin-1")
    assert (answer.status, answer.headers["X-ClickHouse-Exception-Code"]) == (400, SYNTAX_ERROR)


def test_what_clients_do_with_tables_works(run: Run) -> None:
    for sql in statements.ORDINARY:
        answer = run(sql)
        assert answer.status == 200, (sql, answer.body[:300])


def test_a_large_insert_of_plain_values_is_taken_and_one_with_expressions_refused(run: Run, folder: Path) -> None:
    rows = ", ".join(f"({n}, 'it''s \\\\ (file(1))')" for n in range(50_000))
    assert len(rows) > 1024 * 1024
    assert run(f"INSERT INTO t VALUES {rows}").status == 200
    assert_denied(run(f"INSERT INTO t VALUES {rows}, (1, file('{{secret}}'))"), folder)
    assert run("SELECT count() FROM t").body == b"50001\n"


def names(server: ClickHouseServer, sql: str) -> list[str]:
    return post(server, sql).body.decode().split()


def test_every_table_function_of_the_engine_is_denied_or_harmless(
    run: Run, clickhouse_server: ClickHouseServer
) -> None:
    for name in names(clickhouse_server, "SELECT name FROM system.table_functions"):
        for form in ("SELECT * FROM {}('/x', 'LineAsString', 'a String')", "INSERT INTO FUNCTION {}('/x') SELECT 1"):
            code = run(form.format(name)).headers["X-ClickHouse-Exception-Code"]
            takes_only_a_query = code == SYNTAX_ERROR and name in {"view", "viewExplain", "viewIfPermitted"}
            assert takes_only_a_query or (code == DENIED) == (name.lower() not in allowed.TABLE_FUNCTIONS), (name, code)


def test_every_table_engine_is_denied_or_harmless(run: Run, clickhouse_server: ClickHouseServer) -> None:
    for name in names(clickhouse_server, "SELECT name FROM system.table_engines"):
        code = run(f"CREATE TABLE e (a String) ENGINE = {name}").headers["X-ClickHouse-Exception-Code"]
        run("DROP TABLE IF EXISTS e")
        assert (code == DENIED) == (name not in allowed.TABLE_ENGINES), (name, code)


def test_every_database_engine_is_denied_or_harmless(run: Run, clickhouse_server: ClickHouseServer) -> None:
    for name in names(clickhouse_server, "SELECT name FROM system.database_engines"):
        if name not in allowed.DATABASE_ENGINES:
            answer = run(f"CREATE DATABASE e ENGINE = {name}('/x')")
            assert answer.headers["X-ClickHouse-Exception-Code"] == DENIED, name


def test_every_dictionary_source_is_denied_or_harmless(run: Run, clickhouse_server: ClickHouseServer) -> None:
    for name in names(clickhouse_server, "SELECT name FROM system.dictionary_sources"):
        answer = run(statements.DICTIONARY.format(source=f"{name}()", layout="FLAT()"))
        denied = answer.headers["X-ClickHouse-Exception-Code"] == DENIED
        assert denied == (name not in allowed.DICTIONARY_SOURCES), (name, answer.body)


def test_every_function_of_the_engine_is_denied_or_of_an_allowed_kind(
    run: Run, clickhouse_server: ClickHouseServer
) -> None:
    kinds = ("AI", "Introspection", "Machine Learning", "Embedded Dictionary", "Internal", "Other")
    listed = post(clickhouse_server, "SELECT name, categories FROM system.functions WHERE alias_to = ''").body.decode()
    functions = dict(line.split("\t") for line in listed.splitlines())
    assert set(functions.values()) - allowed.FUNCTION_CATEGORIES <= set(kinds)
    for name, kind in functions.items():
        if kind in kinds:
            code = run(f"SELECT {name}('/x')").headers["X-ClickHouse-Exception-Code"]
            assert (code == DENIED) == (name not in allowed.OTHER_FUNCTIONS), (name, code)


def test_text_settings_that_the_engine_lists_are_denied_or_known(run: Run, clickhouse_server: ClickHouseServer) -> None:
    listed = names(clickhouse_server, "SELECT name FROM system.settings WHERE type IN ('String', 'Map', 'URI')")
    assert len(listed) > 50
    for name in listed:
        if name not in allowed.TEXT_SETTINGS:
            assert run(f"SET {name} = 'x'").headers["X-ClickHouse-Exception-Code"] == DENIED, name


@pytest.mark.parametrize(
    "sql", ["SELECT file('{secret}')", "SELECT * FROM `{secret}`", "SELECT * FROM file('{secret}', 'LineAsString')"]
)
def test_an_operator_may_lift_the_limits(unrestricted_server: ClickHouseServer, folder: Path, sql: str) -> None:
    assert SECRET in post(unrestricted_server, filled(sql, folder)).body.decode()


def test_tables_of_the_default_database_are_kept_when_the_limits_come_and_go(tmp_path: Path) -> None:
    with ClickHouseServer(tmp_path, env={"CLICKHOUSE_UNRESTRICTED": "1"}) as server:
        assert post(server, "CREATE TABLE kept (a Int8) ENGINE = MergeTree ORDER BY a").status == 200
        assert post(server, "INSERT INTO kept VALUES (1)").status == 200
    for env in ({}, {}, {"CLICKHOUSE_UNRESTRICTED": "1"}, {}):
        server._env = env
        with server:
            assert post(server, "INSERT INTO kept SELECT max(a) + 1 FROM kept").status == 200
    with server:
        assert post(server, "SELECT groupArray(a) FROM (SELECT a FROM kept ORDER BY a)").body == b"[1,2,3,4,5]\n"
