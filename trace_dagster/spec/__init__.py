"""DAG YAML: reading, validating, and resolving references across jobs and files."""
