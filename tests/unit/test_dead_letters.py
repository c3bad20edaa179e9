"""How dead letters are grouped, shown and kept, and what the command line takes."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.dead_letters import DeadLetter
from processors import dead_letter_text as text
from processors.dead_letter_selection import SOURCES, Selection, why_it_stays
from processors.dead_letters import main, parser

STREAM = "stream:order_events"
GROUPS = {STREAM: ("events_processors", "order_events_writers")}
HOSTILE = "\x1b[2J\x07\x9b31m\u202eevil\r\n\x7f"


def letter(data: bytes = b"{}", reason: str = "no", number: int = 0, **changes: str) -> DeadLetter:
    made = DeadLetter(f"1763749000000-{number}", data, reason, STREAM, "1-0", 1, "now", "events_processors")
    return made._replace(**changes)  # type: ignore[arg-type]  # strings only


class TestGrouping:
    """Reasons of one kind become one."""

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("no market lists its token within 3600 s", "no market lists its token within 1 s"),
            ("maker: expected an address, got '0x12ab'", "maker: expected an address, got '0xff'"),
            ("ClickHouse at 127.0.0.1:8123: row 5", "ClickHouse at 10.0.0.7:9000: row 12"),
        ],
    )
    def test_reasons_that_differ_in_numbers_are_one(self, one: str, other: str) -> None:
        assert text.fold(one) == text.fold(other)

    def test_reasons_that_differ_in_words_are_two(self) -> None:
        assert text.fold("id: missing") != text.fold("fee: missing")

    def test_a_group_knows_how_many_and_since_when(self) -> None:
        groups = text.ReasonGroups(STREAM)
        for ms, reason in [(5000, "row 2"), (3000, "row 1"), (9000, "row 3"), (1000, "else")]:
            groups.add(letter(reason=reason)._replace(id=f"{ms}-0"))
        first, second = groups.largest_first()
        assert (first.count, first.oldest_ms, first.newest_ms, first.reason) == (3, 3000, 9000, "row N")
        assert second.count == 1
        assert json.loads(first.as_json())["example"] == "row 2"

    def test_what_two_parties_refused_is_told_apart(self) -> None:
        groups = text.ReasonGroups(STREAM)
        groups.add(letter())
        groups.add(letter(group="order_events_writers"))
        groups.add(letter(group="", source_stream="goldsky"))
        assert {group.refused_by for group in groups.largest_first()} == {*GROUPS[STREAM], "goldsky"}

    def test_endless_reasons_take_bounded_memory(self) -> None:
        groups = text.ReasonGroups(STREAM)
        for i in range(text.MOST_REASONS + 500):
            groups.add(letter(reason="x" * (i % 400) + chr(97 + i // 400)))
        found = groups.largest_first()
        assert len(found) == text.MOST_REASONS + 1
        assert found[0].reason == text.OTHER_REASONS
        assert sum(group.count for group in found) == text.MOST_REASONS + 500

    def test_a_table_stands_in_columns(self) -> None:
        groups = text.ReasonGroups(STREAM)
        for number in range(12):
            groups.add(letter(reason="a" * 500 if number else "short", number=number))
        heading, first, second = text.table(groups.largest_first())
        assert heading.index("reason") == first.index("aaa") == second.index("short")
        assert first.endswith("a…")
        assert len(first) < 300


class TestShowing:
    """Letters in full, whatever is in them."""

    @given(st.binary(max_size=60), st.text(max_size=20))
    def test_nothing_a_terminal_obeys_is_ever_printed(self, data: bytes, reason: str) -> None:
        shown = letter(data, reason, source_stream=reason, entry_id=reason, at=reason, group=reason)
        groups = text.ReasonGroups(STREAM)
        groups.add(shown)
        lines = [*text.in_full(STREAM, shown, reason), *text.table(groups.largest_first()), text.as_json(STREAM, shown)]
        lines.append(groups.largest_first()[0].as_json())
        assert all(line.isprintable() for line in lines)

    @given(st.binary())
    def test_json_keeps_every_byte(self, data: bytes) -> None:
        kept = json.loads(text.as_json(STREAM, letter(data)))
        assert (kept["data"].encode() if "data" in kept else base64.b64decode(kept["data_base64"])) == data

    @pytest.mark.parametrize("data", [b"", b"\xff\xfe\x00", HOSTILE.encode(), b'{"a":\xff}', b"a\x00b", b"two\nlines"])
    def test_what_is_not_printable_text_is_shown_as_bytes(self, data: bytes) -> None:
        assert text.readable(data) == [repr(data)]

    def test_printable_text_is_shown_as_it_is(self) -> None:
        assert text.readable("not JSON, žluťoučký".encode()) == ["not JSON, žluťoučký"]

    def test_json_is_laid_out_and_keeps_its_values_as_they_were_written(self) -> None:
        data = b'{"amount":1.10,"big":123456789012345678901234567890,"big":1e999}'
        shown = text.readable(data)
        assert shown[0] == "{"
        assert [line.strip().rstrip(",") for line in shown[1:-1]] == [
            '"amount": 1.10',
            '"big": 123456789012345678901234567890',
            '"big": 1e999',
        ]

    def test_json_with_hidden_characters_stays_the_same_json(self) -> None:
        value = {"question": "a\u202eb\x7fc\u00a0d\U000e0001"}
        shown = "\n".join(text.readable(json.dumps(value, ensure_ascii=False).encode()))
        assert shown.replace("\n", "").isprintable()
        assert json.loads(shown) == value

    def test_json_too_deep_to_read_is_shown_as_text(self) -> None:
        assert text.readable(b"[" * 100_000) == ["[" * 100_000]

    def test_a_time_beyond_the_calendar_is_a_number(self) -> None:
        assert text.as_time(1_763_749_000_999) == "2025-11-21T18:16:40Z"
        assert text.as_time(2**64 - 1) == f"{2**64 - 1} ms"


class TestWhoMayGoBack:
    """Why a letter stays where it is."""

    @pytest.mark.parametrize("group", GROUPS[STREAM])
    def test_what_a_group_refused_may(self, group: str) -> None:
        assert not why_it_stays(STREAM, letter(group=group), GROUPS)

    @pytest.mark.parametrize("source", SOURCES)
    def test_what_an_ingester_refused_may(self, source: str) -> None:
        assert not why_it_stays(STREAM, letter(source_stream=source, group=""), GROUPS)

    def test_what_nobody_known_refused_may_not(self) -> None:
        assert "refused by somebody" in why_it_stays(STREAM, letter(source_stream="somebody", group=""), GROUPS)

    def test_what_does_not_tell_its_group_may_not(self) -> None:
        assert "which consumer group" in why_it_stays(STREAM, letter(group=""), GROUPS)

    def test_what_a_group_unknown_to_the_settings_refused_may_not(self) -> None:
        assert "old_group" in why_it_stays(STREAM, letter(group="old_group"), GROUPS)


class TestCommandLine:
    """What is taken, and what is refused with status 2."""

    @pytest.mark.parametrize(
        "words",
        [
            "",
            "explode",
            "replay",
            "discard",
            "replay --dry-run",
            "discard --limit 5",
            "replay --all 1-0",
            "show one",
            "show 1",
            "show 1-99999999999999999999",
            "replay --all --limit 0",
            "list --limit -1",
            "list --since tomorrow",
            "list --since 2099-01-01",
            "list --stream nobody",
            "list 1-0",
        ],
    )
    def test_an_unclear_command_is_refused(self, words: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert status(words) == 2
        said = capsys.readouterr()
        assert said.err
        assert not said.out

    def test_a_wrong_setting_is_status_2(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("REDIS_PORT", "abc")
        assert status("list") == 2
        assert "REDIS_PORT" in capsys.readouterr().err

    def test_help_tells_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert status("--help") == 0
        said = capsys.readouterr().out
        assert all(command in said for command in ("list", "show", "replay", "discard"))

    def test_times_are_ages_dates_and_seconds(self) -> None:
        found = [parser().parse_args(["list", "--since", word]).since for word in ("2024-01-01", "1704067200")]
        assert found == [1_704_067_200] * 2
        assert parser().parse_args(["list", "--until", "1h"]).until > 1_704_067_200


def status(words: str) -> int:
    try:
        return main(words.split())
    except SystemExit as ended:
        return int(str(ended.code))


@pytest.mark.parametrize(
    ("since", "until", "span"),
    [
        (None, None, ("-", "+")),
        (5, None, ("5000-0", "+")),
        (None, 5, ("-", "4999")),
        (5, 6, ("5000-0", "5999")),
        (None, 0, ("-", "0")),
    ],
)
def test_times_become_ids(since: int | None, until: int | None, span: tuple[str, str]) -> None:
    assert Selection([STREAM], since=since, until=until).span() == span
