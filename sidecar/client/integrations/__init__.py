"""The libraries that bring their own loop: Hugging Face Trainer, Lightning, Accelerate.

Given: their callbacks. Hands on: steps of every rank, and what the main process logs. Never: imported by anything of
the sidecar: each module here is imported by the user who has its library, and imports no other one.
"""
