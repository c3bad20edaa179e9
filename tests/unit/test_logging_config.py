"""Log files of a process that writes its own."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import logging_config
from common.config import Settings
from common.logging_config import setup_logging


@pytest.fixture
def log(tmp_path: Path) -> Iterator[logging.Logger]:
    settings = Settings(log_dir=tmp_path / "logs", log_to_file=True)
    logger = setup_logging("stage", settings)
    yield logger
    for handler in logger.handlers:
        handler.close()


def test_a_log_file_that_was_deleted_or_moved_is_recreated(log: logging.Logger, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "stage.log"
    log.info("first")
    path.unlink()
    log.info("second")
    assert path.read_text().endswith("second\n")
    shutil.rmtree(path.parent)
    log.info("third")
    assert path.read_text().endswith("third\n")
    path.rename(path.with_suffix(".old"))
    log.info("fourth")
    log.info("fifth")
    assert [line.split()[-1] for line in path.read_text().splitlines()] == ["fourth", "fifth"]


def test_it_still_rotates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(logging_config, "MAX_BYTES", 200)
    log = setup_logging("stage", Settings(log_dir=tmp_path, log_to_file=True))
    for number in range(20):
        log.info("line %d", number)
    for handler in log.handlers:
        handler.close()
    assert len(list(tmp_path.glob("stage.log.*"))) == logging_config.BACKUPS
    assert (tmp_path / "stage.log").read_text().endswith("line 19\n")
