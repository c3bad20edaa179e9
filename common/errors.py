"""Errors, named after what the caller has to do about them."""


class PipelineError(Exception):
    """Base of the errors that the pipeline foresees."""


class Unavailable(PipelineError):
    """Something outside is down, slow, full or refusing. Wait, at least `retry_after_s`, and repeat the same step.

    Nothing was lost: whatever was under way is either done completely or not at all.
    """

    def __init__(self, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class InvalidRecord(PipelineError):
    """One record can't be understood. Dead-letter it with this reason and go on with the next."""


class RefusedRows(PipelineError):
    """ClickHouse refuses a batch, and would refuse it again. Bisect, dead-letter the row, insert the rest."""


class LeaseLost(PipelineError):
    """Another process has taken over this consumer's work. Drop what is buffered and acquire a new lease."""


class CursorLost(PipelineError):
    """Redis has lost data, and with it pages that were published. Read the cursor again and go on from there."""


class ConfigError(PipelineError):
    """The configuration is wrong and waiting won't mend it. Exit with status 2; the text says what to change."""
