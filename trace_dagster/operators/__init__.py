"""Operators: one file or package each, behind the Protocol in ``base``."""
