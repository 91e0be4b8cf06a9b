"""Training: one loop, one Stage object per objective. `accelerate launch -m training.main --config
configs/world/<stage>.yaml`.
"""
