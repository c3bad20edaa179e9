"""Which hosts are reached through the proxy of HTTP_PROXY and the like, and how messages name it."""

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from common.errors import ConfigError

_PRIVATE = (".localhost", ".local", ".internal")


def is_private(host: str) -> bool:
    """Whether a host is this machine or in a private network, where a proxy to the internet would not find it."""
    name = host.lower().strip("[]").rstrip(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(_PRIVATE)  # `clickhouse`, as in compose, has no dot
    return (getattr(address, "ipv4_mapped", None) or address).is_private


def checked(proxy: str, schemes: Collection[str]) -> str:
    """The proxy with a scheme; empty without a proxy. Raises ConfigError, which never shows its user and password."""
    if not proxy:
        return ""
    address = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(address)
        is_usable = parts.scheme in schemes and parts.hostname and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ConfigError("HTTP_PROXY, HTTPS_PROXY, ALL_PROXY: expected an address such as http://proxy.example:3128")
    return address


def through(proxy: str) -> str:
    """` through the proxy HOST:PORT`, never with its user and password; empty without a proxy."""
    return f" through the proxy {name_of(proxy)}" if proxy else ""


def name_of(proxy: str) -> str:
    """HOST:PORT of a proxy."""
    return urlsplit(proxy).netloc.rpartition("@")[2]
