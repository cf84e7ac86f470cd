"""Resolved DAGs -> Dagster objects; one Dagster role a file. Nothing here does I/O at compile time."""
