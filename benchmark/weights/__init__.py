"""Weights files: found on disk, read without executing anything, held against the networks they are for."""
