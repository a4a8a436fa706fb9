"""Holding implementations against numbers computed with the authors' own code."""
