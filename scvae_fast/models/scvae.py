"""SC-VAE: an autoencoder whose latent vectors are sparse combinations of learned atoms."""

import contextlib
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scvae_fast import dictionaries
from scvae_fast.functional import decode
from scvae_fast.models._hub import PretrainedModel
from scvae_fast.models.config import SCVAEConfig
from scvae_fast.models.decoder import Decoder
from scvae_fast.models.encoder import Encoder
from scvae_fast.nn.attention import alpha_network
from scvae_fast.nn.dictionary_lista import DictionaryLISTA


class SCVAEEncoding(NamedTuple):
    """The result of `SCVAE.encode`, for n features, K atoms and a grid of h x w positions.

    Example:
        >>> import torch
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> model = SCVAE(SCVAEConfig.preset("pictures64")).eval()
        >>> latents, codes, latents_hat = model.encode(torch.rand(1, 3, 64, 64) * 2 - 1)
        >>> latents.shape, codes.shape
        (torch.Size([1, 256, 8, 8]), torch.Size([1, 8, 8, 512]))
    """

    latents: Tensor  # (B, n, h, w), E(x)
    codes: Tensor  # (B, h, w, K), z
    latents_hat: Tensor  # (B, n, h, w), D z


class SCVAEOutput(NamedTuple):
    """The result of calling an `SCVAE`, for n features, K atoms and a grid of h x w positions.

    Example:
        >>> from scvae_fast import SCVAEOutput
        >>> SCVAEOutput._fields
        ('x_hat', 'codes', 'latents', 'latents_hat', 'alpha')
    """

    x_hat: Tensor  # (B, in_channels, H, W), the reconstruction
    codes: Tensor  # (B, h, w, K), z
    latents: Tensor  # (B, n, h, w), E(x)
    latents_hat: Tensor  # (B, n, h, w), D z
    alpha: Tensor  # (B, h, w, 1) or (B, h, w, n), weights of the latent error, see `AlphaNetwork`


# torch.export.save stores the type of a program's output under this name. torch has no public function for setting it.
with contextlib.suppress(ImportError):
    from torch.utils._pytree import _register_namedtuple

    _register_namedtuple(SCVAEOutput, serialized_type_name="scvae_fast.models.SCVAEOutput")


class SCVAE(PretrainedModel):
    """x̂ = G(D z), z = LISTA(E(x)): encoder E, dictionary D (n, K), codes z at every position, decoder G.

    Source: Xiao et al., "SC-VAE: Sparse Coding-based Variational Autoencoder with Learned ISTA", arXiv
    2303.16666; encoder and decoder are VQGAN's. Convolutions are initialised as in the authors' code:
    Glorot-uniform weights, biases zero.

    Args:
        config: see `SCVAEConfig`; `SCVAEConfig.preset(name)` provides the authors' models and a small one.
        dictionary: (n, K), the initial D, in the model's dtype and on its device. The default is the
            over-complete DCT, for which n must be a square number.
        backend: for the sparse coding, a name of `scvae_fast.backends()`; None chooses by device and dtype.

    Raises:
        ValueError: the dictionary is not (n, K), or no backend has that name.

    Example:
        >>> import torch
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> model = SCVAE(SCVAEConfig.preset("pictures64")).eval()
        >>> out = model(torch.rand(1, 3, 64, 64) * 2 - 1)
        >>> out.x_hat.shape, out.codes.shape
        (torch.Size([1, 3, 64, 64]), torch.Size([1, 8, 8, 512]))
    """

    def __init__(self, config: SCVAEConfig, *, dictionary: Tensor | None = None, backend: str | None = None) -> None:
        super().__init__(config)
        if dictionary is None:
            dictionary = dictionaries.dct(config.n_features, config.n_atoms, dtype=torch.get_default_dtype())
        if tuple(dictionary.shape) != (config.n_features, config.n_atoms):
            raise ValueError(
                f"SCVAE: dictionary must be (n_features, n_atoms) = ({config.n_features}, {config.n_atoms}), "
                f"got {tuple(dictionary.shape)}"
            )
        self.encoder = Encoder(config.in_channels, config.n_features, **config.levels)
        self.bottleneck = DictionaryLISTA(
            dictionary,
            config.n_iter,
            config.lmbda,
            config.compat,
            learn_dictionary=config.learn_dictionary,
            learn_c=config.learn_c,
            backend=backend,
        )
        self.attention = alpha_network(
            config.attention, config.n_features, config.n_atoms, hidden=config.attention_hidden
        )
        self.decoder = Decoder(config.n_features, config.in_channels, **config.levels)
        self.apply(initialise_convolution)

    def forward(self, x: Tensor) -> SCVAEOutput:
        """Reconstruct pictures, and return all that the loss needs.

        Args:
            x: (B, in_channels, H, W), floating point, in -1 … 1; H and W are multiples of `config.stride`.

        Raises:
            ValueError: x has another shape or dtype.
        """
        latents, codes, latents_hat = self._encode(x)
        sq_err = (latents - latents_hat).square().permute(0, 2, 3, 1)  # (B, h, w, n)
        alpha = self.attention(sq_err, codes)
        return SCVAEOutput(self.decode(latents_hat), codes, latents, latents_hat, alpha)

    def encode(self, x: Tensor) -> SCVAEEncoding:
        """Latents E(x), their sparse codes z, and D z, for pictures of any height and width.

        The edge pixels are repeated at the right and the bottom up to the next multiple of `config.stride`, which gives
        ⌈H / stride⌉ x ⌈W / stride⌉ cells. The whole picture is coded at once. For pictures larger than
        `config.resolution`, this takes more memory and the normalisation's statistics differ from those in training:
        use `scvae_fast.codes.tiling.encode_tiled` instead.

        Args:
            x: (B, in_channels, H, W), floating point, in -1 … 1.

        Raises:
            ValueError: x has another shape or dtype, or its height or width is 0.
        """
        missing = [-side % self.config.stride for side in x.shape[2:]]
        if x.dim() == 4 and any(missing) and x.is_floating_point() and min(x.shape[2:]) > 0:  # others are refused below
            x = F.pad(x, (0, missing[1], 0, missing[0]), mode="replicate")
        return self._encode(x)

    def _encode(self, x: Tensor) -> SCVAEEncoding:
        latents = self.encoder(x)
        codes, rows_hat = self.bottleneck(latents.permute(0, 2, 3, 1))
        return SCVAEEncoding(latents, codes, rows_hat.permute(0, 3, 1, 2))

    def decode(self, latents_hat: Tensor) -> Tensor:  # (B, n, h, w) -> (B, in_channels, stride·h, stride·w)
        """Decode latents to pictures, approximately in -1 … 1.

        Raises:
            ValueError: latents_hat is not (B, n, h, w).
        """
        return self.decoder(latents_hat)

    def decode_codes(self, codes: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Decode codes to pictures: `decode` of D z.

        Args:
            codes: (B, h, w, K), as `encode` returns them.
            size: height and width of the original pictures, to which the result is cropped. The default is the size
                of the whole grid, (stride·h, stride·w).

        Returns:
            (B, in_channels, height, width), approximately in -1 … 1.

        Raises:
            ValueError: codes are not (B, h, w, K), or pictures of that size have a grid other than (h, w).
        """
        self._check_codes("decode_codes", codes)
        if size is None:
            return self.decode(self.combine_atoms(codes))
        if self.config.grid(*size) != tuple(codes.shape[1:3]):
            raise ValueError(
                f"SCVAE.decode_codes: pictures of {size[0]} x {size[1]} have {self.config.grid(*size)} cells of "
                f"{self.config.stride} x {self.config.stride} pixels, codes are of {tuple(codes.shape[1:3])}"
            )
        return self.decode(self.combine_atoms(codes))[..., : size[0], : size[1]]

    def combine_atoms(self, codes: Tensor) -> Tensor:  # (B, h, w, K) -> (B, n, h, w)
        """The latents D z of codes z.

        Raises:
            ValueError: codes are not (B, h, w, K).
        """
        self._check_codes("combine_atoms", codes)
        rows_hat = decode(codes, self.bottleneck.dictionary, backend=self.bottleneck.backend)
        return rows_hat.permute(0, 3, 1, 2)

    def _check_codes(self, method: str, codes: Tensor) -> None:
        if codes.dim() != 4 or codes.shape[-1] != self.config.n_atoms:
            raise ValueError(
                f"SCVAE.{method}: codes must be (B, h, w, {self.config.n_atoms}), got {tuple(codes.shape)}"
            )


def initialise_convolution(module: nn.Module) -> None:
    """If module is a convolution, initialise it with Glorot-uniform weights and zero biases."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
