"""Jobs whose requests are made by the readers' threads, so that one that hangs holds up nothing but itself."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from common.errors import Unavailable
from ingesters.gamma import Asking, Page
from ingesters.readers import Read, Readers


class Job(Protocol):
    """One kind of work, one request at a time."""

    def next_request(self, now: float) -> Read | None:
        """What to ask for at this moment; None when there is nothing."""

    def take(self, page: Page, now: float) -> None:
        """Publish the answer. Raises Unavailable: nothing has moved, the same is asked for again."""

    def fail(self, error: Unavailable, now: float) -> None:
        """There was no good answer. Raises it where everything should wait, and else decides when to ask again."""


class Errand:
    """A job's request on its way."""

    def __init__(self, job: Job, readers: Readers, spare: int) -> None:
        """`spare`: what the request has to leave of the limit."""
        self._job = job
        self._readers = readers
        self._spare = spare
        self._page: Future[Page] | None = None

    def awaited(self) -> list[Future[Page]]:
        return [] if self._page is None else [self._page]

    def ask(self, now: float) -> None:
        """Send the job's next request, unless the one before is still on its way."""
        if self._page is None and (read := self._job.next_request(now)) is not None:
            self._page = self._readers.submit(read, self._spare)

    def has_work(self) -> bool:
        """Whether the answer has come."""
        return self._page is not None and self._page.done()

    def run(self, asking: Asking, clock: Callable[[], float]) -> None:
        """Hand the answer to the job."""
        page, self._page = self._page, None
        assert page is not None  # it is ready
        try:
            with asking():
                found = page.result()
        except Unavailable as error:
            self._job.fail(error, clock())
            return
        self._job.take(found, clock())
