"""A Redis-protocol server and a ClickHouse HTTP endpoint for machines that have neither."""
