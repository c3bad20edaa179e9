"""The engine's own access control: a configuration whose only user has no privilege beyond the tables of this server.

What is not granted: files, URLs, other servers and databases, backups, named collections, users, freezing.
"""

from pathlib import Path

_ON_TABLES = (
    "SHOW", "CHECK", "SELECT", "INSERT", "TRUNCATE", "OPTIMIZE", "UNDROP TABLE",
    "CREATE DATABASE", "CREATE TABLE", "CREATE VIEW", "CREATE DICTIONARY", "CREATE TEMPORARY TABLE",
    "CREATE TEMPORARY VIEW", "CREATE FUNCTION",
    "DROP DATABASE", "DROP TABLE", "DROP VIEW", "DROP DICTIONARY", "DROP FUNCTION",
    "ALTER UPDATE", "ALTER DELETE", "ALTER COLUMN", "ALTER MODIFY COMMENT", "ALTER MODIFY DATABASE COMMENT",
    "ALTER ORDER BY", "ALTER SAMPLE BY", "ALTER INDEX", "ALTER STATISTICS", "ALTER PROJECTION", "ALTER CONSTRAINT",
    "ALTER TTL", "ALTER SETTINGS", "ALTER MOVE PARTITION", "ALTER VIEW", "ALTER REWRITE PARTS",
    "KILL QUERY", "KILL TRANSACTION", "dictGet",
    "SYSTEM SHUTDOWN", "SYSTEM DROP CACHE", "SYSTEM RELOAD DICTIONARY", "SYSTEM MERGES", "SYSTEM TTL MERGES",
    "SYSTEM MOVES", "SYSTEM CLEANUP", "SYSTEM VIEWS", "SYSTEM FLUSH", "SYSTEM WAIT LOADING PARTS",
    "SYSTEM LOAD PRIMARY KEY", "SYSTEM UNLOAD PRIMARY KEY",
)  # fmt: skip
_CONFIGURATION = """<clickhouse>
    <user_directories><users_xml><path>users.xml</path></users_xml></user_directories>
</clickhouse>
"""
_USERS = """<clickhouse>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users><default>
        <no_password/>
        <networks><ip>::/0</ip></networks>
        <profile>default</profile>
        <quota>default</quota>
        <grants><query>GRANT {privileges} ON *.*</query></grants>
    </default></users>
</clickhouse>
"""


def write_configuration(directory: Path) -> Path:
    """Write the engine's configuration with its user into a directory of its own; returns the configuration's path."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    (directory / "users.xml").write_text(_USERS.format(privileges=", ".join(_ON_TABLES)))
    configuration = directory / "config.xml"
    configuration.write_text(_CONFIGURATION)
    return configuration
