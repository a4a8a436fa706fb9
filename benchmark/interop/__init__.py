"""What comes from other programs and goes to them: checkpoints, embeddings, ranked lists, submissions."""
