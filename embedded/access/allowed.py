"""What statements may contain. Anything not listed here is refused, including what later engines add."""

# Types of AST nodes, as parseQueryToJSON names them. Not among them: users, roles, quotas, backups, named collections.
STATEMENTS = frozenset({
    "AlterQuery", "CheckTableQuery", "CreateIndexQuery", "CreateQuery", "CreateSQLFunctionQuery", "DeleteQuery",
    "DropIndexQuery", "DropQuery", "ExplainQuery", "InsertQuery", "KillQueryQuery", "OptimizeQuery", "RenameQuery",
    "SelectIntersectExceptQuery", "SelectQuery", "SelectWithUnionQuery", "SetQuery", "ShowColumnsQuery",
    "ShowIndexesQuery", "ShowTablesQuery", "SystemQuery", "TransactionControl", "UpdateQuery", "UseQuery",
    "ProjectionSelectQuery", "TablesInSelectQuery",
})  # fmt: skip
# Statements of names only, which parseQueryToJSON can't serialize: how their type begins in its error message.
STATEMENTS_OF_NAMES = (
    "ShowCreateTableQuery", "ShowCreateViewQuery", "ShowCreateDictionaryQuery", "ShowCreateDatabaseQuery",
    "ExistsTableQuery", "ExistsViewQuery", "ExistsDictionaryQuery", "ExistsDatabaseQuery", "ShowProcesslistQuery",
    "ShowFunctions", "ShowEngineQuery", "ShowGrantsQuery", "UndropQuery", "DropFunctionQuery",
    "ExistsTemporaryTableQuery",
)  # fmt: skip
SYSTEM_COMMANDS = frozenset({
    "CANCEL_VIEW", "FLUSH_ASYNC_INSERT_QUEUE", "FLUSH_LOGS", "LOAD_PRIMARY_KEY", "REFRESH_VIEW", "RELOAD_DICTIONARIES",
    "RELOAD_DICTIONARY", "SHUTDOWN", "START_CLEANUP", "START_MERGES", "START_MOVES", "START_TTL_MERGES", "START_VIEW",
    "START_VIEWS", "STOP_CLEANUP", "STOP_MERGES", "STOP_MOVES", "STOP_TTL_MERGES", "STOP_VIEW", "STOP_VIEWS",
    "UNLOAD_PRIMARY_KEY", "WAIT_LOADING_PARTS", "WAIT_VIEW",
})  # fmt: skip
CHANGING = frozenset({"AlterQuery", "CreateQuery", "DropQuery"})
SYSTEM_DATABASES = frozenset({"information_schema", "system"})
# system.functions.categories. Left out: AI (calls services), Introspection, Machine Learning and Embedded Dictionary
# (read models and dictionaries from files); of Internal and Other, some names are allowed.
FUNCTION_CATEGORIES = frozenset({
    "Aggregate Functions", "Arithmetic", "Arrays", "Bit", "Bitmap", "Comparison", "Conditional", "Dates and Times",
    "Dictionary", "Distance", "Encoding", "Encryption", "Financial", "Geo", "Geo Polygon", "Hash", "IP Address", "JSON",
    "Logical", "Map", "Mathematical", "Null", "NumericIndexedVector", "QBit", "Random Number", "Rounding", "String",
    "String Replacement", "String Search", "String Splitting", "Time Series", "Time Window", "Tuple", "Type Conversion",
    "URL", "UUID",
})  # fmt: skip
# Of the categories Other and Internal. Left out: `file`, which reads any file, and `hasColumnInTable`, which queries
# other servers.
OTHER_FUNCTIONS = frozenset({
    "array_concat_agg", "bar", "blockNumber", "blockSerializedSize", "blockSize", "buildId", "byteSize",
    "caseWithExpression", "colorOKLABToSRGB", "colorOKLCHToSRGB", "colorSRGBToOKLAB", "colorSRGBToOKLCH",
    "connectionID", "connectionId", "countDigits", "currentDatabase", "currentProfiles", "currentQueryID",
    "currentRoles", "currentSchemas", "currentUser", "defaultProfiles", "defaultRoles",
    "defaultValueOfArgumentType", "defaultValueOfTypeName", "digits", "displayName", "dumpColumnStructure",
    "enabledProfiles", "enabledRoles", "errorCodeToName", "filesystemAvailable", "filesystemCapacity",
    "filesystemUnreserved", "finalizeAggregation", "flipCoordinates", "formatQuery", "formatQueryFromJSON",
    "formatQueryOrNull", "formatQuerySingleLine", "formatQuerySingleLineOrNull", "formatReadableDecimalSize",
    "formatReadableQuantity", "formatReadableSize", "formatReadableTimeDelta", "FQDN", "generateRandomStructure",
    "getMergeTreeSetting", "getServerSetting", "getSetting", "getSettingOrDefault", "getSizeOfEnumType",
    "getSubcolumn", "getTypeSerializationStreams", "globalVariable", "highlightQuery", "hostName", "identity",
    "ignore", "indexHint", "initializeAggregation", "initialQueryID", "initialQueryStartTime", "isConstant",
    "isDecimalOverflow", "isMergeTreePartCoveredBy", "joinGet", "joinGetOrNull", "lowCardinalityIndices",
    "lowCardinalityKeys", "MACNumToString", "MACStringToNum", "MACStringToOUI", "materialize", "mergeTreePartInfo",
    "minSampleSizeContinuous", "minSampleSizeConversion", "neighbor", "nested", "normalizedQueryHash",
    "normalizedQueryHashKeepNames", "normalizeQuery", "normalizeQueryKeepNames", "parseISO8601Duration",
    "parseQueryToJSON", "parseReadableSize", "parseReadableSizeOrNull", "parseReadableSizeOrZero", "parseTimeDelta",
    "partitionId", "pgGetUserById", "pgTableIsVisible", "queryID", "revision", "rowNumberInAllBlocks",
    "rowNumberInBlock", "runningAccumulate", "runningConcurrency", "runningDifference",
    "runningDifferenceStartingWithFirstValue", "serverUUID", "shardCount", "shardNum", "sleep", "sleepEachRow",
    "structureToCapnProtoSchema", "structureToProtobufSchema", "tcpPort", "throwIf", "toColumnTypeName",
    "tokenizeQuery", "toTypeName", "transactionID", "transactionLatestSnapshot", "transactionOldestSnapshot",
    "transform", "uptime", "variantElement", "variantType", "version", "visibleWidth",
})  # fmt: skip
# What the parser makes of syntax, and system.functions doesn't list.
SYNTAX_FUNCTIONS = frozenset({"exists", "grouping", "lambda", "untuple"})
# In lower case. Arguments of these may be columns or a format, as text that the engine parses in turn: see policy.py.
TABLE_FUNCTIONS_OF_TEXT = frozenset({"format", "generaterandom", "input", "null", "values"})
TABLE_FUNCTIONS = TABLE_FUNCTIONS_OF_TEXT | {
    "dictionary", "generateseries", "generate_series", "loop", "merge", "mergetreeindex", "mergetreeprojection",
    "sqlstandardvalues",
    "numbers", "numbers_mt", "primes", "view", "zeros", "zeros_mt",
}  # fmt: skip
TABLE_ENGINES = frozenset({
    "AggregatingMergeTree", "Alias", "Buffer", "CoalescingMergeTree", "CollapsingMergeTree", "Dictionary",
    "GenerateRandom", "Join", "Log", "Memory", "Merge", "MergeTree", "Null", "ReplacingMergeTree", "Set", "StripeLog",
    "SummingMergeTree", "TinyLog", "VersionedCollapsingMergeTree",
})  # fmt: skip
DATABASE_ENGINES = frozenset({"Atomic", "Memory"})
# A dictionary reads a table of this server: no host, no query, no condition as text.
DICTIONARY_SOURCES = frozenset({"clickhouse", "null"})
DICTIONARY_SOURCE_KEYS = frozenset({"db", "table"})
DICTIONARY_LAYOUTS = frozenset({  # not ssd_cache, which writes to any path
    "cache", "complex_key_cache", "complex_key_direct", "complex_key_hashed", "complex_key_hashed_array",
    "complex_key_range_hashed", "complex_key_sparse_hashed", "direct", "flat", "hashed", "hashed_array", "ip_trie",
    "polygon", "range_hashed", "sparse_hashed",
})  # fmt: skip
# Settings that hold text can hold a path, an address or SQL (`additional_result_filter`). These hold none.
TEXT_SETTINGS = frozenset({
    "bool_false_representation", "bool_true_representation", "columns_to_prewarm_mark_cache", "compatibility",
    "count_distinct_implementation", "default_compression_codec", "errors_output_format",
    "exclude_materialize_skip_indexes_on_insert", "exclude_materialize_skip_indexes_on_merge",
    "force_data_skipping_indices", "force_optimize_projection_name", "format_csv_null_representation",
    "format_custom_field_delimiter", "format_custom_result_after_delimiter", "format_custom_result_before_delimiter",
    "format_custom_row_after_delimiter", "format_custom_row_before_delimiter", "format_custom_row_between_delimiter",
    "format_json_object_each_row_column_for_object_name", "format_regexp", "format_tsv_null_representation",
    "ignore_data_skipping_indices", "insert_deduplication_token", "log_comment", "marks_compression_codec",
    "network_compression_method", "output_format_avro_codec", "output_format_avro_string_column_pattern",
    "output_format_pretty_grid_charset", "output_format_sql_insert_table_name",
    "preferred_optimize_projection_name", "primary_key_compression_codec", "query_cache_tag", "send_logs_source_regexp",
    "auto_statistics_types",
})  # fmt: skip
# The types of such settings in system.settings and system.merge_tree_settings. `dialect` changes how text is read.
TEXT_TYPES = frozenset({"Dialect", "Map", "String", "URI"})
# Settings without text that a client may not change: what the server logs is the operator's.
REFUSED_SETTINGS = frozenset({"send_logs_level"})
