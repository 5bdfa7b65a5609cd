import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from scvae_fast.codes import SparseCodes


def dense_codes(h: int, w: int, n_atoms: int, *, density: float = 0.1) -> Tensor:
    codes = torch.randn(h, w, n_atoms)
    return codes * (torch.rand(h, w, n_atoms) < density)


@pytest.mark.parametrize(("shape", "density"), [((3, 5, 24), 0.2), ((1, 1, 7), 1.0), ((4, 2, 9), 0.0)])
def test_round_trip(shape: tuple[int, int, int], density: float) -> None:
    dense = dense_codes(*shape, density=density)
    codes = SparseCodes.of(dense)
    assert torch.equal(codes.dense(), dense)
    assert codes.n_entries == int((dense != 0).sum())
    assert codes.density == pytest.approx(float((dense != 0).float().mean()))
    assert codes.counts.dtype == codes.atoms.dtype == np.uint16
    assert torch.equal(codes.usage(), (dense != 0).sum((0, 1)))


def test_rows_of_cells() -> None:
    dense = dense_codes(5, 3, 8)
    codes = SparseCodes.of(dense)
    for rows in (slice(0, 2), slice(2, 5), slice(4, 9), slice(5, 7), slice(-2, None)):
        assert torch.equal(codes.dense(rows), dense[rows])
    assert codes.dense(dtype=torch.float64).dtype == torch.float64


def test_matrix_of_scipy() -> None:
    dense = dense_codes(3, 4, 10)
    matrix = SparseCodes.of(dense).csr()
    assert matrix.shape == (12, 10)
    assert np.array_equal(matrix.toarray(), dense.reshape(12, 10).numpy())
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    codes = SparseCodes.of(dense)
    halved = dataclasses.replace(codes, values=codes.values.astype(np.float16)).csr()
    assert halved.dtype == np.float32
    assert np.allclose((halved @ np.ones(10)), dense.reshape(12, 10).half().float().sum(1), atol=1e-5)


def test_back_from_the_matrix_of_scipy() -> None:
    dense = dense_codes(3, 5, 24)
    codes = SparseCodes.of(dense)
    matrix = codes.csr()
    assert torch.equal(SparseCodes.from_csr(matrix, (3, 5)).dense(), dense)
    difference = SparseCodes.from_csr(matrix - 0.5 * matrix.tocoo(), (5, 3))
    assert torch.equal(difference.dense(), 0.5 * dense.reshape(5, 3, 24))
    nothing = SparseCodes.from_csr(matrix - matrix, (3, 5))
    assert (nothing.n_entries, nothing.counts.tolist()) == (0, [0] * 15)
    matrix.data[:] = 0
    assert codes.n_entries > 0, "a matrix may share its memory"
    assert SparseCodes.from_csr(matrix, (3, 5)).n_entries == 0
    assert matrix.nnz == codes.n_entries, "what was given stays as it is"
    with pytest.raises(ValueError, match=r"matrix must have h·w rows, got \(15, 24\) for \(3, 4\)"):
        SparseCodes.from_csr(matrix, (3, 4))


def test_what_counts_as_an_entry() -> None:
    dense = torch.tensor([[[0.0, -0.0, float("nan"), float("inf"), 1e-30]]])
    codes = SparseCodes.of(dense)
    assert codes.atoms.tolist() == [2, 3, 4]
    assert np.isnan(codes.values[0])
    assert codes.values[2] == np.float32(1e-30)


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.float64, np.float64), (torch.float16, np.float32), (torch.bfloat16, np.float32)]
)
def test_dtypes(dtype: torch.dtype, kept: type) -> None:
    dense = dense_codes(2, 2, 6, density=0.5).to(dtype)
    codes = SparseCodes.of(dense)
    assert codes.values.dtype == kept
    assert torch.equal(codes.dense(dtype=dtype), dense)


def test_many_atoms() -> None:
    dense = torch.zeros(1, 2, 65536)
    dense[0, 0] = 1  # a count that 16 bits don't hold
    dense[0, 1, 65535] = 2
    codes = SparseCodes.of(dense)
    assert codes.counts.dtype == codes.atoms.dtype == np.uint32
    assert torch.equal(codes.dense(), dense)


def test_grids_below_each_other() -> None:
    dense = dense_codes(5, 3, 8)
    parts = [SparseCodes.of(dense[:2]), SparseCodes.of(dense[2:])]
    assert torch.equal(SparseCodes.stack(parts).dense(), dense)
    for wrong in ([], [parts[0], SparseCodes.of(dense[:, :2])], [parts[0], SparseCodes.of(dense[..., :7])]):
        with pytest.raises(ValueError, match=r"SparseCodes.stack: parts must be"):
            SparseCodes.stack(wrong)


def of_arrays(counts: list[int], atoms: list[int], changes: dict[str, object]) -> SparseCodes:
    arrays = {"counts": np.array(counts, np.uint16), "atoms": np.array(atoms, np.uint16)}
    values = np.ones(len(atoms), np.float32)
    return SparseCodes(1, 2, 5, **{**arrays, "values": values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "atoms", "changes", "message"),
    [
        ([3], [0, 1, 2], {}, r"counts must be \(2,\)"),
        ([1, 1], [0, 1, 2], {}, r"atoms must be \(2,\), the sum of counts"),
        ([1, 2], [0, 1, 5], {}, "atoms must be below 5, got 5"),
        ([1, 2], [0, 3, 3], {}, "strictly increasing"),
        ([2, 1], [1, 0, 3], {}, "strictly increasing"),
        ([1, 1], [0, 1], {"values": np.ones(3, np.float32)}, r"values must be \(2,\)"),
        ([1, 1], [0, 1], {"values": np.ones(2, np.int64)}, "floating point"),
        ([1, 1], [0, 1], {"atoms": np.array([0, 1])}, "atoms must be uint16, got int64"),
    ],
)
def test_arrays_that_do_not_fit(counts: list[int], atoms: list[int], changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_arrays(counts, atoms, changes)
    assert of_arrays([2, 1], [0, 4, 0], {}).n_entries == 3


def test_only_grids() -> None:
    with pytest.raises(ValueError, match=r"dense must be \(h, w, K\), got \(2, 3\)"):
        SparseCodes.of(torch.zeros(2, 3))
