"""The disks that hold ClickHouse's tables, as ClickHouse reports them, be it on this machine or elsewhere."""

import msgspec

from common.clickhouse import ClickHouse
from monitoring.reading import Reading, Server

GB = 1_000_000_000
NEARLY_FULL_SHARE, NEARLY_FULL_BYTES = 0.1, 10 * GB  # free space below both
FULL_BYTES = GB  # merges need room for a part beside those that it replaces
UNLIMITED_BYTES = 2**62  # object storage is unlimited: it reports 2^64 - 1, or 0


class Disk(msgspec.Struct, frozen=True):
    """A disk of ClickHouse."""

    name: str
    path: str
    free_bytes: int
    total_bytes: int

    @property
    def free_share(self) -> float:
        return self.free_bytes / self.total_bytes

    @property
    def is_full(self) -> bool:
        return self.free_bytes < FULL_BYTES

    @property
    def is_nearly_full(self) -> bool:
        return self.free_bytes < NEARLY_FULL_BYTES and self.free_share < NEARLY_FULL_SHARE


def read_disks(clickhouse: ClickHouse, database: Server) -> Reading[list[Disk]]:
    """The disks in the storage policies of our tables, except unlimited ones."""
    return database.read(lambda: _disks(clickhouse))


def _disks(clickhouse: ClickHouse) -> list[Disk]:
    rows = clickhouse.query(_DISKS, {"database": clickhouse.database, "unlimited": UNLIMITED_BYTES})
    return [Disk(*row) for row in rows]


_DISKS = """SELECT name, path, free_space, total_space FROM system.disks
WHERE total_space > 0 AND total_space < {unlimited:UInt64} AND name IN
(
    SELECT arrayJoin(disks) FROM system.storage_policies WHERE policy_name IN
    (
        SELECT storage_policy FROM system.tables WHERE database = {database:String}
    )
)
ORDER BY name"""
