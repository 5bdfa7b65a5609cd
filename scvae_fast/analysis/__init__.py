"""Pictures of what a model has learned."""

from scvae_fast.analysis.report import draw_report

__all__ = ["draw_report"]
