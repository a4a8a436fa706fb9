"""The shelf of datasets: one file each; a file that declares a dataset is found by the registry."""
