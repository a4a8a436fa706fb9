"""The feature store: what a frozen backbone says of pictures and texts, computed once and kept on disk."""
