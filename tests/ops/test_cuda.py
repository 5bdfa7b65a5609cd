"""The cuda backend, beyond the tests of all GPU kernels. Runs on a GPU, and with emulated kernels."""

import pytest
import small_calls
import torch
from problems import (
    EMULATED,
    FLOAT32_BACKENDS,
    assert_as_exact_as_pytorch,
    assert_as_exact_in_16_bits,
    clear_of_ties,
    device_of,
    keywords,
    lista_problem,
    sparse_code_problem,
    to,
    unrolled_ista,
    unrolled_lista,
    unrolled_sparse_code,
)

from scvae_fast import decode, ista, lista, sparse_code
from scvae_fast.ops.backends import cuda
from scvae_fast.ops.backends.cuda import device
from scvae_fast.ops.problem import OPTIONS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in FLOAT32_BACKENDS, reason="neither a CUDA device nor an emulator"),
]

A100, CONSUMER, H200 = (8, 0, 166_912, 108, False), (8, 6, 101_376, 84, False), (9, 0, 232_448, 132, True)


def plan(card, M, K, n, itemsize, product=False):
    return device.module().cuda_plan(device.module().CudaCard(*card), M, K, n, product, itemsize)


def test_unsupported_features_are_options():
    assert cuda.LACKS <= OPTIONS


@pytest.mark.parametrize("card", [A100, CONSUMER, H200])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("M", [1, 256, 65_536, 1 << 33])
@pytest.mark.parametrize(("K", "n"), [(1, 1), (64, 0), (130, 300), (512, 256), (500, 400)])
def test_plans_cover_the_problem_and_fit_the_card(card, itemsize, M, K, n):
    found = plan(card, M, K, n, itemsize)
    assert found.shared_bytes <= card[2]
    assert found.KP == found.passes * found.warps * 64 >= K
    assert n <= found.NP
    assert found.NP % 64 == 0
    assert found.feature_passes * found.warps * 64 >= n
    assert 1 <= found.blocks <= -(-M // found.rows) + found.cluster - 1
    assert found.blocks % found.cluster == 0
    assert found.threads == (384 if found.cluster > 1 else 32 * found.warps)


def test_hopper_kernels_support_their_problems():
    assert plan(H200, 65_536, 512, 256, 2).cluster == 2
    assert plan(H200, 65_536, 257, 0, 2).cluster == 2
    for M, K, n, itemsize in [(65_536, 512, 256, 4), (65_536, 256, 256, 2), (65_536, 513, 256, 2), (8447, 512, 256, 2)]:
        assert plan(H200, M, K, n, itemsize).cluster == 1
    assert plan(H200, 65_536, 512, 513, 2).cluster == 1
    assert plan(H200, 65_536, 512, 256, 2, product=True).cluster == 1
    assert plan(A100, 65_536, 512, 256, 2).cluster == 1


def test_few_rows_go_to_small_blocks():
    assert [plan(A100, M, 512, 256, 2).rows for M in (100, 108 * 32 - 1, 108 * 32, 108 * 64)] == [16, 16, 32, 64]


def test_problems_too_large_for_a_block_are_refused():
    message = "backend 'cuda': 4096 atoms and 256 features of 4 bytes need .* bytes of shared memory for a block, this "
    with pytest.raises(ValueError, match=message + "card gives 166912"):
        plan(A100, 1, 4096, 256, 4)


@pytest.mark.parametrize(("M", "K", "n"), [(20, 600, 30), (40, 530, 700), (40, 20, 600)])
def test_several_passes_and_more_features_than_atoms(M, K, n):
    p = clear_of_ties(to(sparse_code_problem(M, K, n), torch.float32), 2)
    assert_as_exact_as_pytorch(sparse_code, unrolled_sparse_code, p, n_iter=2, backend="cuda")


def test_float32_sums_over_many_rows():
    """Matrix units truncate sums: long sums would lose a little at every step, always in one direction."""
    p = clear_of_ties(to(sparse_code_problem(1030, 64, 48), torch.float32), 3)
    assert_as_exact_as_pytorch(sparse_code, unrolled_sparse_code, p, n_iter=3, backend="cuda")


@pytest.mark.parametrize("value", [3.4028234e38, -3.4025e38])
def test_largest_float32_numbers_stay_finite(value):
    """As TF32 they would be rounded to infinity."""
    z, D = torch.zeros(5, 40), torch.zeros(9, 40)
    z[2, 3], D[4, 3] = value, 0.5
    x_hat = decode(z.to(device_of("cuda")), D.to(device_of("cuda")), backend="cuda").cpu()
    expected = torch.zeros(5, 9)
    expected[2, 4] = value * 0.5
    torch.testing.assert_close(x_hat, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("start", ["gain", "z0"])
def test_bfloat16(start):
    p = to(sparse_code_problem(140, 530, 33, start=start), torch.bfloat16)
    assert_as_exact_in_16_bits(sparse_code, unrolled_sparse_code, p, n_iter=3, backend="cuda")


@pytest.fixture
def hopper(monkeypatch):
    """An emulated Hopper card with two multiprocessors; without emulation, the real card must be a Hopper card."""
    if EMULATED:
        card = device.module().CudaCard(9, 0, 232_448, 2, True)
        monkeypatch.setattr(device, "card", lambda index: card)
    elif not device.card(torch.cuda.current_device()).hopper:
        pytest.skip("no Hopper card")
    return 128 if EMULATED else 64 * torch.cuda.get_device_properties(0).multi_processor_count


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("more", "K", "n", "start"), [(0, 512, 256, "gain"), (65, 300, 70, "z0"), (200, 257, 1, "plain")]
)
def test_sparse_code_on_hopper(hopper, dtype, more, K, n, start):
    p = to(sparse_code_problem(hopper + more, K, n, start=start), dtype)
    assert_as_exact_in_16_bits(sparse_code, unrolled_sparse_code, p, n_iter=2, backend="cuda")


@pytest.mark.parametrize("theta", ["scalar", "negative"])
def test_lista_on_hopper(hopper, theta):
    p = to(lista_problem(hopper + 1, 400, theta=theta, start="gain"), torch.bfloat16)
    assert_as_exact_in_16_bits(lista, unrolled_lista, p, n_iter=4, backend="cuda")


@pytest.mark.parametrize("start", ["plain", "z0"])
def test_ista_on_hopper(hopper, start):
    p = lista_problem(hopper + 1, 300, start=start)
    p["G"] = 0.6 * torch.eye(300, dtype=torch.float64) - p.pop("S")
    p["theta"] = p["theta"] * torch.tensor([[0.4], [0.6]])
    p["step"] = torch.tensor([0.8, 0.9])
    del p["gain"]
    assert_as_exact_in_16_bits(ista, unrolled_ista, to(p, torch.bfloat16), n_iter=2, backend="cuda")


def test_matrices_of_each_iteration_on_hopper(hopper):
    p = lista_problem(hopper + 65, 300)
    p["S"] = torch.stack([p["S"], 0.5 * p["S"].T])
    p = to(p, torch.bfloat16)
    assert_as_exact_in_16_bits(lista, unrolled_lista, p, n_iter=2, positive=True, backend="cuda")


def test_nan_stays_in_its_row_on_hopper(hopper):
    p = keywords(to(lista_problem(hopper, 300), torch.bfloat16))
    clean = lista(**p, n_iter=2, backend="cuda")
    p["b"][5, 7] = torch.nan
    found = lista(**p, n_iter=2, backend="cuda")
    assert found[5].isnan().all()
    rest = torch.arange(len(found)) != 5
    assert torch.equal(found[rest], clean[rest])


@pytest.mark.usefixtures("hopper")
def test_few_rows_reach_the_kernels_for_hopper_cards():
    small_calls.check("hopper")


def test_few_rows_reach_all_blocks():
    small_calls.check("cuda")
