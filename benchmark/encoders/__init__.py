"""Backbones: CLIP's two encoders, their preprocessing, and the frozen form that fills the feature store."""
