"""All parties of a run in one process."""
