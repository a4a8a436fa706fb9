"""Trying a trained method on any folder of pictures: the best ten for a picture and a text."""
