"""Log lines, whatever text from outside is in them."""

import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.log_lines import LineFormatter
from common.logging_config import setup_logging
from common.printable import as_header, printable
from tests.builders import make_settings

FORGED = "timed out\n2026-11-28T00:00:00.000Z - clickhouse_writer - INFO - all is well\x1b[2J\r\x9b\u202e\u2028\ud800"
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z - source - WARNING - .*")


def line(message: str, *arguments: object, error: BaseException | None = None) -> str:
    about = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("source", logging.WARNING, __file__, 1, message, arguments, about)
    return LineFormatter().format(record)


def test_a_message_is_one_line_that_controls_no_terminal() -> None:
    written = line("waiting: %s; attempt %d", FORGED, 2)
    assert LINE.fullmatch(written)
    assert written.isprintable()
    assert r"timed out\n2026" in written
    assert r"\u001b[2J\r\u009b\u202e\u2028\ud800; attempt 2" in written


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_is_one_printable_line_that_can_be_written(text: str) -> None:
    written = line("%s", text)
    assert written.isprintable()
    assert written.encode()


def test_a_traceback_stays_readable_and_only_messages_begin_a_line() -> None:
    with pytest.raises(ValueError, match="timed out") as caught:
        raise ValueError(FORGED)
    first, *below = line("crashed", error=caught.value).split("\n")
    assert LINE.fullmatch(first)
    assert below[0] == "    Traceback (most recent call last):"
    assert all(each.startswith("    ") and each.isprintable() for each in below)
    assert any("ValueError: timed out" in each for each in below)


def test_ordinary_text_is_left_alone() -> None:
    assert line("é 漢 3/4 … \\n").endswith(" - é 漢 3/4 … \\n")


def test_what_a_component_and_its_libraries_log_has_this_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert logging.lastResort is not None
    monkeypatch.setattr(logging.lastResort, "formatter", None)
    log = setup_logging("source", make_settings(log_dir=tmp_path, log_to_file=True))
    log.warning("waiting: %s", FORGED)
    assert capsys.readouterr().out == (tmp_path / "source.log").read_text()
    assert LINE.fullmatch((tmp_path / "source.log").read_text().removesuffix("\n"))
    assert isinstance(logging.lastResort.formatter, LineFormatter)
    for handler in log.handlers:
        handler.close()
    log.handlers.clear()


@given(st.text(st.characters(exclude_categories=[])))
def test_a_header_is_visible_ascii(text: str) -> None:
    assert re.fullmatch(r"[ -~]*", as_header(text))
    assert as_header(as_header(text)) == as_header(text)
    assert printable(printable(text)) == printable(text)


def test_an_ordinary_header_is_left_alone() -> None:
    assert as_header('{"read_rows": "1"}') == '{"read_rows": "1"}'
