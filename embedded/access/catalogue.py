"""What this engine has, according to its own system tables: functions and their kinds, settings and their types."""

from collections.abc import Collection

from embedded import errors
from embedded.access import allowed
from embedded.access.parser import Parser

SETTING = "CLICKHOUSE_UNRESTRICTED"
MAX_NAME = 500  # of a function, combinators and all


class Catalogue:
    """Read once. User-defined functions are looked up when they are used, since clients make and drop them."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        functions = parser.rows(
            "SELECT name, categories, if(alias_to = '', name, alias_to), is_aggregate FROM system.functions "
            "WHERE origin = 'System'"
        )
        categories = {name: category for name, category, _, _ in functions}
        # Some names are case-insensitive: a name is allowed only if it is in every case in which it is listed.
        self._refused = {
            name.lower() for name, _, target, _ in functions if not _is_allowed(target, categories.get(target, ""))
        }
        self._functions = {name.lower() for name, *_ in functions} | allowed.SYNTAX_FUNCTIONS
        self._aggregates = {name.lower() for name, _, _, is_aggregate in functions if is_aggregate}
        self._combinators = tuple(
            name.lower() for (name,) in parser.rows("SELECT name FROM system.aggregate_function_combinators")
        )
        self._table_functions = {name.lower() for (name,) in parser.rows("SELECT name FROM system.table_functions")}
        settings = parser.rows(
            "SELECT name, type FROM system.settings UNION ALL SELECT name, type FROM system.merge_tree_settings"
        )
        self._text_settings = {
            name for name, kind in settings if kind in allowed.TEXT_TYPES and name not in allowed.TEXT_SETTINGS
        } | allowed.REFUSED_SETTINGS

    def require_function(self, name: str) -> None:
        """Check a function that is called. ClickHouseError: it is not allowed."""
        lower = name.lower()
        if lower in self._functions:
            self.require_harmless(name)
        elif not self._is_combined(lower) and not self._is_user_defined(name):
            raise denied(f"the function {name}")

    def require_harmless(self, name: str) -> None:
        """Check a name that may be a function's. ClickHouseError: that function is not allowed."""
        if name.lower() in self._refused:
            raise denied(f"the function {name}")

    def require_setting(self, name: str) -> None:
        """Check a setting. ClickHouseError: its text could hold a path, an address or SQL."""
        if name in self._text_settings:
            raise denied(f"the setting {name}")

    def require_view(self, name: str) -> None:
        """Check a table function that the engine may not have: then it has to be a view with parameters."""
        views = self._parser.rows("SELECT name, database || '.' || name FROM system.tables WHERE engine = 'View'")
        if self.has_table_function(name) or not any(name in view for view in views):
            raise denied(f"the table function {name}")

    def has_table_function(self, name: str) -> bool:
        """Tell whether the engine has a table function of that name."""
        return name.lower() in self._table_functions

    def require_free(self, name: str) -> None:
        """Check the name of a function that is made. ClickHouseError: it is the name of a table function."""
        if self.has_table_function(name):
            raise denied(f"a function with the name of the table function {name}")

    def _is_combined(self, lower: str) -> bool:
        """Tell whether it is an aggregate function with combinators behind its name: `sumArrayIf`."""
        names, seen = {lower[:MAX_NAME]}, set[str]()
        while names:
            if any(name in self._aggregates and name not in self._refused for name in names):
                return True
            seen |= names
            shorter = {
                name.removesuffix(suffix) for name in names for suffix in self._combinators if name.endswith(suffix)
            }
            names = shorter - seen - {""}
        return False

    def _is_user_defined(self, name: str) -> bool:
        """Return whether a statement created it; what it is made of was checked then."""
        defined = self._parser.rows("SELECT name FROM system.functions WHERE origin = 'SQLUserDefined'")
        return [name] in defined


def _is_allowed(name: str, category: str) -> bool:
    return category in allowed.FUNCTION_CATEGORIES or name in allowed.OTHER_FUNCTIONS


def require(name: str, names: Collection[str], what: str) -> None:
    """Check a name against those that are allowed. ClickHouseError: it is not one of them."""
    if name not in names:
        raise denied(f"{what} {name}")


def denied(what: str) -> errors.ClickHouseError:
    """Return the refusal of a part of a statement."""
    message = f"{what} is not available: this server gives access to its tables only"
    return errors.refusal("ACCESS_DENIED", f"{message}. {SETTING}=true lifts the limits")
