"""Artifacts are accepted and not kept."""

from .artifact import Artifact, ArtifactTTL

__all__ = ("Artifact", "ArtifactTTL")
