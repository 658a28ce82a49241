"""The jobs of the `segplan` command, one module a job: its help line, its arguments, and how it starts.

A module `verify_store` is the job `verify-store`. It has

    HELP                        one line for `segplan --help`
    add_arguments(parser)       its arguments, as argparse wants them
    run(options) -> int         does the job and returns the exit code; heavy imports stand inside it

so that listing the jobs imports nothing of theirs.
"""
