"""One whole run: its plan, the stages it needs, and the order in which they are done."""
