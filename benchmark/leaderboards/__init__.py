"""Tables made from records and from the published numbers."""
