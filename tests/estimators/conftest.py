import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def digits():
    """600 digits to learn from and 200 others, with the mean image removed."""
    X = load_digits().data / 16
    X -= X.mean(0)
    return X[:600], X[600:800]
