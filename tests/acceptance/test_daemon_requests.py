"""Block ranges asked for at run time and by sub-range: jobs, registered partitions, schedules."""
