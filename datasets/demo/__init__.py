"""The demo data: drawn pictures and made texts, written in the official layout of each dataset."""
