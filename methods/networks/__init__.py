"""What methods are built of: encoders, layers, losses, vocabularies and word vectors. Declares no method."""
