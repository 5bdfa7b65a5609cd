"""Sparse coding with scikit-learn's interface: coders and a dictionary learner for pipelines and searches."""

from scvae_fast._extras import extra

with extra("scvae_fast.estimators", "scikit-learn"):
    import sklearn as _sklearn  # noqa: F401

from scvae_fast.estimators.lasso_coder import LassoCoder
from scvae_fast.estimators.lista_coder import LISTACoder
from scvae_fast.estimators.online_learning import OnlineDictionaryLearning

__all__ = ["LISTACoder", "LassoCoder", "OnlineDictionaryLearning"]
