"""Names that a job gets in Dagster and in Postgres, made in one place."""

__all__ = [
    "aggregator_sensor_name",
    "follower_sensor_name",
    "pool_name",
    "request_job_name",
    "schedule_name",
    "table_name",
    "update_sensor_name",
]


def pool_name(dag: str, job: str) -> str:
    """Return the Dagster pool that holds a job's ``scaling.max_concurrency``."""
    return f"{dag}/{job}"


def request_job_name(dag: str, job: str) -> str:
    """Return the Dagster job that a source job is launched by."""
    return f"{dag}__{job}"


def schedule_name(dag: str, job: str) -> str:
    """Return the Dagster schedule of a cron source."""
    return f"{dag}__{job}__schedule"


def aggregator_sensor_name(dag: str, job: str) -> str:
    """Return the Dagster sensor that asks for an aggregator's ranges."""
    return f"{dag}__{job}__aggregate"


def follower_sensor_name(dag: str, job: str) -> str:
    """Return the Dagster sensor that keeps a follower going."""
    return f"{dag}__{job}__follow"


def update_sensor_name(dag: str, job: str) -> str:
    """Return the Dagster sensor that asks for a ``PerUpdate`` job's run where there are new rows."""
    return f"{dag}__{job}__update"


def table_name(job: str, output: str) -> str:
    """Return the hot table of an output, in the Postgres schema named for the DAG."""
    return f"{job}_{output}"
