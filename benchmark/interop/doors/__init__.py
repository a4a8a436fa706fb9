"""Doors to models of other libraries: exported queries in, embeddings out; each library is imported when it runs."""
