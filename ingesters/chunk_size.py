"""How many blocks to ask a provider for: found out from its refusals, and tried again after a while. Pure.

No list of wordings says what a refusal of a range looks like. So an error that comes a second time for several blocks
counts as one: fewer are asked for, at once. Where fewer pass, that is what the provider allows. Where not even one
does, the errors were the provider's own, and what was known of its limit before is true again.
"""

from typing import NamedTuple

GROW_AFTER = 8  # good answers in a row until a larger chunk is tried
PATIENT_S = 15.0  # until a limit that was found is doubted; doubled each time that it proves true
HINTED_S = 60.0  # likewise, of a limit that the provider has told
LONGEST_S = 600.0


class _Limit(NamedTuple):
    """What is believed of a provider."""

    blocks: int
    refused: int | None = None  # the smallest size that was refused lately
    accepted: int = 0  # the largest size that was answered lately
    pause_s: float = 0.0  # between two doubts
    doubt_at: float = 0.0
    is_doubted: bool = False  # a larger size is being tried


class ChunkSize:
    """Blocks a request, from 1 to `most`: halved on a refusal, then grown back towards the size that was refused.

    Where a larger chunk was only tried, it goes back to the one before.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = self._before = _Limit(most)  # `_before`: the errors in a row
        self._errors = 0  # in a row
        self._is_down = False  # not even one block was answered
        self._good = 0

    @property
    def blocks(self) -> int:
        """To ask for now: a single one where not even that was answered last."""
        return 1 if self._is_down else self._limit.blocks

    @property
    def limit(self) -> int:
        """What the provider is believed to allow."""
        return self._limit.blocks

    @property
    def is_reduced(self) -> bool:
        return self._limit.blocks < self._most

    def fail(self, asked: int, now: float) -> bool:
        """A request for `asked` blocks met an error that does not say why. True: ask for fewer, at once."""
        if asked > 1 and not self._errors:
            self._note_error()
            return False
        return self.refuse(asked, now)

    def refuse(self, asked: int, now: float, hint: int | None = None) -> bool:
        """A request for `asked` blocks was too large; `hint`: what the refusal allows. False: it was for one block."""
        self._note_error()
        if asked <= 1:
            self._limit, self._is_down = self._before, True
            return False
        limit = self._limit
        pause_s = max(limit.pause_s, PATIENT_S if hint is None else HINTED_S)
        if limit.is_doubted:
            pause_s = min(LONGEST_S, 2 * pause_s)
        accepted = limit.accepted if limit.accepted < asked else 0
        blocks = min(limit.blocks, hint or accepted or asked // 2)
        self._limit = _Limit(blocks, asked if hint is None else hint + 1, accepted, pause_s, now + pause_s)
        return True

    def accept(self, asked: int) -> None:
        """A request for `asked` blocks was answered. Smaller ones than the chunk prove nothing of a larger one."""
        self._errors, self._is_down = 0, False
        limit = self._limit
        if asked >= limit.blocks:
            limit = limit._replace(is_doubted=False, pause_s=limit.pause_s if self.is_reduced else 0.0)
            self._good += self.is_reduced
        self._limit = self._before = limit._replace(accepted=max(limit.accepted, asked))
        if self._good >= GROW_AFTER:
            self._grow()

    def doubt(self, now: float) -> None:
        """A limit was found some time ago: try more, for it may have been an error that passed by."""
        limit = self._limit
        if self.is_reduced and now >= limit.doubt_at and not self._errors:
            blocks = min(self._most, 2 * limit.blocks)
            later = limit._replace(blocks=blocks, refused=None, doubt_at=now + limit.pause_s, is_doubted=True)
            self._limit = self._before = later
            self._good = 0

    def _note_error(self) -> None:
        if not self._errors:
            self._before = self._limit
        self._errors += 1
        self._good = 0

    def _grow(self) -> None:
        """Twice as many, or half the way to what was refused."""
        limit, self._good = self._limit, 0
        doubled = min(self._most, 2 * limit.blocks)
        if limit.refused is not None and doubled >= limit.refused:
            doubled = (limit.blocks + limit.refused) // 2
        self._limit = self._before = limit._replace(blocks=doubled)
