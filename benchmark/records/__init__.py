"""The record of a run: its schema, how it is written and read, and what lies beside it."""
