"""Which hosts a proxy is used for, and what messages show of it."""

import os

import pytest

from common.errors import ConfigError
from common.http import proxy_of
from common.proxies import checked, is_private, name_of, through

PROXY = "http://user:secret@proxy.example:3128"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "LOCALHOST",
            "a.localhost",
            "clickhouse",
            "redis_1",
            "printer.local",
            "db.internal",
            "localhost.",
        ),
        *(
            "127.0.0.1",
            "127.1.2.3",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.1.1",
            "0.0.0.0",
        ),
        *("::1", "[::1]", "fe80::1", "fd00::1", "::ffff:10.0.0.1"),
    ],
)
def test_this_machine_and_private_networks_have_no_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("ALL_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "other.example")
    assert is_private(host)
    address = f"[{host}]" if ":" in host and "[" not in host else host
    assert proxy_of(f"http://{address}:8123/path") == ""


@pytest.mark.parametrize(
    "host",
    [
        *("gamma-api.polymarket.com", "internal.example", "local.example", "localhost.example", "my.local.org"),
        *("8.8.8.8", "172.32.0.1", "192.169.0.1", "2606:4700::1111", "::ffff:8.8.8.8"),
    ],
)
def test_the_internet_is_reached_through_it_unless_no_proxy_rules_it_out(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    address = f"https://[{host}]/" if ":" in host else f"https://{host}/"
    assert not is_private(host)
    assert proxy_of(address) == ""
    monkeypatch.setenv("ALL_PROXY", "socks5://other.example:1080")
    assert proxy_of(address) == "socks5://other.example:1080"
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    assert proxy_of(address) == PROXY
    monkeypatch.setenv("NO_PROXY", host)
    assert proxy_of(address) == ""


def test_a_proxy_is_named_without_its_user_and_password() -> None:
    assert through(PROXY) == " through the proxy proxy.example:3128"
    assert through("") == ""
    assert name_of(checked("proxy.example:3128", ["http"])) == "proxy.example:3128"


@pytest.mark.parametrize(
    "proxy", ["http://u:secret@", "gopher://u:secret@a", "http://a:secret", "http://u:secret@[a", "/"]
)
def test_a_proxy_without_an_address_is_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(ConfigError, match=r"^HTTP_PROXY, HTTPS_PROXY, ALL_PROXY: expected an address such") as caught:
        proxy_of("https://gamma.example")
    assert "secret" not in str(caught.value)
