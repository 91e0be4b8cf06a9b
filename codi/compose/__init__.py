"""Compose latent diffusion models that others published: each frozen, all generating together.

A pipeline of diffusers becomes the denoiser and the autoencoder of one modality (`codi.compose.foreign`).
Nothing of it is written anew: its prompts, its schedule and its decoding are its own
(`codi.compose.tap`), and its network keeps its class and its weights. What is trained stands beside it
and is ours: environment encoders and joint adapters through which the networks attend to each other, and
translators by which they take prompts of modalities that they never saw. docs/compose.md is the guide.
"""
