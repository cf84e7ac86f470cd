"""Runs that are cancelled from the UI, or whose worker is killed."""
