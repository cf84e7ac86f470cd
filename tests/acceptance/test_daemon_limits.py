"""Pools, time limits, attempts, and one failing partition in a run of many."""
