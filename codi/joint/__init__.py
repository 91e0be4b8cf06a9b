"""The joint method: what makes outputs that are generated together agree.

Sampling and training both use it.
"""
