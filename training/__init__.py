"""Training: one loop, and one Stage object per objective.

A run is started by `accelerate launch -m training.main --config configs/world/<stage>.yaml`.
"""
