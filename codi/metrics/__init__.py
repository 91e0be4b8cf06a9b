"""Measure generated media.

Nothing here loads a model or a file: readings, features and callables are passed in.
"""
