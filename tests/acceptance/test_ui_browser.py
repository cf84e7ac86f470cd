"""The Dagster UI in a headless Chromium: lineage, a backfill by its own buttons, green at the end."""
