"""Which requests are answered, by the headers that browsers send about them."""

from email.message import Message
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from common.errors import ConfigError
from common.same_origin import OwnNames, host_names, refusal

OWN = OwnNames("127.0.0.1", frozenset({"clickhouse", "db.example"}), "ALLOWED_HOSTS")
EVERYWHERE = OwnNames("0.0.0.0", frozenset(), "ALLOWED_HOSTS")
HOST = ("Host", "localhost:8123")
OWN_ORIGIN = ("Origin", "http://localhost:8123")
NAMES = st.text("abcdefghijklmnopqrstuvwxyzABCDEF0123456789.-_", min_size=1, max_size=30)
ADDRESSES = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6))


def status(*headers: tuple[str, str], own: OwnNames = OWN) -> int:
    """Return what the request is refused with, however its server keeps headers; 0: it is answered."""
    message = Message()
    for name, value in headers:
        message[name] = value
    asgi = Headers(raw=[(name.lower().encode(), value.encode()) for name, value in headers])
    first = refusal(lambda name: message.get_all(name, []), own)
    assert refusal(asgi.getlist, own) == first
    return first.status if first else 0


def as_host(address: IPv4Address | IPv6Address) -> str:
    return str(address) if address.version == 4 else f"[{address}]"


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:8123", "LocalHost:8123", "localhost.:8123", "localhost:", "127.0.0.1:8123", "127.8.9.1",
        "[::1]:8123", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", " localhost ", "clickhouse:8123", "DB.example.:1",
    ],
)  # fmt: skip
def test_own_names_are_answered(host: str) -> None:
    assert status(("Host", host)) == 0


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.test", "evil.test:8123", "localhost.evil.test", "evil.localhost", "localhost..", ".localhost",
        "localhost@evil.test", "evil.test@localhost", "localhost:8123@evil.test", "localhost:123456", "localhost:x",
        "localhost:8123:1", "http://localhost", "localhost/", "localhost#", "localhost,evil.test",
        "127.0.0.1.evil.test",
        "0.0.0.0", "127.1", "2130706433", "0x7f.1", "127.0.0.01", "10.0.0.7", "[::]", "[10.0.0.7]", "[127.0.0.1]",
        "::1", "[::1", "::1]", "[::1]x", "[fe80::1%25lo]", "[::ffff:10.0.0.7]", "localhost\x00", "local\thost",
        "l\u00f6calhost", "\u017fervice", "\uff4cocalhost", "xn--lcalhost-n4a", "*",
    ],
)  # fmt: skip
def test_any_other_host_is_refused(host: str) -> None:
    assert status(("Host", host)) == 421


def test_a_request_has_one_host() -> None:
    assert status() == 421
    assert status(HOST, HOST) == 421
    assert status(HOST, ("Host", "evil.test")) == 421


def is_address(name: str) -> bool:
    try:
        return bool(ip_address(name.removesuffix(".")))
    except ValueError:
        return False


@given(NAMES)
def test_every_name_that_is_not_listed_is_refused(name: str) -> None:
    if not is_address(name):
        assert (status(("Host", name)) == 0) == (name.lower().removesuffix(".") in {"localhost", *OWN.allowed})


@given(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40))
def test_no_text_is_taken_for_a_name_that_only_looks_like_ours(text: str) -> None:
    host = text.strip(" \t").lower().partition(":")[0].removesuffix(".")
    if host not in {"localhost", *OWN.allowed} and not host.startswith(("127.", "[")):
        assert status(("Host", text)) == 421


@given(ADDRESSES, st.integers(0, 65535))
def test_addresses_are_answered_on_loopback_or_when_the_server_listens_everywhere(
    address: IPv4Address | IPv6Address, port: int
) -> None:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    host = ("Host", f"{as_host(address)}:{port}")
    assert status(host, own=EVERYWHERE) == 0
    assert status(host, own=OwnNames("::", frozenset(), "")) == 0
    assert (status(host) == 0) == (mapped or address).is_loopback


@given(NAMES)
def test_listening_everywhere_opens_to_no_name(name: str) -> None:
    if name.lower().removesuffix(".") != "localhost" and not is_address(name):
        assert status(("Host", name), own=EVERYWHERE) == 421


def test_the_name_or_address_that_a_server_listens_on_is_its_own() -> None:
    assert status(("Host", "pipeline.internal:1"), own=OwnNames("Pipeline.internal", frozenset(), "")) == 0
    assert status(("Host", "[2001:db8::7]"), own=OwnNames("2001:DB8:0::7", frozenset(), "")) == 0
    assert status(("Host", "10.0.0.7"), own=OwnNames("10.0.0.7", frozenset(), "")) == 0
    assert status(("Host", "10.0.0.8"), own=OwnNames("10.0.0.7", frozenset(), "")) == 421


@pytest.mark.parametrize("site", ["none", "same-origin", " none "])
def test_people_and_own_pages_are_answered(site: str) -> None:
    assert status(HOST, ("Sec-Fetch-Site", site)) == 0
    assert status(HOST, ("Sec-Fetch-Site", site), OWN_ORIGIN) == 0


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "None", "same-origin, cross-site", "none;x", "x"])
def test_pages_of_other_sites_and_ports_are_refused(site: str) -> None:
    assert status(HOST, ("Sec-Fetch-Site", site)) == 403
    assert status(HOST, ("Sec-Fetch-Site", site), OWN_ORIGIN) == 403
    assert status(HOST, ("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", site)) == 403


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:8123", "http://localhost:8123"),
        ("LOCALHOST:8123", "http://localhost:8123"),
        ("[::1]:8123", "http://[::1]:8123"),
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("127.0.0.1:80", "http://127.0.0.1"),
    ],
)
def test_the_own_origin_is_answered(host: str, origin: str) -> None:
    assert status(("Host", host), ("Origin", origin)) == 0


@pytest.mark.parametrize(
    "origin",
    [
        "null", "", "http://localhost", "http://localhost:9000", "https://localhost:8123", "http://127.0.0.1:8123",
        "http://evil.test:8123", "http://evil.test", "localhost:8123", "//localhost:8123", "file://",
        "http://localhost:8123/", "http://localhost:8123@evil.test", "http://x@localhost:8123", "chrome-extension://a",
        "http://localhost:8123 http://evil.test", "http://http://localhost:8123",
    ],
)  # fmt: skip
def test_any_other_origin_is_refused(origin: str) -> None:
    assert status(HOST, ("Origin", origin)) == 403
    assert status(HOST, ("Origin", origin), ("Sec-Fetch-Site", "same-origin")) == 403
    assert status(HOST, OWN_ORIGIN, ("Origin", origin)) == 403


def test_a_foreign_name_is_refused_though_it_is_the_same_as_the_origin() -> None:
    """A page whose name was made to resolve to this machine."""
    rebound = (("Host", "evil.test:8123"), ("Origin", "http://evil.test:8123"), ("Sec-Fetch-Site", "same-origin"))
    assert status(*rebound) == 421


def test_a_refusal_names_the_setting() -> None:
    foreign = refusal({"Host": ["evil.test"]}.get, OWN)  # type: ignore[arg-type]  # it asks for no other header
    assert foreign is not None
    assert "ALLOWED_HOSTS" in foreign.reason


@pytest.mark.parametrize(
    ("listed", "names"),
    [
        ("", set()),
        (" , ", set()),
        ("clickhouse", {"clickhouse"}),
        ("Dash.Example., my_host ,10.0.0.7", {"dash.example", "my_host", "10.0.0.7"}),
        ("[::1],2001:DB8::7", {"::1", "2001:db8::7"}),
    ],
)
def test_listed_names_are_read(listed: str, names: set[str]) -> None:
    assert host_names(listed, "ALLOWED_HOSTS") == names


@pytest.mark.parametrize(
    "listed", ["http://a", "a:8123", "a,b:1", "*", "*.example", "a b", "a/", "x@a", "-a", "a\nb", "\u00e9", "[a]:1"]
)
def test_a_wrong_name_is_one_clear_line(listed: str) -> None:
    with pytest.raises(ConfigError, match=r"^ALLOWED_HOSTS: expected host names without scheme and port") as caught:
        host_names(listed, "ALLOWED_HOSTS")
    assert "\n" not in str(caught.value)
