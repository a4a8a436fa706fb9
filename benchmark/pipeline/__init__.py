"""One whole run: its plan, the stages it needs, the order in which they are done, what it costs and what it reports."""
