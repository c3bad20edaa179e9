"""Token and condition ids that hide the code of their market, so that it is found without a table of all of them."""

from simulator.chance import digest

_CODE_BITS = 32
_MOST_OUTCOMES = 4


def tokens_of(seed: int, code: int, outcomes: int) -> tuple[str, ...]:
    """The token ids of the market with this code, by outcome."""
    return tuple(str(_hidden(seed, "token", code * _MOST_OUTCOMES + outcome)) for outcome in range(outcomes))


def condition_of(seed: int, code: int) -> str:
    return f"0x{_hidden(seed, 'condition', code):064x}"


def code_of_token(seed: int, token_id: str) -> int | None:
    """The code of the token's market; None where the token is none of ours."""
    place = _found(seed, "token", int(token_id)) if token_id.isdecimal() else None
    return None if place is None else place // _MOST_OUTCOMES


def code_of_condition(seed: int, condition_id: str) -> int | None:
    try:
        return _found(seed, "condition", int(condition_id, 16))
    except ValueError:
        return None


def _hidden(seed: int, kind: str, place: int) -> int:
    head = digest(seed, kind, place) >> _CODE_BITS
    return head << _CODE_BITS | place ^ _fold(head)


def _found(seed: int, kind: str, value: int) -> int | None:
    place = value % (1 << _CODE_BITS) ^ _fold(value >> _CODE_BITS)
    return place if _hidden(seed, kind, place) == value else None


def _fold(bits: int) -> int:
    return (bits ^ bits >> 96) % (1 << _CODE_BITS)
