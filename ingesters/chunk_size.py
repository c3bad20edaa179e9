"""How many blocks to ask a provider for: found out from its refusals, and tried again now and then. Pure."""

GROW_AFTER = 8  # good answers in a row until a larger chunk is tried
DOUBT_AFTER = 200  # good answers at the limit until the limit itself is doubted: refusals may pass


class ChunkSize:
    """Blocks a request, from 1 to `most`: halved on a refusal, then grown back towards the size that was refused.

    Where a larger chunk was only tried, it goes back to the one before.
    """

    def __init__(self, most: int) -> None:
        self.blocks = most
        self._most = most
        self._refused: int | None = None  # the smallest size that was refused lately
        self._accepted = 0  # the largest size that was answered lately
        self._good = 0

    @property
    def is_reduced(self) -> bool:
        return self.blocks < self._most

    def refuse(self, asked: int, hint: int | None = None) -> bool:
        """A request for `asked` blocks was too large; `hint`: what the refusal allows. False: it was for one block."""
        self._good = 0
        if asked <= 1:
            self.blocks = 1
            return False
        if self._accepted >= asked:
            self._accepted = 0
        self._refused = asked if hint is None else hint + 1
        self.blocks = min(self.blocks, hint or self._accepted or asked // 2)
        return True

    def accept(self, asked: int) -> None:
        """A request for `asked` blocks was answered. Smaller ones than the chunk prove nothing."""
        self._accepted = max(self._accepted, asked)
        if asked < self.blocks or self.blocks >= self._most:
            return
        self._good += 1
        is_at_limit = self._refused is not None and self.blocks >= self._refused - 1
        if self._good >= (DOUBT_AFTER if is_at_limit else GROW_AFTER):
            self._good = 0
            self._grow(is_at_limit=is_at_limit)

    def _grow(self, *, is_at_limit: bool) -> None:
        """Twice as many, or half the way to what was refused."""
        doubled = min(self._most, 2 * self.blocks)
        if is_at_limit:
            self._refused = None
        if self._refused is None or doubled < self._refused:
            self.blocks = doubled
        else:
            self.blocks = (self.blocks + self._refused) // 2
