"""Dictionaries D (n, K): n features, K atoms, an atom a column of unit norm."""

from __future__ import annotations

import math

import numpy as np
import torch

from scvae_fast._devices import holds_values
from scvae_fast._extras import extra

_UNIT_TOLERANCE = 1e-4
_DUPLICATE_COHERENCE = 1 - 1e-6


def dct(n_features: int, n_atoms: int | None = None, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Over-complete separable DCT dictionary, for patches of √n × √n; SC-VAE's with n = 256, K = 512.

    With p = √n and a = ⌈√K⌉ the one-dimensional atoms are v_k(i) = cos(π i k / a), i < p, k < a; the mean is subtracted
    from every v_k but the constant, and all are scaled to unit norm. Atom l·a + k is v_k down the rows times v_l along
    the columns of the patch; the first K are kept (Aharon, Elad & Bruckstein 2006, section V; arXiv 2303.16666).

    Args:
        n_features: n, a square number.
        n_atoms: K ≥ 1; 2n if None.
        dtype: of the result; computed in float64.

    Returns:
        (n, K).

    Raises:
        ValueError: n is not a square number, K < 1, or K is so large for n that atoms coincide.

    Example:
        >>> from scvae_fast import dictionaries
        >>> dictionaries.dct(256, 512).shape
        torch.Size([256, 512])
    """
    n_atoms = 2 * n_features if n_atoms is None else n_atoms
    _check_sizes("dct", n_features, n_atoms)
    p = math.isqrt(n_features)
    if p * p != n_features:
        raise ValueError(f"dct: n_features must be a square number, the pixels of a patch, got {n_features}")
    a = math.isqrt(n_atoms - 1) + 1
    i = torch.arange(p, dtype=torch.float64)
    k = torch.arange(a, dtype=torch.float64)
    V = torch.cos(math.pi / a * i[:, None] * k)  # (p, a)
    V[:, 1:] -= V[:, 1:].mean(0)
    V /= torch.linalg.vector_norm(V, dim=0)
    D = torch.einsum("ik,jl->ijlk", V, V).reshape(n_features, a * a)
    return check(D[:, :n_atoms], f"dct({n_features}, {n_atoms})").to(dtype).contiguous()


def orthogonal_dct(n_features: int, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Orthonormal DCT-II basis of n-vectors, D Dᵀ = I (Ahmed, Natarajan & Rao 1974).

    With c = 1, S = I − DᵀD/c is zero: the sparse codes are the soft-thresholded transform, without any iteration.

    Args:
        n_features: n ≥ 1, which is also the number of atoms.
        dtype: of the result; computed in float64.

    Returns:
        (n, n), atoms in order of frequency.

    Raises:
        ValueError: n < 1.

    Example:
        >>> import torch
        >>> from scvae_fast import dictionaries
        >>> D = dictionaries.orthogonal_dct(8)
        >>> torch.allclose(D @ D.T, torch.eye(8), atol=1e-6)
        True
    """
    _check_sizes("orthogonal_dct", n_features, n_features)
    i = torch.arange(n_features, dtype=torch.float64)
    D = torch.cos(math.pi / n_features * (i[:, None] + 0.5) * i)
    D /= torch.linalg.vector_norm(D, dim=0)
    return check(D).to(dtype)


def random_unit(
    n_features: int,
    n_atoms: int,
    *,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Atoms drawn uniformly from the unit sphere.

    Args:
        n_features: n ≥ 1.
        n_atoms: K ≥ 1.
        generator: of the random numbers; None uses torch's global one.
        dtype: of the result; drawn in float64.

    Returns:
        (n, K).

    Raises:
        ValueError: a size is below 1, or atoms coincide (which is inevitable for n = 1 and K > 1).

    Example:
        >>> from scvae_fast import dictionaries
        >>> dictionaries.random_unit(16, 64).shape
        torch.Size([16, 64])
    """
    _check_sizes("random_unit", n_features, n_atoms)
    D = torch.randn(n_features, n_atoms, generator=generator, dtype=torch.float64)
    return check(D / torch.linalg.vector_norm(D, dim=0), f"random_unit({n_features}, {n_atoms})").to(dtype)


def learned(
    data: torch.Tensor | np.ndarray,
    n_atoms: int,
    *,
    lmbda: float = 1.0,
    max_iter: int = 100,
    batch_size: int = 256,
    seed: int = 0,
) -> torch.Tensor:
    """Dictionary learned from data with scikit-learn's online dictionary learning (Mairal et al. 2009).

    Args:
        data: (M, n) vectors, floating point.
        n_atoms: K ≥ 1.
        lmbda: λ of ½‖x − Dz‖² + λ‖z‖₁, in the units of the data.
        max_iter: largest number of passes over the data.
        batch_size: rows per step.
        seed: for the initialisation and the order of the rows.

    Returns:
        (n, K) in the data's dtype (float32 for 16-bit types).

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: data is not a finite (M, n) matrix, K < 1, or learning ended with zero or duplicate atoms.

    Example:
        >>> import torch
        >>> from scvae_fast import dictionaries
        >>> dictionaries.learned(torch.randn(64, 8), 12, max_iter=1).shape
        torch.Size([8, 12])
    """
    with extra("dictionaries.learned", "scikit-learn"):
        from sklearn.decomposition import MiniBatchDictionaryLearning
    # torch rejects arrays with negative strides.
    rows = (data if isinstance(data, torch.Tensor) else torch.tensor(np.ascontiguousarray(data))).detach().cpu()
    if rows.dim() != 2 or not rows.is_floating_point() or not rows.isfinite().all():
        raise ValueError(
            f"learned: data must be a finite floating-point (M, n) matrix, got {rows.dtype} {list(rows.shape)}"
        )
    _check_sizes("learned", rows.shape[1], n_atoms)
    rows = rows if rows.dtype == torch.float64 else rows.float()
    learner = MiniBatchDictionaryLearning(
        n_components=n_atoms,
        alpha=lmbda,
        max_iter=max_iter,
        batch_size=batch_size,
        random_state=seed,
        transform_algorithm="lasso_cd",
    )
    atoms = torch.from_numpy(learner.fit(rows.numpy()).components_).T.to(rows.dtype)  # (n, K)
    norms = torch.linalg.vector_norm(atoms, dim=0).clamp_min(torch.finfo(atoms.dtype).tiny)
    return check(atoms / norms, "learned")


def check(dictionary: torch.Tensor, name: str = "dictionary") -> torch.Tensor:
    """Return the dictionary if its atoms are finite, of unit norm and pairwise different up to sign.

    Args:
        dictionary: (n, K), floating point.
        name: for error messages.

    Raises:
        ValueError: it is not such a matrix, or atoms are zero, of another norm or duplicates; the message names them.

    Example:
        >>> from scvae_fast import dictionaries
        >>> dictionaries.check(dictionaries.dct(16)).shape
        torch.Size([16, 32])
    """
    if dictionary.dim() != 2 or not dictionary.is_floating_point():
        raise ValueError(
            f"{name} must be a floating-point (n, K) matrix, got {dictionary.dtype} {list(dictionary.shape)}"
        )
    D = dictionary.detach().double()
    norms = torch.linalg.vector_norm(D, dim=0)  # (K,)
    _raise_for(name, "zero", norms == 0)
    tolerance = max(_UNIT_TOLERANCE, 2 * torch.finfo(dictionary.dtype).eps)  # 16 bits round entries more than that
    _raise_for(name, "not unit vectors", ~((norms - 1).abs() <= tolerance))
    coherences = ((D.T @ D) / torch.outer(norms, norms)).abs().fill_diagonal_(0)  # (K, K)
    _raise_for(name, "duplicates of another", coherences.amax(0) > _DUPLICATE_COHERENCE)
    return dictionary


def coherence(dictionary: torch.Tensor) -> float:
    """Mutual coherence max |⟨dᵢ, dⱼ⟩| / (‖dᵢ‖ ‖dⱼ‖) over i ≠ j (Donoho & Elad 2003); that of `dct(256)` is 0.861.

    Computed in float64. Zero atoms are ignored; with fewer than two other atoms it is 0.

    Args:
        dictionary: (n, K).

    Raises:
        ValueError: dictionary is not a matrix.

    Example:
        >>> from scvae_fast import dictionaries
        >>> round(dictionaries.coherence(dictionaries.dct(256)), 3)
        0.861
    """
    if dictionary.dim() != 2:
        raise ValueError(f"coherence: dictionary must be (n, K), got {tuple(dictionary.shape)}")
    D = dictionary.detach().double()
    norms = torch.linalg.vector_norm(D, dim=0)
    D = D[:, norms != 0] / norms[norms != 0]
    if D.shape[1] < 2:
        return 0.0
    return float((D.T @ D).abs().fill_diagonal_(0).max())


def analytic_weights(dictionary: torch.Tensor) -> torch.Tensor:
    """The analytic weight of ALISTA (Liu, Chen, Wang & Yin 2019): the W that minimises ‖W D‖_F with (W D)_kk = 1.

    Row k is d_kᵀ(DDᵀ)⁺ / (d_kᵀ(DDᵀ)⁺ d_k), in closed form; W is the transpose of the paper's. Computed in float64 and
    differentiable with respect to D.

    Args:
        dictionary: D (n, K), an atom a column.

    Returns:
        (K, n) in D's dtype.

    Raises:
        ValueError: dictionary is not a floating-point matrix, or an atom is zero or not finite.

    Example:
        >>> import torch
        >>> from scvae_fast import dictionaries
        >>> D = dictionaries.random_unit(8, 12)
        >>> W = dictionaries.analytic_weights(D)
        >>> torch.allclose((W @ D).diagonal(), torch.ones(12))
        True
    """
    check_analytic(dictionary)
    return form_analytic_weights(dictionary)


def check_analytic(dictionary: torch.Tensor) -> None:
    """Raise ValueError if a dictionary has no `analytic_weights`.

    Example:
        >>> from scvae_fast import dictionaries
        >>> dictionaries.check_analytic(dictionaries.dct(16))
    """
    if dictionary.dim() != 2 or not dictionary.is_floating_point():
        raise ValueError(
            f"analytic_weights: dictionary must be a floating-point (n, K) matrix, got {dictionary.dtype} "
            f"{list(dictionary.shape)}"
        )
    norms = torch.linalg.vector_norm(dictionary.detach().double(), dim=0)
    _raise_for("analytic_weights", "zero or not finite", ~(norms.isfinite() & (norms > 0)))


def form_analytic_weights(dictionary: torch.Tensor) -> torch.Tensor:
    """`analytic_weights` without checking the dictionary.

    Example:
        >>> from scvae_fast import dictionaries
        >>> dictionaries.form_analytic_weights(dictionaries.dct(16)).shape
        torch.Size([32, 16])
    """
    D = dictionary.double()
    W = D.T @ torch.linalg.pinv(D @ D.T, hermitian=True)  # (K, n)
    return (W / (W * D.T).sum(1, keepdim=True)).to(dictionary.dtype)


def _raise_for(name: str, what: str, bad: torch.Tensor) -> None:
    """Raise ValueError if any atom is bad, naming the first few; does nothing for tensors without values."""
    if not holds_values(bad):
        return
    atoms = bad.nonzero().flatten().tolist()
    if atoms:
        more = ", …" if len(atoms) > 5 else ""
        named = ", ".join(map(str, atoms[:5]))
        raise ValueError(f"{name}: {len(atoms)} atoms are {what}: atoms {named}{more}")


def _check_sizes(name: str, n_features: int, n_atoms: int) -> None:
    if n_features < 1 or n_atoms < 1:
        raise ValueError(f"{name}: n_features and n_atoms must be at least 1, got n = {n_features} and K = {n_atoms}")
