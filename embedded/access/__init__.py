"""What a client of the embedded ClickHouse may ask of the engine: its tables, and nothing else on this machine.

Three layers. `grants` are the engine's own: a user without the privileges for files, URLs and other servers. `policy`
reads each statement as the engine parses it and refuses what no GRANT covers: the engine takes the process for a
command-line tool of its user, to which `file('/path')` is an ordinary function. `confinement` is the kernel's, where it
can: whatever the other two let through opens no file and runs no command.
"""
