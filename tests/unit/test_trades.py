"""A fill read as a trade."""

from decimal import Decimal
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidRecord
from common.records import Token, Trade, encode
from processors.trades import EXCHANGES, outcome_token, price_of, trade_of
from tests.builders import make_fill, token_id

TOKEN = Token(market_id="1000", condition_id="0xc0", outcome="Yes", side="token1")
AMOUNTS = st.integers(0, 2**64 - 1)
decode_trade = msgspec.json.Decoder(Trade).decode


def a_buy(collateral: int, tokens: int) -> Trade:
    fill = make_fill(
        0, maker_asset_id="0", taker_asset_id="7", maker_amount_filled=collateral, taker_amount_filled=tokens
    )
    return trade_of(fill, TOKEN)


def test_a_sell_reads_as_the_sample_of_the_second_exchange() -> None:
    """Side 1 of a real V2 log: the maker gives 0.261250 tokens for 0.245575 of collateral."""
    fill = make_fill(
        0, maker_asset_id="7", taker_asset_id="0", maker_amount_filled=261_250, taker_amount_filled=245_575
    )
    trade = trade_of(fill, TOKEN)
    assert trade.price == Decimal("0.94")
    assert trade.usd_amount == Decimal("0.245575")
    assert trade.token_amount == Decimal("0.261250")
    assert (trade.maker_direction, trade.taker_direction) == ("SELL", "BUY")
    assert trade.token_id == "7"


def test_a_buy_gives_collateral_for_tokens() -> None:
    trade = a_buy(490_000, 1_000_000)
    assert (trade.price, trade.usd_amount, trade.token_amount) == (Decimal("0.49"), Decimal("0.49"), Decimal(1))
    assert (trade.maker_direction, trade.taker_direction) == ("BUY", "SELL")


def test_the_two_rows_of_a_mint_both_buy_and_their_prices_add_up_to_one() -> None:
    first = a_buy(49_000_000, 100_000_000)
    second = a_buy(51_000_000, 100_000_000)
    assert first.price + second.price == 1
    assert first.maker_direction == second.maker_direction == "BUY"


@pytest.mark.parametrize("exchange", sorted(EXCHANGES))
def test_the_row_of_the_takers_order_has_an_exchange_as_taker(exchange: str) -> None:
    assert trade_of(make_fill(0, taker=exchange), TOKEN).is_taker_side


def test_every_other_row_is_a_makers() -> None:
    assert not trade_of(make_fill(0, taker="0x" + "a" * 40), TOKEN).is_taker_side


@pytest.mark.parametrize("assets", [("0", "0"), ("7", "8"), ("", "8")])
def test_exactly_one_side_must_be_collateral(assets: tuple[str, str]) -> None:
    fill = make_fill(0, maker_asset_id=assets[0], taker_asset_id=assets[1])
    with pytest.raises(InvalidRecord, match="exactly one"):
        outcome_token(fill)
    with pytest.raises(InvalidRecord, match="exactly one"):
        trade_of(fill, TOKEN)


def test_a_fill_without_tokens_has_no_price() -> None:
    with pytest.raises(InvalidRecord, match="no price"):
        a_buy(1, 0)


def test_a_fill_rounded_down_to_no_collateral_is_a_trade_at_zero() -> None:
    trade = a_buy(0, 1)
    assert trade.price == trade.usd_amount == 0
    assert trade.token_amount == Decimal("0.000001")


def test_the_price_is_not_bounded_by_one() -> None:
    assert a_buy(3_000_000, 2_000_000).price == Decimal("1.5")


@pytest.mark.parametrize(
    ("collateral", "tokens", "price"),
    [
        (1, 3, "0.333333333333"),
        (2, 3, "0.666666666667"),
        (1, 2 * 10**12, "0.000000000000"),  # exactly half a unit of the last place: to even
        (3, 2 * 10**12, "0.000000000002"),
        (5, 2 * 10**12, "0.000000000002"),
        (2**64 - 1, 1, "18446744073709551615.000000000000"),
        (1, 2**64 - 1, "0.000000000000"),
    ],
)
def test_prices_round_half_even_to_twelve_places(collateral: int, tokens: int, price: str) -> None:
    assert price_of(collateral, tokens) == Decimal(price)


@given(AMOUNTS, st.integers(1, 2**64 - 1))
def test_the_price_is_the_exact_fraction_rounded_half_even(collateral: int, tokens: int) -> None:
    assert Fraction(price_of(collateral, tokens)) * 10**12 == round(Fraction(collateral * 10**12, tokens))


@given(AMOUNTS, st.integers(1, 2**64 - 1), AMOUNTS)
def test_amounts_stay_exact(collateral: int, tokens: int, fee: int) -> None:
    fill = make_fill(0, maker_amount_filled=collateral, taker_amount_filled=tokens, fee=fee)
    trade = trade_of(fill, TOKEN)
    assert [trade.usd_amount * 10**6, trade.token_amount * 10**6, trade.fee * 10**6] == [collateral, tokens, fee]


@given(AMOUNTS, st.integers(1, 2**64 - 1), st.text(st.characters(exclude_categories=["Cs"])))
def test_a_trade_survives_its_json(collateral: int, tokens: int, outcome: str) -> None:
    fill = make_fill(0, maker_amount_filled=collateral, taker_amount_filled=tokens, block_number=5)
    trade = trade_of(fill, Token("1000", "0xc0", outcome, "token2"))
    assert decode_trade(encode(trade)) == trade


def test_a_trade_carries_what_identifies_the_fill_and_its_market() -> None:
    fill = make_fill(4, exchange="0xe1", block_number=2**40, log_index=2**32 - 1)
    trade = trade_of(fill, TOKEN)
    assert (trade.id, trade.timestamp, trade.transactionHash) == (fill.id, fill.timestamp, fill.transaction_hash)
    assert (trade.maker, trade.taker, trade.token_id) == (fill.maker, fill.taker, token_id(4))
    assert (trade.market_id, trade.condition_id, trade.outcome, trade.nonusdc_side) == ("1000", "0xc0", "Yes", "token1")
    assert (trade.exchange, trade.block_number, trade.log_index) == ("0xe1", 2**40, 2**32 - 1)


def test_the_row_of_the_takers_order_is_known_by_the_emitting_contract_too() -> None:
    """An exchange that the list does not know yet still names itself as the taker."""
    later_exchange = "0x" + "ab" * 20
    fill = make_fill(1, exchange=later_exchange, taker=later_exchange)
    assert trade_of(fill, TOKEN).is_taker_side
