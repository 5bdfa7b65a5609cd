"""A trained model rated on any number of pictures, in one pass over them: `scvae-fast evaluate`."""

from scvae_fast.evaluation.run import Evaluation, evaluate
from scvae_fast.evaluation.settings import METRICS, EvaluationSettings

__all__ = ["METRICS", "Evaluation", "EvaluationSettings", "evaluate"]
