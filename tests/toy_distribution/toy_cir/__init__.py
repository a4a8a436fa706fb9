"""A distribution of somebody else's that brings methods of its own."""
