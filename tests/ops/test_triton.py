"""The triton backend beyond what all backends are tested for. Runs on a GPU, and where kernels are interpreted."""

import pytest
import torch
from problems import (
    FLOAT32_BACKENDS,
    assert_as_exact_as_pytorch,
    clear_of_ties,
    device_of,
    distance,
    keywords,
    lista_problem,
    results_and_gradients,
    sparse_code_problem,
    to,
    unrolled_lista,
    unrolled_sparse_code,
)

from scvae_fast import decode, lista, sparse_code

if "triton" in FLOAT32_BACKENDS:
    from scvae_fast.ops._triton import launch, tiles

pytestmark = pytest.mark.skipif("triton" not in FLOAT32_BACKENDS, reason="neither a CUDA device nor TRITON_INTERPRET=1")
DEVICE = device_of("triton")


@pytest.fixture(params=["one launch", "by iteration"])
def way(request):
    """All iterations in one launch, and a launch for each."""
    with launch.forced(by_iteration=request.param == "by iteration"):
        yield request.param


@pytest.mark.parametrize("start", ["plain", "gain", "z0"])
@pytest.mark.parametrize("theta", ["atom", "scalar", "zero", "negative"])
@pytest.mark.parametrize("n_iter", [0, 1, 4])
def test_lista_in_float32(way, start, theta, n_iter):
    p = clear_of_ties(to(lista_problem(70, 130, start=start, theta=theta), torch.float32), n_iter)
    assert_as_exact_as_pytorch(lista, unrolled_lista, p, n_iter=n_iter, backend="triton")


@pytest.mark.parametrize(("M", "K", "n"), [(1, 1, 1), (3, 64, 65), (65, 129, 17), (200, 96, 300)])
@pytest.mark.parametrize("start", ["gain", "z0"])
def test_sparse_code_in_float32(way, M, K, n, start):
    p = clear_of_ties(to(sparse_code_problem(M, K, n, start=start), torch.float32), 4)
    assert_as_exact_as_pytorch(sparse_code, unrolled_sparse_code, p, n_iter=4, backend="triton")


@pytest.mark.parametrize("n_iter", [0, 3])
@pytest.mark.parametrize("parameters", ["float16", "float32"])
def test_float16(way, n_iter, parameters):
    """At most twice the error of the formula in float16; its codes are rounded after every iteration, as ours are."""
    p = to(sparse_code_problem(66, 70, 33), torch.float16)
    if parameters == "float32":
        p = {**p, "theta": p["theta"].float(), "gain": p["gain"].float()}
    exact = results_and_gradients(unrolled_sparse_code, to(p, torch.float64), n_iter=n_iter)
    plain = results_and_gradients(unrolled_sparse_code, to(p, torch.float16), n_iter=n_iter)
    ours = results_and_gradients(sparse_code, p, n_iter=n_iter, backend="triton")
    for name, reference in exact.items():
        allowed = 2 * distance(plain[name], reference) + 4 * torch.finfo(torch.float16).eps
        assert distance(ours[name], reference) <= allowed, name
    assert ours["result 0"].dtype == torch.float16
    assert ours["∂theta"].dtype == p["theta"].dtype


@pytest.mark.parametrize("loss", ["z", "x_hat"])
def test_gradients_of_one_result(way, loss):
    p = to(sparse_code_problem(20, 30, 10), torch.float32)
    found = []
    for backend in ("triton", "eager"):
        leaves = {k: t.to(device_of(backend), copy=True).requires_grad_() for k, t in keywords(p).items()}
        z, x_hat = sparse_code(**leaves, n_iter=3, backend=backend)
        (z if loss == "z" else x_hat).square().sum().backward()
        found.append({k: None if t.grad is None else t.grad.cpu() for k, t in leaves.items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(
            gradient, found[1][name], rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_chunks_and_splits_change_nothing_but_roundings(way, monkeypatch):
    p = to(sparse_code_problem(150, 40, 20), torch.float32)
    whole = results_and_gradients(sparse_code, p, n_iter=3, backend="triton")
    monkeypatch.setattr(launch, "CHUNK_BYTES", 1)
    monkeypatch.setattr(launch, "ROWS_PER_SPLIT", 16)
    monkeypatch.setattr(launch, "CHAIN", 128)
    parts = results_and_gradients(sparse_code, p, n_iter=3, backend="triton")
    for name, gradient in parts.items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_same_bits_every_time(way):
    p = to(sparse_code_problem(100, 40, 20), torch.float32)
    first, second = (results_and_gradients(sparse_code, p, n_iter=3, backend="triton") for _ in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_no_rows(way):
    p = {k: t.to(DEVICE) for k, t in keywords(to(sparse_code_problem(0, 8, 5), torch.float32)).items()}
    p["S"].requires_grad_()
    z, x_hat = sparse_code(**p, n_iter=2, backend="triton")
    assert z.shape == (0, 8)
    assert x_hat.shape == (0, 5)
    (z.sum() + x_hat.sum()).backward()
    assert torch.equal(p["S"].grad, torch.zeros_like(p["S"]))


def test_narrow_inhibition_is_widened():
    p = {k: t.to(DEVICE) for k, t in keywords(to(lista_problem(9, 12), torch.float32)).items()}
    S = p.pop("S").bfloat16()
    found = lista(S=S, **p, n_iter=3, backend="triton")
    torch.testing.assert_close(found, lista(S=S.float(), **p, n_iter=3, backend="triton"), rtol=0, atol=0)


def test_float64_is_declined_with_a_reason():
    z, D = torch.zeros(2, 3, dtype=torch.float64, device=DEVICE), torch.zeros(4, 3, dtype=torch.float64, device=DEVICE)
    with pytest.raises(
        RuntimeError, match="decode: backend 'triton' can't be used: its matrix products are float32 at"
    ):
        decode(z, D, backend="triton")


def test_too_many_atoms_are_refused():
    with pytest.raises(ValueError, match="backend 'triton': at most 32768 atoms or features, got 40000"):
        launch.launch(launch.INTERPRETED, launch.choice(launch.INTERPRETED, torch.float32, 1, 40_000), 1, 40_000, 3)


def test_every_tile_and_way_that_tuning_may_choose_gives_the_same(monkeypatch, tmp_path):
    from scvae_fast.ops._triton import autotune

    p = clear_of_ties(to(sparse_code_problem(70, 40, 20), torch.float32), 3)
    expected = results_and_gradients(sparse_code, p, n_iter=3, backend="triton")
    monkeypatch.setenv("SCVAE_FAST_AUTOTUNE", "1")
    monkeypatch.setattr(autotune, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    count = len(tiles.fitting(launch.card(torch.cuda.current_device() if DEVICE == "cuda" else None), torch.float32))
    for fastest in range(2 * count):
        monkeypatch.setenv("SCVAE_FAST_CACHE", str(tmp_path / str(fastest)))
        ran = []

        def seconds(run, ran=ran, fastest=fastest):
            run()
            ran.append(run)
            return 1.0 if (len(ran) - 1) % (2 * count) == fastest else 2.0

        monkeypatch.setattr(autotune, "seconds", seconds)
        found = results_and_gradients(sparse_code, p, n_iter=3, backend="triton")
        assert len(ran) == 2 * 2 * count  # forward and backward
        for name, value in found.items():
            torch.testing.assert_close(
                value, expected[name], rtol=1e-4, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
            )
