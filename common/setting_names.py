"""Names that look like settings but aren't, in `.env` and in the environment. Values are never read.

Such a name deserves a warning but not an error: compose keeps variables of its own in `.env`, and Kubernetes puts
REDIS_SERVICE_HOST and the like beside REDIS_HOST.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator

from common.env_file import Line

# Read by the scripts, by programs and by libraries, from the environment and never from `.env`.
ENVIRONMENT_ALONE = frozenset(
    {"DATA_DIR", "SIMULATOR_PORT", "SIMULATOR_OPTIONS", "PYTHON", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"}
)
COMPOSE_ALONE = frozenset({"REDIS_MAXMEMORY"})  # docker-compose.yml reads it, from either
_OF_DOCKER = ("COMPOSE_", "DOCKER_", "BUILDKIT_", "BUILDX_")
_OF_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_\d+_(TCP|UDP)(_|$)")
_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")  # what may be shown; any other text could be a stray password
NEAR = 0.8  # of difflib's ratio: REDIS_PASS is near REDIS_PASSWORD (0.83), CLICKHOUSE_SERVICE_HOST not (0.79)
NEAR_IN_FILE = 0.6  # a name in `.env` is meant for us


def doubtful_lines(lines: Iterable[Line], settings: Collection[str]) -> Iterator[str]:
    """A warning for each line that sets nothing."""
    for number, name in lines:
        known = name.upper()
        if known in settings or known in COMPOSE_ALONE or known.startswith(_OF_DOCKER):
            continue
        where = f".env, line {number}:"
        if known in ENVIRONMENT_ALONE:
            yield f"{where} {known} has no effect here: it is read from the environment only"
        elif not (_NAME.fullmatch(name) or _nearest(known, settings, NEAR)):
            yield f"{where} sets nothing: expected NAME=value with the name of a setting"
        else:
            yield f"{where} {name} is not a setting{_suggestion(_nearest(known, settings, NEAR_IN_FILE))}"


def doubtful_variables(variables: Iterable[str], settings: Collection[str]) -> Iterator[str]:
    """A warning for each variable whose name begins like a setting's and nearly matches one."""
    names = {name.upper() for name in variables}
    prefixes = tuple({f"{name.partition('_')[0]}_" for name in settings})
    for name in sorted(names - set(settings) - ENVIRONMENT_ALONE - COMPOSE_ALONE):
        if not name.startswith(prefixes) or _is_injected(name, names):
            continue
        if nearest := _nearest(name, settings, NEAR):
            yield f"environment: {name} is not a setting{_suggestion(nearest)}"


def _is_injected(name: str, names: Collection[str]) -> bool:
    """Whether Kubernetes has set it for a service of the namespace; X_PORT comes with X_SERVICE_HOST."""
    return bool(_OF_KUBERNETES.search(name)) or f"{name.removesuffix('_PORT')}_SERVICE_HOST" in names


def _nearest(name: str, settings: Collection[str], cutoff: float) -> str:
    return next(iter(difflib.get_close_matches(name, settings, 1, cutoff)), "")


def _suggestion(nearest: str) -> str:
    return f"; did you mean {nearest}?" if nearest else ""
