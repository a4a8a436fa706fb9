"""The annotation files of each dataset: where they lie on disk, and how their entries become columns."""
