"""Data folders and their pictures: annotation files read and checked, datasets cut down, pictures opened."""
