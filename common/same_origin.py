"""Which requests a server without a log-in answers, judged by headers that browsers don't let pages forge. Pure.

Any page that somebody opens can make the browser send requests to this machine: with links, frames, forms, images and
scripts, from another port of localhost, or under a host name of its own that it makes resolve to this machine.

Sec-Fetch-Site identifies the page's site (https://www.w3.org/TR/fetch-metadata/). It ignores ports: another port of
localhost is `same-site`. Browsers send it only to loopback addresses and over HTTPS, and old ones not at all. Without
it, Origin exposes every request that could change something, and Host every name that is not ours. What remains looks
like a person or curl: a GET without these headers, and one that follows a link in a mail or the redirect of a typed
address (Chromium sends `none` for both). It must change nothing, and HEADERS keep its answer from other pages.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import NamedTuple

from common.errors import ConfigError

# Only the person who asked may see and read the answer.
HEADERS: Mapping[str, str] = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_OWN_SITES = frozenset({"none", "same-origin"})  # none: a person typed the address, reloaded or used a bookmark
_HTTP_PORT = 80
_SCHEME = "http://"
_HOST_AND_PORT = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{0,5}))?"
)
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?")
_BLANKS = " \t"
_FOREIGN_PAGE = (
    "Requests from pages of other sites or ports are not answered. "
    "To open this address, click in the address bar and press Enter"
)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Refusal(NamedTuple):
    """Why a request is not answered, for its sender."""

    status: HTTPStatus
    reason: str


@dataclass(frozen=True, slots=True)
class OwnNames:
    """The host names that a server answers to, besides those of loopback."""

    listening_on: str  # name or address
    allowed: frozenset[str]  # as `host_names` returns them
    setting: str  # the name of the setting that lists `allowed`

    def include(self, name: str) -> bool:
        """Whether the canonical name is one of them.

        A server that listens on every address answers to any IP address: a page that makes a name of its own resolve to
        this machine sends that name, never an address.
        """
        if name == "localhost" or name == canonical(self.listening_on) or name in self.allowed:
            return True
        address, listening_on = _address(name), _address(self.listening_on)
        return address is not None and (address.is_loopback or bool(listening_on and listening_on.is_unspecified))


def refusal(values_of: Callable[[str], Sequence[str]], own: OwnNames) -> Refusal | None:
    """Why a request with these headers must not be answered; None: answer it.

    `values_of` returns every value of the header of that name, empty if there is none.
    """
    hosts = [_host_and_port(value.strip(_BLANKS)) for value in values_of("Host")]
    host = hosts[0] if len(hosts) == 1 else None
    if host is None or not own.include(host.name):
        reason = f"This server does not answer to that host name. {own.setting} lists the names that it answers to"
        return Refusal(HTTPStatus.MISDIRECTED_REQUEST, reason)
    from_own_page = all(_of_origin(value.strip(_BLANKS)) == host for value in values_of("Origin"))
    if from_own_page and all(value.strip(_BLANKS) in _OWN_SITES for value in values_of("Sec-Fetch-Site")):
        return None
    return Refusal(HTTPStatus.FORBIDDEN, _FOREIGN_PAGE)


def host_names(listed: str, setting: str) -> frozenset[str]:
    """The canonical names of a comma-separated list. ConfigError: one of them is not a host name or an address."""
    names = frozenset(canonical(part.strip().removeprefix("[").removesuffix("]")) for part in listed.split(","))
    for name in names - {""}:
        if not (_NAME.fullmatch(name) or _address(name)):
            raise ConfigError(f"{setting}: expected host names without scheme and port, comma-separated, got {name!r}")
    return names - {""}


def canonical(name: str) -> str:
    """A host name or an address in the spelling in which names are compared."""
    lower = name.lower().removesuffix(".")
    return str(_address(lower) or lower)


class _HostAndPort(NamedTuple):
    name: str
    port: int


def _host_and_port(text: str) -> _HostAndPort | None:
    found = _HOST_AND_PORT.fullmatch(text)
    return found and _HostAndPort(canonical(found["ipv6"] or found["name"]), int(found["port"] or _HTTP_PORT))


def _of_origin(text: str) -> _HostAndPort | None:
    return _host_and_port(text.removeprefix(_SCHEME)) if text.startswith(_SCHEME) else None


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
