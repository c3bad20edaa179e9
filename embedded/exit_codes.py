"""Exit codes of the embedded servers. 0 is a clean stop: a supervisor that did not ask for it restarts them."""

import sys
import time

EXIT_CONFIG = 2  # a restart does not help: the arguments or the machine must change
EXIT_NOT_NEEDED = 3  # another server answers already
START_S = 1.5  # a process that ends within its startsecs has failed, to supervisord


def leave_to_other_server(host: str, port: int) -> int:
    """Report that another server answers there; returns the exit code."""
    sys.stdout.write(f"another server already answers at {host}:{port}; nothing to do\n")
    sys.stdout.flush()
    time.sleep(START_S)
    return EXIT_NOT_NEEDED
