"""Every Redis key name, in one place."""

from typing import NamedTuple


class Route(NamedTuple):
    """A stream as one consumer group reads it."""

    stream: str
    group: str


class Keys:
    """Key names under one prefix. Stream names come from the settings and carry the prefix as well."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix

    def __call__(self, name: str) -> str:
        """Any name under the prefix."""
        return self._prefix + name

    def dead_letters(self, stream: str) -> str:
        """Stream of the entries of `stream` (already prefixed) that nobody can process."""
        return f"{stream}_dlq"

    def state(self, name: str) -> str:
        """A cursor or watermark that a person may read with `redis-cli GET`."""
        return self(f"state:{name}")

    def seen(self, source: str) -> str:
        """What a source has already published: sorted set of the ids' SHA-256, or prefix of hashes of fingerprints."""
        return self(f"seen:{source}")

    def unreadable(self, source: str) -> str:
        """Hash of a field's name to how many published records of a source lack it since it could not be read."""
        return self(f"unreadable:{source}")

    def heartbeat(self, instance: str) -> str:
        """Hash that a running process refreshes."""
        return self(f"heartbeat:{instance}")

    def starts(self) -> str:
        """Hash of component to how often it has been started, without the starts that ended as they were told."""
        return self("heartbeat_starts")

    def lease(self, consumer: str) -> str:
        """String that says who acts under a consumer's name; expires when that process falls silent."""
        return self(f"lease:{consumer}")

    def backfill(self, source: str, name: str) -> str:
        """Of a source's backfills: one of them as a hash, by its range, or `faults`, a set of dead letters' ids."""
        return self(f"backfill:{source}:{name}")

    def manifests(self, consumer: str) -> str:
        """Hash of insert token to the batch that a writer has fixed and not yet acknowledged."""
        return self(f"manifests:{consumer}")

    def unknown_tokens(self) -> str:
        """Set of token ids that fills wait for."""
        return self("tokens:unknown")
