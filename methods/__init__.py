"""The shelf of methods: one file each; a file that declares methods is found by the registry."""
