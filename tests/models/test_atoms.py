import torch
from pictures import TINY

from scvae_fast.models import SCVAE
from scvae_fast.models.atoms import decode_atoms


def test_decoded_atoms() -> None:
    model = SCVAE(TINY).eval()
    patches = decode_atoms(model, cells=5)
    assert patches.shape == (TINY.n_atoms, 3, 6, 6)
    codes = torch.zeros(1, 5, 5, TINY.n_atoms)
    codes[0, 2, 2, 7] = 1
    with torch.no_grad():
        change = (model.decode_codes(codes) - model.decode_codes(-codes))[0] / 2
    torch.testing.assert_close(patches[7], change[:, 2:8, 2:8])
