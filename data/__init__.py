"""Samples for training: the world rendered on the fly, latents encoded once, and the order in which they come."""
