"""Tokens of many markets: found with bounded memory, from little of the table, and after an older one's migration."""

from random import Random

from common.records import encode, tokens_of
from common.tables import MARKET_TOKENS, MARKET_TOKENS_VIEW, MARKETS
from processors.token_index import TokenIndex
from setup_schema import apply_schema
from tests.builders import Pipeline, make_market
from tests.pipelines import pipeline, pipeline_settings

__all__ = ["pipeline", "pipeline_settings"]

COUNT = 3000


def insert(pipeline: Pipeline, count: int) -> None:
    rows = b"\n".join(encode(make_market(i)) for i in range(count))
    pipeline.clickhouse.batch_insert(MARKETS, rows, f"markets of {pipeline.settings.key_prefix}")


def index_of(pipeline: Pipeline, capacity: int) -> TokenIndex:
    return TokenIndex(pipeline.queue, pipeline.clickhouse, pipeline.markets, capacity)


def test_every_token_is_found_however_few_of_them_fit_into_memory(pipeline: Pipeline) -> None:
    insert(pipeline, COUNT)
    tokens = {token: known for i in range(COUNT) for token, known in tokens_of(make_market(i)).items()}
    index, rng = index_of(pipeline, 100), Random(1)
    for _ in range(5):
        wanted = rng.sample(sorted(tokens), 1200)
        assert index.look_up(wanted) == {token: tokens[token] for token in wanted}
        assert len(index._recent) <= 100
    assert index.look_up(["1", "2"]) == {}


def test_a_look_up_reads_little_of_the_table(pipeline: Pipeline) -> None:
    insert(pipeline, COUNT)
    (ddl,) = pipeline.clickhouse.query(f"SHOW CREATE TABLE {pipeline.clickhouse.database}.market_tokens")
    assert "index_granularity = 64" in ddl[0]
    token = make_market(7).token_ids[0]
    sql = f"EXPLAIN ESTIMATE SELECT * FROM {pipeline.clickhouse.database}.market_tokens WHERE token_id IN ('{token}')"
    ((*_, rows, _marks),) = pipeline.clickhouse.query(sql)
    assert 0 < rows <= 128


def test_a_table_of_an_older_version_becomes_one_for_look_ups_and_keeps_its_rows(pipeline: Pipeline) -> None:
    database = pipeline.clickhouse.database
    for statement in (
        f"DROP VIEW {database}.market_tokens_view",
        f"DROP TABLE {database}.market_tokens",
        MARKET_TOKENS._replace(settings=()).create(database),
        MARKET_TOKENS_VIEW.create(database),
        f"ALTER TABLE {database}.schema_migrations DELETE WHERE number = 2 SETTINGS mutations_sync = 1",
    ):
        pipeline.clickhouse.command(statement)
    insert(pipeline, 10)
    told: list[str] = []
    apply_schema(pipeline.clickhouse, "live", told.append)
    assert [line for line in told if line.startswith("migrated")] == ["migrated  2: market_tokens is made for look-ups"]
    (ddl,) = pipeline.clickhouse.query(f"SHOW CREATE TABLE {database}.market_tokens")
    assert "index_granularity = 64" in ddl[0]
    tokens = {token for i in range(10) for token in make_market(i).token_ids}
    assert set(index_of(pipeline, 100).look_up(tokens)) == tokens
