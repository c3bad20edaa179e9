"""The simulated chain: block numbers, their times, and who the exchanges are."""

BLOCK_S = 2

# One real block anchors the map: V2 went live in it, 2026-04-28T11:00:40Z.
_ANCHOR_BLOCK = 86_126_998
_ANCHOR_TIME = 1_777_374_040

# Addresses as the subgraph spells them, in lower case.
EXCHANGE_V1 = "0x4bfb41d5b3570defd03c39a9a4d8de6bd8b8982e"
NEG_RISK_V1 = "0xc5d563a36ae78145c45a50134d48a1215220f80a"
EXCHANGE_V2 = "0xe111180000d2663c0091e4f400237545b87b996b"
NEG_RISK_V2 = "0xe2222d279d744050d28e00520010520000310f59"
EXCHANGE_V3 = "0xe3333700ca9d93003f00f0f71f8515005f6c00aa"
V1_EXCHANGES = frozenset({EXCHANGE_V1, NEG_RISK_V1})
EXCHANGES = V1_EXCHANGES | {EXCHANGE_V2, NEG_RISK_V2, EXCHANGE_V3}


def block_at(time_s: float) -> int:
    """The newest block at this time."""
    return _ANCHOR_BLOCK + (int(time_s) - _ANCHOR_TIME) // BLOCK_S


def time_of(block: int) -> int:
    """The timestamp that every fill of the block carries, in Unix seconds."""
    return _ANCHOR_TIME + (block - _ANCHOR_BLOCK) * BLOCK_S


def first_block_at(time_s: float) -> int:
    """The oldest block of this time or later."""
    return block_at(time_s - 1) + 1


def transaction_hash(random_bits: int, block: int) -> str:
    """A hash whose last four bytes hide the block, so that a fill can be found by its id alone."""
    head = random_bits & ((1 << 224) - 1)
    return f"0x{head:056x}{block ^ _fold(head):08x}"


def block_of_transaction(transaction: str) -> int | None:
    """The block that `transaction_hash` hid; None for what is no hash. A foreign hash gives a meaningless block."""
    try:
        bits = int(transaction[2:66], 16)
    except ValueError:
        return None
    return (bits & 0xFFFFFFFF) ^ _fold(bits >> 32)


def _fold(bits: int) -> int:
    return (bits ^ (bits >> 96)) & 0xFFFFFFFF
