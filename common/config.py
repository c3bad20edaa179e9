"""Settings: every knob with its unit, its default and the reason for it.

Each attribute is read from the environment variable of the same name in capitals, then from `.env`, then from the
default here. `.venv/bin/python3 -m common.config` prints what is in force, with secrets hidden.
"""

import ipaddress
import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from common import env_file, parsing, same_origin
from common.errors import ConfigError, InvalidRecord
from common.setting_names import doubtful_lines, doubtful_variables

_NAME_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
_A_NAME = "a name of letters, digits and _ that begins with no digit"  # what patterns mean, for people
_ADDRESSES = "an address that begins with http:// or https://"
_A_HOST = "a host name or IP address alone, without scheme, user, port or path"
_HOST = re.compile(r"\w[\w.-]*")
_SHOWN_HOST = re.compile(r"[\w\s.-]*(:\d+)?")  # anything else in place of a host may hold a password
_NOT_SHOWN = "; its value is not shown, since it may hold a password"


def _host(text: str) -> str:
    """Raises ValueError unless the text is a host by itself."""
    if not _HOST.fullmatch(text):
        ipaddress.IPv6Address(text[1:-1] if text[:1] + text[-1:] == "[]" else text)  # in an address it has brackets
    return text


Host = Annotated[str, AfterValidator(_host)]


class Settings(BaseSettings):
    """The effective settings of one process. Immutable; handed to whoever needs them."""

    model_config = SettingsConfigDict(
        env_file=env_file.ENV_FILE,
        env_file_encoding=env_file.ENCODING,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        allow_inf_nan=False,
    )

    # --- servers -----------------------------------------------------------------------------------------------
    redis_host: Host = Field("localhost", description="Redis or Valkey server (6.2 or newer)")
    redis_port: int = Field(6379, ge=1, le=65535, description="its port")
    redis_db: int = Field(0, ge=0, description="its database number")
    redis_password: SecretStr | None = Field(None, description="its password; none by default")
    redis_timeout_s: float = Field(
        10.0,
        gt=0,
        description="seconds until a call counts as failed; above every blocking read, which lasts at most 1 s",
    )
    redis_waitaof_s: float = Field(
        0.0,
        ge=0,
        le=5,
        description="seconds that a batch may wait, before it is sent to ClickHouse, until Redis (7.2 or newer) has "
        "synced its append-only file: for a server with appendfsync everysec; 0 does not wait",
    )
    key_prefix: str = Field(
        "",
        description="put before every Redis key, for several pipelines on one server; e.g. '{pm}:' on a cluster",
    )
    clickhouse_host: Host = Field("localhost", description="ClickHouse server, HTTP interface")
    clickhouse_port: int = Field(8123, ge=1, le=65535, description="its port")
    clickhouse_database: str = Field("polymarket", pattern=_NAME_PATTERN, description="database that holds the tables")
    clickhouse_user: str = Field("default", description="user with INSERT, SELECT and, for setup_schema.py, CREATE")
    clickhouse_password: SecretStr = Field(SecretStr(""), description="its password; empty by default")
    clickhouse_unrestricted: bool = Field(
        default=False,
        description="let clients of the embedded ClickHouse use the whole engine, with the rights of its process: "
        "files, URLs, other servers, commands; by default they can use only its tables",
    )
    clickhouse_timeout_s: float = Field(
        30.0,
        gt=0,
        description="seconds until an answer counts as missing; a busy server takes some 10 s for a large insert",
    )
    clickhouse_allowed_hosts: str = Field(
        "",
        description="host names, comma-separated, under which clients may reach the embedded ClickHouse, besides "
        "localhost, loopback addresses and CLICKHOUSE_HOST",
    )

    # --- sources -----------------------------------------------------------------------------------------------
    polymarket_api_url: str = Field(
        "https://gamma-api.polymarket.com", pattern=r"^https?://", description="Gamma REST API, for markets"
    )
    goldsky_url: str = Field(
        "https://api.goldsky.com/api/public/project_cl6mb8i9h0003e201j6li0diw/subgraphs/orderbook-subgraph/0.0.1/gn",
        pattern=r"^https?://",
        description="order book subgraph, for the fills of the V1 exchange",
    )
    goldsky_schema: Literal["v1", "v2"] = Field(
        "v1",
        description="what a fill of that subgraph looks like: v1, the public one; v2, as the community's subgraphs of "
        "the later exchanges tell it (side, tokenId, ...)",
    )
    goldsky_api_key: SecretStr | None = Field(None, description="its key, sent as a bearer token; none by default")
    polygon_rpc_url: str = Field(
        "https://polygon-rpc.com",
        pattern=r"^\s*https?://",
        description="Polygon JSON-RPC, for the fills of the later exchanges; several, comma-separated, stand in for "
        "one another, the first being preferred",
    )
    polymarket_poll_interval: float = Field(
        30,
        gt=0,
        description="seconds between two looks for new and changed markets; the API caches answers for minutes",
    )
    polymarket_page_size: int = Field(100, ge=1, le=100, description="markets a request; the API clamps to 100")
    polymarket_paging: Literal["keyset", "offset"] = Field(
        "keyset", description="keyset reaches every market; offset, the older way, ends at 2,000"
    )
    polymarket_tags: Literal["include_tag", "events"] = Field(
        "include_tag", description="where a market's tags come from: the market listing itself, or the event listing"
    )
    polymarket_requests_per_10s: int = Field(
        290, ge=1, description="own limit on requests; the API allows 300 in 10 s and slows down before it rejects"
    )
    polymarket_sweep_workers: int = Field(
        12,
        ge=1,
        le=32,
        description="requests at once while all markets are read; 1: page after page, 2: open and closed ones side by "
        "side, more: also by id. Some ten use the limit up where an answer takes 0.3 s",
    )
    goldsky_poll_interval: float = Field(5, gt=0, description="seconds between two looks for new fills, once caught up")
    goldsky_page_size: int = Field(1000, ge=1, le=1000, description="fills a request; the subgraph refuses more")
    goldsky_requests_per_10s: int = Field(45, ge=1, description="own limit on requests; the subgraph allows 50 in 10 s")
    goldsky_overlap_s: int = Field(
        60, ge=0, description="seconds before the cursor that every look reads again, for rows that appear late"
    )
    polygon_poll_interval: float = Field(2, gt=0, description="seconds between two looks for new blocks")
    polygon_requests_per_10s: int = Field(100, ge=1, description="own limit on requests to each Polygon provider")
    polygon_max_blocks: int = Field(
        500, ge=1, le=10_000, description="blocks a request at most, some 50 kB each; less where a provider allows less"
    )
    polygon_overlap_blocks: int = Field(
        8, ge=0, description="blocks before the cursor that every look reads again, for logs that appear late"
    )
    polygon_second_look_s: int = Field(
        300,
        ge=0,
        le=3600,
        description="seconds until each block is read once more, for logs that a node shows only then; 0: never",
    )
    polygon_confirmations: int = Field(
        64, ge=0, description="blocks that a block has to be old, where a provider can't tell which ones are final"
    )
    exchange_addresses: str = Field(
        "0x4bfb41d5b3570defd03c39a9a4d8de6bd8b8982e,0xc5d563a36ae78145c45a50134d48a1215220f80a,"
        "0xe111180000d2663c0091e4f400237545b87b996b,0xe2222d279d744050d28e00520010520000310f59,"
        "0xe3333700ca9d93003f00f0f71f8515005f6c00aa",
        description="exchange contracts whose fills are read from the chain, comma-separated: V1, V2 and V3",
    )
    cutover_block: int = Field(
        86_126_998, ge=0, description="first block that is read from the chain; fills before it come from the subgraph"
    )
    cutover_timestamp: int = Field(
        1_777_374_040,
        ge=0,
        lt=2**32,
        description="Unix seconds of that block; fills of V1 up to and including it come from the subgraph",
    )
    order_events_start: str = Field(
        "1h",
        description="where a first start begins: 90s, 30m, 1h, 7d before now, a UTC date, Unix seconds, or a block "
        "from the cut-over on",
    )
    backfill_workers: int = Field(
        12, ge=1, le=64, description="requests to the subgraph under way at once, in a backfill; it needs 5 to 15"
    )
    backfill_requests_per_10s: int = Field(
        48, ge=1, description="a backfill's own limit on requests to the subgraph, which allows 50 in 10 s to everybody"
    )
    backfill_polygon_workers: int = Field(
        4, ge=1, le=64, description="the same for Polygon; each holds a request's blocks, some 40 MB"
    )
    backfill_polygon_requests_per_10s: int = Field(
        90, ge=1, description="a backfill's own limit on requests to each Polygon provider"
    )
    http_connect_timeout_s: float = Field(5.0, gt=0, description="seconds to reach a source")
    http_read_timeout_s: float = Field(
        15.0, gt=0, description="seconds of silence until a source's answer counts as missing; bounds a stop as well"
    )

    # --- streams and groups ------------------------------------------------------------------------------------
    stream_markets: str = Field("stream:markets", description="markets, from polymarket_ingester")
    stream_order_events: str = Field("stream:order_events", description="fills, from the ingesters of fills")
    stream_trades: str = Field("stream:trades", description="trades, from trade_processor")
    group_markets_writers: str = Field("markets_writers", description="consumer group: markets to ClickHouse")
    group_order_events_writers: str = Field("order_events_writers", description="consumer group: fills to ClickHouse")
    group_trades_writers: str = Field("trades_writers", description="consumer group: trades to ClickHouse")
    group_events_processors: str = Field("events_processors", description="consumer group: fills to trades")
    stream_backlog_limit: int = Field(
        500_000,
        ge=1,
        description="entries that a group may be behind before ingesters pause; some 500 MB of Redis memory",
    )
    trim_interval_s: float = Field(5.0, gt=0, description="seconds between two trims of what every group has finished")
    lease_s: float = Field(
        15.0, ge=1, description="seconds after which a silent consumer counts as dead and others take over its entries"
    )

    # --- trade processor ---------------------------------------------------------------------------------------
    processor_batch_size: int = Field(2000, ge=1, description="fills a read")
    unknown_token_ttl: int = Field(
        3600, ge=1, description="seconds that a fill waits for its market; then it goes to the dead letters"
    )
    unknown_token_recheck_s: float = Field(
        15.0, gt=0, description="seconds between two look-ups in ClickHouse of the tokens that fills wait for"
    )
    processor_waiting_limit: int = Field(
        50_000, ge=1, description="fills that may wait in memory for their markets; no new ones are read beyond it"
    )
    token_cache_size: int = Field(
        200_000, ge=1, description="tokens kept in memory, some 100 MB; the rest is looked up in ClickHouse"
    )

    # --- ClickHouse writer -------------------------------------------------------------------------------------
    clickhouse_writer_batch_size: int = Field(5000, ge=1, description="rows that make a batch due at once")
    clickhouse_writer_max_wait: float = Field(
        2.0, gt=0, le=30, description="seconds that a row waits for its batch to fill; the larger part of the latency"
    )
    clickhouse_writer_max_batch_size: int = Field(
        50_000, ge=1, description="rows a batch grows to while a backlog lasts; ClickHouse likes 10,000 to 100,000"
    )

    # --- runtime -----------------------------------------------------------------------------------------------
    backoff_initial_s: float = Field(0.5, gt=0, description="seconds of the first wait when something is unavailable")
    backoff_max_s: float = Field(30.0, gt=0, description="seconds of the longest such wait, before jitter")
    drain_s: float = Field(
        20.0, gt=0, description="seconds that a stopping process takes to finish what it holds; supervisord allows 60"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least severe level that is logged"
    )
    log_dir: Path = Field(Path("logs"), description="folder of the rotating log files")
    log_to_file: bool = Field(
        default=True,
        description="write log files beside the console; off under supervisord and Docker, which keep the console",
    )
    pipeline_mode: Literal["live", "demo"] = Field(
        "live", description="demo: the sources are simulated; kept beside the data, so that the two never mix"
    )

    # --- dashboard ---------------------------------------------------------------------------------------------
    dashboard_host: Host = Field("127.0.0.1", description="address to listen on; it has no log-in, so loopback")
    dashboard_port: int = Field(8000, ge=1, le=65535, description="its port")
    dashboard_allowed_hosts: str = Field(
        "",
        description="host names, comma-separated, that it answers to besides localhost, loopback addresses and "
        "DASHBOARD_HOST, such as those that a scraper or a proxy in front of it uses",
    )
    stale_after_s: float = Field(
        90.0, gt=0, description="seconds without a heartbeat until a stage counts as broken; above its longest step"
    )


HOSTS = ("redis_host", "clickhouse_host", "dashboard_host")
SECRETS = ("redis_password", "clickhouse_password", "goldsky_api_key")
ADDRESSES = ("polymarket_api_url", "goldsky_url", "polygon_rpc_url")


def load_settings() -> Settings:
    """Settings from the environment and `.env`. Raises ConfigError with a line per wrong variable."""
    env_file.read_text()  # pydantic ignores a directory, and its traceback for bad bytes shows them
    try:
        settings = Settings()
    except ValidationError as error:
        raise ConfigError("\n".join(_complaints(error))) from None
    _check_texts(settings)
    return settings


def doubtful_names() -> list[str]:
    """A warning for each name in `.env` or the environment that was probably meant to be a setting; never its value."""
    known = [name.upper() for name in Settings.model_fields]
    lines = env_file.lines(env_file.read_text())
    return [*doubtful_lines(lines, known), *doubtful_variables(os.environ, known)]


def _check_texts(settings: Settings) -> None:
    """What pydantic can't see in a text. Raises ConfigError, as the process that reads it would."""
    key = settings.goldsky_api_key.get_secret_value() if settings.goldsky_api_key else ""
    if not all("!" <= sign <= "~" for sign in key):
        raise ConfigError("GOLDSKY_API_KEY: expected visible ASCII characters without spaces")
    for name in SECRETS:
        _check_encoding(name, getattr(settings, name))
    for name in ADDRESSES:
        _check_addresses(name, getattr(settings, name))
    parsing.start_time(settings.order_events_start, time.time())
    same_origin.host_names(settings.clickhouse_allowed_hosts, "CLICKHOUSE_ALLOWED_HOSTS")
    same_origin.host_names(settings.dashboard_allowed_hosts, "DASHBOARD_ALLOWED_HOSTS")
    for address in settings.exchange_addresses.split(","):
        try:
            parsing.address(address.strip(), "EXCHANGE_ADDRESSES")
        except InvalidRecord as error:
            raise ConfigError(str(error)) from None


def _check_encoding(name: str, secret: SecretStr | None) -> None:
    try:
        (secret or SecretStr("")).get_secret_value().encode()
    except UnicodeEncodeError:  # a byte of the environment that is not UTF-8
        raise ConfigError(f"{name.upper()}: expected text in UTF-8") from None


def _check_addresses(name: str, addresses: str) -> None:
    """Refuses a password with a `/` in it: it would end the host, and what precedes it would be shown as the port."""
    try:
        for address in addresses.split(","):
            urlsplit(address.strip()).port  # noqa: B018 - raises ValueError
    except ValueError:
        raise ConfigError(f"{name.upper()}: expected {_ADDRESSES}, then a host and a port{_NOT_SHOWN}") from None


def _complaints(error: ValidationError) -> list[str]:
    return [
        _complaint(".".join(map(str, problem["loc"])), problem["msg"], problem["input"]) for problem in error.errors()
    ]


def _complaint(name: str, message: str, value: object) -> str:
    expected = _A_HOST if name in HOSTS else _expectation(message)
    return f"{name.upper()}: expected {expected}{_got(name, str(value))}"


def _got(name: str, text: str) -> str:
    may_be_shown = _SHOWN_HOST.fullmatch(text) if name in HOSTS else "@" not in text
    if name in SECRETS or not may_be_shown:
        return _NOT_SHOWN
    shown = ",".join(map(_without_key, text.split(","))) if "://" in text else text
    return f", got {shown!r}"


def _expectation(message: str) -> str:
    if "match pattern" in message:
        return _A_NAME if _NAME_PATTERN in message else _ADDRESSES
    return message.removeprefix("Input should be ").split(", unable to")[0].replace("a valid integer", "an integer")


def describe(settings: Settings) -> str:
    """One line a setting, `NAME=value  # what it is`, as `.env` takes it; secrets hidden."""
    return "\n".join(
        f"{name.upper()}={_shown(name, getattr(settings, name))}  # {field.description}"
        for name, field in Settings.model_fields.items()
    )


def _shown(name: str, value: object) -> str:
    if isinstance(value, SecretStr):
        return "(hidden)" if value.get_secret_value() else ""
    if name in ADDRESSES and value != Settings.model_fields[name].default:  # providers put their keys into the path
        return ",".join(map(_without_key, str(value).split(",")))
    return "" if value is None else str(value)


def _without_key(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return "(hidden)"
    host = parts.netloc.rpartition("@")[2]
    has_key = host != parts.netloc or parts.path.strip("/") or parts.query
    return f"{parts.scheme}://{host}/(hidden)" if has_key else url.strip()


def main() -> int:
    """Print the effective settings; 2 and the complaints when one is wrong."""
    try:
        print(describe(load_settings()))  # noqa: T201 - the command's output
        for warning in doubtful_names():
            print(warning, file=sys.stderr)  # noqa: T201
    except ConfigError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
