"""From encodings to numbers: exact ranks, recalls, averages, intervals; and how many parameters they took."""
