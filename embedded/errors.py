"""ClickHouse errors: code and text as the engine gives them, and the HTTP status that the server would answer."""

import re

# Codes of the refusals that this endpoint makes itself: https://clickhouse.com/docs/reference/error-codes
CODES = {
    "BAD_ARGUMENTS": 36,
    "NOT_IMPLEMENTED": 48,
    "UNKNOWN_COMPRESSION_METHOD": 89,
    "UNKNOWN_SETTING": 115,
    "INCORRECT_DATA": 117,
    "READONLY": 164,
    "TOO_DEEP_AST": 167,
    "TOO_MANY_SIMULTANEOUS_QUERIES": 202,
    "QUERY_IS_TOO_LARGE": 307,
    "SESSION_NOT_FOUND": 372,
    "SESSION_IS_LOCKED": 373,
    "ACCESS_DENIED": 497,
    "AUTHENTICATION_FAILED": 516,
    "UNKNOWN_EXCEPTION": 1002,
}
# The statuses of ClickHouse 26 (src/Server/HTTP/exceptionCodeToHTTPStatus.cpp); a name not listed answers 500.
_NAMES_BY_STATUS = {
    400: "BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE CANNOT_PARSE_QUOTED_STRING"
    " CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING"
    " CANNOT_PARSE_IPV4 CANNOT_PARSE_IPV6 CANNOT_PARSE_UUID CANNOT_PARSE_INPUT_ASSERTION_FAILED DUPLICATE_COLUMN"
    " ILLEGAL_COLUMN UNKNOWN_ELEMENT_IN_AST UNKNOWN_TYPE_OF_AST_NODE THERE_IS_NO_COLUMN TOO_DEEP_AST TOO_BIG_AST"
    " UNEXPECTED_AST_STRUCTURE SYNTAX_ERROR INCORRECT_DATA TYPE_MISMATCH VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    403: "UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED SET_NON_GRANTED_ROLE ACCESS_DENIED",
    404: "UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE"
    " UNKNOWN_SETTING UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT UNKNOWN_DATABASE_ENGINE"
    " UNKNOWN_TYPE_OF_QUERY UNKNOWN_ROLE",
    408: "TIMEOUT_EXCEEDED",
    413: "QUERY_IS_TOO_LARGE",
    501: "NOT_IMPLEMENTED",
    503: "SOCKET_TIMEOUT CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK",
}
_STATUS_BY_NAME = {name: status for status, names in _NAMES_BY_STATUS.items() for name in names.split()}
_ENGINE_CODE = re.compile(r"Code: (\d+)\. ")
_ENGINE_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)")


class ClickHouseError(Exception):
    """A statement failed: answer with this code, name and text, as ClickHouse's server would."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.name = name
        self.text = text

    @property
    def http_status(self) -> int:
        return _STATUS_BY_NAME.get(self.name, 500)


def refusal(name: str, message: str) -> ClickHouseError:
    """Return an error of this endpoint itself, worded as the engine words its own."""
    code = CODES[name]
    return ClickHouseError(code, name, f"Code: {code}. DB::Exception: {message}. ({name})")


# What the bindings raise for an error: the latter when its text quotes bytes of the statement that are not UTF-8.
ENGINE_ERRORS = (RuntimeError, UnicodeDecodeError)


def from_engine(error: RuntimeError | UnicodeDecodeError) -> ClickHouseError:
    """Return what the engine said as an error with a code; the bindings' exceptions carry text only."""
    text = error.object.decode(errors="replace") if isinstance(error, UnicodeDecodeError) else str(error)
    code = _ENGINE_CODE.search(text)
    names = _ENGINE_NAME.findall(text)
    if code is None or not names:
        return refusal("UNKNOWN_EXCEPTION", text)
    return ClickHouseError(int(code[1]), names[-1], text[code.start() :])
