"""The triton backend, beyond the tests of all GPU kernels."""

import pytest
import torch
from problems import (
    FLOAT32_BACKENDS,
    clear_of_ties,
    device_of,
    results_and_gradients,
    sparse_code_problem,
    to,
)

from scvae_fast import sparse_code

if "triton" in FLOAT32_BACKENDS:
    from scvae_fast.ops.backends.triton import launch, tiles

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif("triton" not in FLOAT32_BACKENDS, reason="neither a CUDA device nor TRITON_INTERPRET=1"),
]
DEVICE = device_of("triton")


def test_too_many_atoms_are_refused():
    with pytest.raises(ValueError, match="backend 'triton': at most 32768 atoms or features, got 40000"):
        launch.launch(launch.INTERPRETED, launch.choice(launch.INTERPRETED, torch.float32, 1, 40_000), 1, 40_000, 3)


def test_every_tile_and_way_that_tuning_may_choose_gives_the_same(monkeypatch, tmp_path):
    from scvae_fast.ops.backends.triton import autotune

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
