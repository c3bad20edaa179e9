"""The lines that keep fills whole and strangers out, each with a broken version. See mutations.py."""

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

WRITER = "processors/clickhouse_writer.py"
PROCESSOR = "processors/trade_processor.py"
QUEUE = "common/redis_queue.py"
WRITER_TESTS = "tests/integration/test_clickhouse_writer.py"
PROCESSOR_TESTS = "tests/integration/test_trade_processor.py"
QUEUE_TESTS = "tests/integration/test_redis_queue.py"
CLICKHOUSE_TESTS = "tests/integration/test_clickhouse.py"
PROGRESS_TESTS = "tests/integration/test_backfill_progress.py"
BACKFILL_TESTS = "tests/integration/test_backfill.py"
GAMMA_TESTS = "tests/integration/test_gamma_failures.py"
REBUILD_TESTS = "tests/integration/test_rebuild_markets.py"
ENUMERATED = "tests/faults/test_enumerated_crashes.py"
ENGINE = "embedded/engine.py"
ACCESS = "embedded/access/policy.py"
ACCESS_TESTS = "tests/integration/test_embedded_access.py"
EMPTY_ANSWER_TESTS = "tests/integration/test_empty_answers.py"
STANDSTILL_TESTS = "tests/unit/test_standstill.py"
REPETITION_TESTS = "tests/integration/test_repetitions.py"
SAME_ORIGIN = "common/same_origin.py"
SAME_ORIGIN_TESTS = "tests/unit/test_same_origin.py"
HTTP_REQUEST = "embedded/http_request.py"
HTTP_REQUEST_TESTS = "tests/unit/test_embedded_http_request.py"
HTTP_HANDLER = "embedded/http_handler.py"
REFUSALS = "tests/integration/test_embedded_clickhouse_requests.py"
REPLAY_FILL = "common/lua/replay_fill.lua"
SOURCE_REPLAY_TESTS = "tests/integration/test_replay_of_sources.py"
SOURCE_AUDIT_TESTS = "tests/integration/test_source_audit.py"


class Mutation(NamedTuple):
    """One safety line, what it becomes, and the tests that have to notice."""

    name: str
    path: str
    line: str  # stands in the file exactly once
    broken: str
    tests: str


MUTATIONS = (
    Mutation(
        "acknowledged before the insert",
        WRITER,
        '        rows = b"\\n".join(',
        '        self._manifests.finish(manifest, channel.route)\n        rows = b"\\n".join(',
        WRITER_TESTS,
    ),
    Mutation(
        "insert without a token", "common/clickhouse.py", '"insert_deduplication_token": token', "", CLICKHOUSE_TESTS
    ),
    Mutation(
        "tables forget tokens",
        "common/tables.py",
        "DEDUPLICATION_WINDOW = 10_000",
        "DEDUPLICATION_WINDOW = 0",
        CLICKHOUSE_TESTS,
    ),
    Mutation("batch sent without a manifest", WRITER, "        self._manifests.begin(manifest)\n", "", WRITER_TESTS),
    Mutation(
        "batch fixed without a lease",
        "common/lua/begin_batch.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end",
        "",
        WRITER_TESTS,
    ),
    Mutation(
        "batch acknowledged without a lease",
        "common/lua/finish_batch.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end",
        "",
        WRITER_TESTS,
    ),
    Mutation(
        "entries read while a dead writer's batch is open", WRITER, "if self.recovering or not", "if not", WRITER_TESTS
    ),
    Mutation(
        "entries of a lost reply forgotten by the writer",
        WRITER,
        "            self.read_again(consumer)  # the reply",
        "            # the reply",
        ENUMERATED,
    ),
    Mutation(
        "entries of a lost reply forgotten by the processor",
        PROCESSOR,
        "            self._read_again()  # the reply",
        "            # the reply",
        ENUMERATED,
    ),
    Mutation(
        "trade written without looking at XACK",
        "common/lua/complete.lua",
        "if redis.call('XACK', source, group, unpack(ids, first, last)) > 0 then",
        "redis.call('XACK', source, group, unpack(ids, first, last))\n  do",
        QUEUE_TESTS,
    ),
    Mutation(
        "entries acknowledged together without the lease",
        "common/lua/complete.lua",
        "if redis.call('GET', KEYS[4]) ~= ARGV[4] then return false end",
        "",
        QUEUE_TESTS,
    ),
    Mutation(
        "entries acknowledged together without counting them",
        "common/lua/complete.lua",
        "if consumer[1] == ARGV[3] then return consumer[2] == ARGV[5] end",
        "return true",
        QUEUE_TESTS,
    ),
    Mutation(
        "cursor moved before the push",
        QUEUE,
        '        pushed = Pushed(*self._large_script("publish_new", keys, arguments))',
        '        self.call("MSET", cursor[0], place[0], cursor[1], place[1])\n'
        '        pushed = Pushed(*self._large_script("publish_new", keys, arguments))',
        f"{ENUMERATED} {QUEUE_TESTS}",
    ),
    Mutation(
        "cursor moves back",
        "common/lua/publish_new.lua",
        "if position_time > cursor_time or (position_time == cursor_time and position_id > cursor_id) then",
        "do",
        QUEUE_TESTS,
    ),
    Mutation(
        "a repeated batch is not looked for",
        "processors/clickhouse_writer.py",
        "self._clickhouse.batch_insert if is_first else self._clickhouse.insert_again",
        "self._clickhouse.batch_insert",
        "tests/integration/test_clickhouse_writer.py",
    ),
    Mutation(
        "batches under its own name not looked for",
        "processors/clickhouse_writer.py",
        "            self._load_manifests()\n            there_may_be_more",
        "            there_may_be_more",
        "tests/integration/test_clickhouse_writer.py",
    ),
    Mutation(
        "a connection used again with replies to come",
        QUEUE,
        "            self.open = 0\n            self._connection.disconnect()",
        "            self.open = 0",
        QUEUE_TESTS,
    ),
    Mutation(
        "seen ids ignored",
        "common/lua/publish_new.lua",
        "if seen[place - from + 1] or here",
        "if here",
        QUEUE_TESTS,
    ),
    Mutation(
        "trimmed by length",
        "common/lua/trim.lua",
        "redis.call('XTRIM', KEYS[1], 'MINID', '=', smallest)",
        "redis.call('XTRIM', KEYS[1], 'MAXLEN', '=', 1)",
        QUEUE_TESTS,
    ),
    Mutation(
        "trimmed while a group is missing",
        "common/lua/trim.lua",
        "if found < #ARGV then return 0 end",
        "",
        QUEUE_TESTS,
    ),
    Mutation(
        "entries claimed from the living",
        "common/lua/claim_dead.lua",
        "redis.call('EXISTS', KEYS[2]) == 1 or ",
        "",
        QUEUE_TESTS,
    ),
    Mutation(
        "entries claimed before the manifests are adopted",
        "common/lua/claim_dead.lua",
        " or redis.call('HLEN', KEYS[3]) > 0",
        "",
        QUEUE_TESTS,
    ),
    Mutation("new groups skip what is there", QUEUE, '"0", "MKSTREAM"', '"$", "MKSTREAM"', QUEUE_TESTS),
    Mutation(
        "own backlog not read", QUEUE, 'get((route, consumer), b"0")', 'get((route, consumer), b">")', QUEUE_TESTS
    ),
    Mutation(
        "batch sent before Redis has synced it",
        QUEUE,
        "        if not synced:\n",
        "        if False:\n",
        "tests/integration/test_waitaof.py",
    ),
    Mutation(
        "replayed for every group",
        "common/lua/replay.lua",
        "'data', data, 'for', ARGV[i + 1])",
        "'data', data)",
        "tests/integration/test_dead_letters.py",
    ),
    Mutation(
        "a source's dead letter replayed by two at once",
        REPLAY_FILL,
        "if #call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 'gone' end",
        "",
        SOURCE_REPLAY_TESTS,
    ),
    Mutation(
        "replayed although the source has published it",
        REPLAY_FILL,
        "is_known = call('ZSCORE', KEYS[3], ARGV[3])",
        "is_known = false",
        SOURCE_REPLAY_TESTS,
    ),
    Mutation(
        "replayed and not remembered as published",
        REPLAY_FILL,
        "if place >= floor then call('ZADD', KEYS[3], ARGV[4], ARGV[3]) end",
        "",
        SOURCE_REPLAY_TESTS,
    ),
    Mutation(
        "replayed on ClickHouse's word without the lease on backfills",
        REPLAY_FILL,
        "call('GET', KEYS[6]) ~= ARGV[7] or ",
        "",
        SOURCE_REPLAY_TESTS,
    ),
    Mutation(
        "replayed while what was published before is on its way",
        "ingesters/replay.py",
        "        self._wait_for_writers(stream)\n        self._floor",
        "        self._floor",
        SOURCE_REPLAY_TESTS,
    ),
    Mutation(
        "a window that has moved on since ClickHouse was asked",
        "ingesters/replay.py",
        "        if place < self._floor:\n            return\n",
        "        if self._floor >= 0:\n            return\n",
        SOURCE_REPLAY_TESTS,
    ),
    Mutation(
        "an answer of ClickHouse from before the window moved on",
        REPLAY_FILL,
        " or place >= tonumber(ARGV[8])",
        "",
        SOURCE_REPLAY_TESTS,
    ),
    Mutation(
        "two letters of one fill replayed",
        "ingesters/replay.py",
        "is_known or offer.identity in self._published",
        "is_known",
        SOURCE_REPLAY_TESTS,
    ),
    Mutation(
        "an older market replayed over a newer one",
        "common/lua/replay_market.lua",
        "local is_known = remembered and remembered ~= ARGV[5]",
        "local is_known = false",
        SOURCE_REPLAY_TESTS,
    ),
    Mutation(
        "fills of unknown tokens dropped",
        PROCESSOR,
        "self._wait_for_markets(unknown)",
        "self._queue.ack(self._events, [item.entry.id for item in unknown])",
        PROCESSOR_TESTS,
    ),
    Mutation(
        "backfill publishes without a lease",
        "common/lua/publish_slice.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end",
        "",
        PROGRESS_TESTS,
    ),
    Mutation(
        "backfill publishes from where its slice no longer is",
        "common/lua/publish_slice.lua",
        "if cursor ~= ARGV[3] then return -2 end",
        "",
        PROGRESS_TESTS,
    ),
    Mutation(
        "backfill takes a slice twice",
        "common/lua/take_slice.lua",
        "if redis.call('HGET', KEYS[2], 'frontier') ~= ARGV[2] then return 0 end",
        "",
        PROGRESS_TESTS,
    ),
    Mutation(
        "a sweep goes on from a place that Redis has lost",
        "common/lua/publish_changed.lua",
        "if ARGV[3] ~= '' and (redis.call('GET', KEYS[4]) or '') ~= ARGV[4] then return {-1, 0, 0} end",
        "",
        QUEUE_TESTS,
    ),
    Mutation(
        "a rebuild leaves what is remembered of markets",
        "processors/rebuild_markets.py",
        "            forget_published(queue)\n",
        "",
        REBUILD_TESTS,
    ),
    Mutation(
        "a rebuild leaves the sweep's place",
        "processors/rebuild_markets.py",
        ", *(queue.keys.state(name) for name in STATES))",
        ")",
        REBUILD_TESTS,
    ),
    Mutation(
        "a rebuild is done while entries are on their way",
        "processors/rebuild_markets.py",
        "return self.is_read and self.unwritten == 0",
        "return self.is_read",
        REBUILD_TESTS,
    ),
    Mutation(
        "one refusal gives a cursor up",
        "ingesters/market_sweep.py",
        "return Place() if self._count >= REFUSALS else place",
        "return Place() if self._count else place",
        "tests/unit/test_market_sweep.py",
    ),
    Mutation(
        "a filter that is passed over passes for an answer",
        "ingesters/gamma.py",
        "            if sum(map(is_wanted, raws)) < len(raws) / 2:\n",
        "            if not raws and not wanted:\n",
        GAMMA_TESTS,
    ),
    Mutation(
        "an unreadable flag resolves a market",
        "ingesters/market_parser.py",
        "winning_outcome=winning_outcome(outcomes, exact_prices) if closed else None",
        "winning_outcome=winning_outcome(outcomes, exact_prices)",
        "tests/unit/test_market_parser.py",
    ),
    Mutation(
        "backfill does not wait for what is on its way",
        "ingesters/backfill_run.py",
        "        self._patience.until(barrier.obstacle)\n",
        "",
        BACKFILL_TESTS,
    ),
    Mutation(
        "backfill does not compare with ClickHouse",
        "ingesters/backfill_known.py",
        "if offer.identity not in stored]",
        "if offer]",
        BACKFILL_TESTS,
    ),
    Mutation(
        "backfill takes what is the live ingester's",
        "ingesters/backfill_goldsky.py",
        "end = min(wanted, self._live_floor())",
        "end = wanted",
        BACKFILL_TESTS,
    ),
    Mutation(
        "live ingester begins before a backfill's end",
        "ingesters/goldsky_ingester.py",
        "wanted, self._start = self._start, cursor.timestamp - self._window_s",
        "wanted = self._start",
        BACKFILL_TESTS,
    ),
    Mutation("statements executed unread", ACCESS, "        check.statement(sql)\n", "", ACCESS_TESTS),
    Mutation(
        "INSERT executed unread",
        ENGINE,
        "            self._policy.permit(sql, self._parameters, file.name)\n",
        "",
        ACCESS_TESTS,
    ),
    Mutation(
        "expressions in VALUES executed unread", ENGINE, 'insert.format.lower() == "values"', "False", ACCESS_TESTS
    ),
    Mutation(
        "settings of a request unread", ENGINE, "        self._policy.permit_settings(settings)\n", "", ACCESS_TESTS
    ),
    Mutation("paths are tables", ENGINE, "            self._leave_files_out()\n", "            pass\n", ACCESS_TESTS),
    Mutation("every privilege granted", "embedded/access/grants.py", '", ".join(_ON_TABLES)', '"ALL"', ACCESS_TESTS),
    Mutation(
        "files named in statements",
        ACCESS,
        '                raise denied("a file in a statement")',
        "                pass",
        ACCESS_TESTS,
    ),
    Mutation(
        "functions named as arguments",
        ACCESS,
        "                self._catalogue.require_harmless(name)",
        "                pass",
        ACCESS_TESTS,
    ),
    Mutation(
        "SQL in the names of columns",
        ACCESS,
        '            check.statement(f"CREATE TABLE columns',
        '            self._parser.tree(f"CREATE TABLE columns',
        ACCESS_TESTS,
    ),
    Mutation(
        "append-only file repaired without a copy",
        "embedded/append_only_file.py",
        "    shutil.copy2(damage.path, kept)\n",
        "    kept.touch()\n",
        "tests/integration/test_append_only_file.py",
    ),
    Mutation(
        "append-only file of a running server repaired",
        "embedded/redis_server.py",
        "    data_directory.claim(directory)\n    path, binary",
        "    path, binary",
        "tests/integration/test_append_only_file.py",
    ),
    Mutation(
        "append-only file that was cut off taken for a damaged one",
        "embedded/append_only_file.py",
        " or _is_cut_off(path, int(readable[1]))",
        "",
        "tests/integration/test_append_only_file.py",
    ),
    Mutation(
        "data folder open to other users",
        "embedded/data_directory.py",
        "    directory.chmod(0o700)",
        "    pass",
        "tests/integration/test_embedded_redis.py",
    ),
    Mutation(
        "empty answer taken for an insert that ClickHouse has done",
        "common/clickhouse.py",
        "any(name in answer.headers for name in CONFIRMED_BY)",
        "True",
        EMPTY_ANSWER_TESTS,
    ),
    Mutation(
        "empty answer read as a look-up that found nothing",
        "common/clickhouse.py",
        "if found and not rows:",
        "if False:",
        EMPTY_ANSWER_TESTS,
    ),
    Mutation(
        "password in place of a host repeated",
        "common/config.py",
        "if name in SECRETS or not may_be_shown:",
        "if False:",
        "tests/unit/test_config.py",
    ),
    Mutation(
        "frozen processes unnoticed",
        "monitoring/standstill.py",
        "                yield from _frozen(",
        "                yield from () if True else _frozen(",
        STANDSTILL_TESTS,
    ),
    Mutation(
        "entries left unread by a frozen process unnoticed",
        "monitoring/standstill.py",
        "if is_alone and unread >= WAITED_S:",
        "if False:",
        STANDSTILL_TESTS,
    ),
    Mutation(
        "frozen though it asks for entries",
        "monitoring/standstill.py",
        "if not own or any(member.idle_s <= QUIET_S for member in own):",
        "if False:",
        STANDSTILL_TESTS,
    ),
    Mutation(
        "rows stored twice unnoticed",
        WRITER,
        "        self._repetitions.check(table, batch.entries)\n",
        "",
        REPETITION_TESTS,
    ),
    Mutation(
        "rows stored twice again not counted again",
        "monitoring/repetitions.py",
        "return count.is_final and count.noticed_at >= note.noticed_at",
        "return count.is_final",
        REPETITION_TESTS,
    ),
    Mutation(
        "days that were not counted pass for 0",
        "monitoring/repetitions.py",
        "if len(known_rows) == len(counts):",
        "if True:",
        REPETITION_TESTS,
    ),
    Mutation(
        "a fill that a source has and the table lacks hidden",
        "monitoring/source_differences.py",
        "_without(theirs, ours, our_ids)",
        "[]",
        SOURCE_AUDIT_TESTS,
    ),
    Mutation(
        "a row that no source has hidden",
        "monitoring/source_differences.py",
        "_without(ours, theirs, their_ids)",
        "[]",
        SOURCE_AUDIT_TESTS,
    ),
    Mutation(
        "what is on its way called missing",
        "monitoring/source_audit.py",
        "if content_of(fill) not in waiting",
        "",
        SOURCE_AUDIT_TESTS,
    ),
    Mutation(
        "one provider's word for what no source has",
        "monitoring/source_audit.py",
        "of_either(fills, again.fills)",
        "fills",
        SOURCE_AUDIT_TESTS,
    ),
    Mutation(
        "a dead ingester's gap hidden",
        "monitoring/unread.py",
        'if source.state != "catching up":',
        "if False:",
        "tests/integration/test_audit.py",
    ),
    Mutation(
        "an interrupted backfill's gap hidden",
        "monitoring/unread.py",
        'holder_of(queue, f"backfill_{source}") is not None',
        "True",
        "tests/integration/test_audit.py",
    ),
    Mutation(
        "no warning about eviction",
        "common/eviction.py",
        '            self._log.warning("%s", warning)\n',
        "            pass\n",
        "tests/unit/test_runtime.py",
    ),
    Mutation(
        "foreign host name answered",
        SAME_ORIGIN,
        "if host is None or not own.include(host.name):",
        "if host is None:",
        SAME_ORIGIN_TESTS,
    ),
    Mutation(
        "first of several hosts answered",
        SAME_ORIGIN,
        "hosts[0] if len(hosts) == 1 else None",
        "hosts[0] if hosts else None",
        SAME_ORIGIN_TESTS,
    ),
    Mutation(
        "server on every address answers to every name",
        SAME_ORIGIN,
        "return address is not None and (address.is_loopback or",
        "return address is None or (address.is_loopback or",
        SAME_ORIGIN_TESTS,
    ),
    Mutation(
        "page of another port answered",
        SAME_ORIGIN,
        'frozenset({"none", "same-origin"})',
        'frozenset({"none", "same-origin", "same-site"})',
        SAME_ORIGIN_TESTS,
    ),
    Mutation(
        "foreign origin answered",
        SAME_ORIGIN,
        "_of_origin(value.strip(_BLANKS)) == host for",
        "_of_origin(value.strip(_BLANKS)) for",
        SAME_ORIGIN_TESTS,
    ),
    Mutation(
        "foreign page answered by ClickHouse", HTTP_HANDLER, "            self._refuse_foreign_pages()\n", "", REFUSALS
    ),
    Mutation(
        "foreign page answered by the dashboard",
        "monitoring/access.py",
        "        if refused:",
        "        if refused is ...:",
        "tests/unit/test_dashboard_app.py",
    ),
    Mutation(
        "body of a refused request read as the next one",
        HTTP_HANDLER,
        "            self.close_connection = True  # its body",
        "            # its body",
        REFUSALS,
    ),
    Mutation("result runs scripts in a browser", HTTP_HANDLER, "; sandbox", "", REFUSALS),
    Mutation(
        "header injected",
        HTTP_HANDLER,
        "send_header(keyword, as_header(value))",
        "send_header(keyword, value)",
        REFUSALS,
    ),
    Mutation(
        "statement without the password",
        HTTP_HANDLER,
        "if not self.server.credentials.matches(request.credentials):",
        "if self.server.credentials is ...:",
        REFUSALS,
    ),
    Mutation(
        "statement in the name of a parameter",
        HTTP_REQUEST,
        "if not _PARAMETER_NAME.fullmatch(name):",
        "if not name:",
        HTTP_REQUEST_TESTS,
    ),
    Mutation(
        "odd header line read in some way",
        HTTP_REQUEST,
        "if not _HEADER_LINE.fullmatch(line):",
        'if b":" not in line:',
        HTTP_REQUEST_TESTS,
    ),
    Mutation(
        "body of two lengths",
        "embedded/http_body.py",
        "if len(lengths) + len(encodings) > 1:",
        "if len(encodings) > 1:",
        "tests/unit/test_embedded_http_body.py",
    ),
    Mutation(
        "chunk size as Python reads it",
        "embedded/http_body.py",
        'rb"([0-9A-Fa-f]{1,15})',
        'rb"([-+_xX0-9A-Fa-f]{1,15})',
        "tests/unit/test_embedded_http_body.py",
    ),
    Mutation(
        "log line forged by what it quotes",
        "common/log_lines.py",
        "return printable(super().formatMessage(record))",
        "return super().formatMessage(record)",
        "tests/unit/test_log_lines.py",
    ),
    Mutation(
        "the embedded ClickHouse may open any file",
        "embedded/clickhouse_server.py",
        "and not confine(settings.path.resolve())",
        "and False",
        "tests/integration/test_confinement.py",
    ),
    Mutation(
        "the kernel's confinement lets write anywhere",
        "embedded/access/confinement.py",
        "ctypes.c_uint64(_EVERYTHING)",
        "ctypes.c_uint64(_READ)",
        "tests/integration/test_confinement.py",
    ),
    Mutation(
        "comments and escapes beside expressions in VALUES",
        ACCESS,
        "if not _PLAIN_EXPRESSIONS.fullmatch(data)",
        "if not data",
        ACCESS_TESTS,
    ),
    Mutation(
        "columns that can't be read count as harmless",
        ACCESS,
        '            raise denied(f"an argument of {function} that can\'t be read as columns") from error\n',
        "            del error\n",
        ACCESS_TESTS,
    ),
    Mutation(
        "a view keeps the name of a function as its parameter",
        ACCESS,
        "            if self._keeps_parameters:",
        "            if False:",
        ACCESS_TESTS,
    ),
    Mutation(
        "statements of names followed by anything",
        ACCESS,
        "not _OF_NAMES.fullmatch(",
        "not _OF_NAMES.match(",
        ACCESS_TESTS,
    ),
)
