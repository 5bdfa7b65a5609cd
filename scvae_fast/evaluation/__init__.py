"""Evaluation of a trained model on any number of pictures, in one pass: `scvae-fast evaluate`."""

from scvae_fast.evaluation.run import Evaluation, evaluate
from scvae_fast.evaluation.settings import METRICS, EvaluationSettings

__all__ = ["METRICS", "Evaluation", "EvaluationSettings", "evaluate"]
