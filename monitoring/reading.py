"""A value as it could be read: known, not there yet, or unknown with the reason. Unknown is never shown as 0."""

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec

from common.errors import PipelineError

T = TypeVar("T")
U = TypeVar("U")


class Reading(msgspec.Struct, Generic[T], frozen=True):
    """One value of the pipeline's status. `value` means something only when the state is known."""

    state: Literal["known", "absent", "unknown"]
    value: T | None = None
    reason: str = ""  # why there is none

    def map(self, change: Callable[[T], U]) -> "Reading[U]":
        """The same reading of something derived from the value."""
        return self.then(lambda value: known(change(value)))

    def then(self, change: "Callable[[T], Reading[U]]") -> "Reading[U]":
        """A reading that depends on the value, which may turn out not to be there."""
        if self.state == "known":
            return change(cast("T", self.value))
        return Reading(self.state, None, self.reason)


def known(value: T) -> Reading[T]:
    return Reading("known", value)


def absent(reason: str) -> Reading[Any]:
    """Read successfully, and there is no such value: an empty table has no newest row."""
    return Reading("absent", None, reason)


def unknown(reason: str) -> Reading[Any]:
    """Could not be read."""
    return Reading("unknown", None, reason)


def known_or(value: T | None, otherwise: Reading[Any]) -> Reading[T]:
    return otherwise if value is None else known(value)


class Server:
    """One server as a round of reads meets it: once it is found away, the rest of the round is not tried."""

    def __init__(self, probe: Callable[[], object]) -> None:
        self._probe = probe
        self._away = ""

    def read(self, call: Callable[[], T]) -> Reading[T]:
        """What the call returns; unknown with the reason when it fails."""
        if self._away:
            return unknown(self._away)
        try:
            return known(call())
        except PipelineError as error:
            self._away = self._complaint()  # one value can fail alone, a missing table for example
            return unknown(str(error))

    def reachable(self) -> Reading[bool]:
        """Unknown with the reason when the server doesn't answer or denies access."""
        self._away = self._away or self._complaint()
        return unknown(self._away) if self._away else known(value=True)

    def _complaint(self) -> str:
        try:
            self._probe()
        except PipelineError as error:
            return str(error)
        return ""
