"""The steps of `gpu_check.py`, what they find, and the process that makes them."""
