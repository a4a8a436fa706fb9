"""One page about finished runs, which opens offline: tables, curves, composition, queries, provenance."""
