"""Sparse coding behind scikit-learn's interface: coders and a dictionary learner for pipelines and searches."""

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as error:
    raise ImportError('scvae_fast.estimators needs scikit-learn: pip install "scvae_fast[train]"') from error

from scvae_fast.estimators.lasso_coder import LassoCoder
from scvae_fast.estimators.lista_coder import LISTACoder
from scvae_fast.estimators.online_learning import OnlineDictionaryLearning

__all__ = ["LISTACoder", "LassoCoder", "OnlineDictionaryLearning"]
