"""Paired comparison of finished runs: what differs, by how much, and whether the queries say so."""
