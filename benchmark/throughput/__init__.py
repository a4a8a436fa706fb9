"""What this program's parts cost in time and memory, each measured beside its limit."""
