"""From encodings to numbers: exact ranks, recalls, averages, intervals, and what a method costs in use."""
