"""Reading and writing checkpoints of the authors' released code.

Their model (class `Model_VAEf16`) holds the encoder, the decoder, `Dict` and `c` of the sparse coding, every
attention network whether used or not, and an unused vector `w`. `load_official` reads the parts that an
`SCVAE` needs. `to_official` adds the rest: ones for `w` (the mean of the authors' random initial values), and
initial weights for the unused attention networks, drawn with seed 0.
"""

import math
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from scvae_fast.models._hub import uncompiled
from scvae_fast.models.config import SCVAEConfig
from scvae_fast.models.scvae import SCVAE
from scvae_fast.nn.attention import (
    AlphaNetwork,
    AttentionName,
    EquivariantAlpha,
    GraphAttentionAlpha,
    GraphConvolutionAlpha,
    alpha_network,
)

# Constants of the authors' code and of their released configurations.
_GRAPH_ATOMS = 512
_RELEASED_RESOLUTION = 256
_RELEASED_ATTENTION_RESOLUTION = 16


def load_official(
    state_dict: Mapping[str, Any],
    *,
    n_iter: int,
    beta: float,
    attention: AttentionName,
    ddconfig: Mapping[str, Any] | None = None,
) -> SCVAE:
    """The model in a checkpoint of the authors' code, in evaluation mode.

    Args:
        state_dict: the result of `torch.load(path, weights_only=True)`: the tensors, or a dictionary that has
            them under "state_dict" or "model". The prefix "module." of all names (from DistributedDataParallel)
            and "_orig_mod." (from torch.compile) are removed.
        n_iter: T, the authors' `num_soft_thresh`. Checkpoints contain neither this nor the next two arguments.
        beta: β.
        attention: which attention network the model was trained with.
        ddconfig: configuration of encoder and decoder. By default, all that the computation depends on is inferred
            from the tensors. `config.resolution`, which doesn't affect it, is then as in the released
            configurations: the resolution at which attention acts on a 16 x 16 grid, or 256 without attention.

    Returns:
        The model, on the device and in the dtype of the checkpoint's dictionary.

    Raises:
        TypeError: state_dict is not a mapping.
        ValueError: names or shapes are not those of such a checkpoint, or don't fit ddconfig.

    Example:
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> from scvae_fast.models import load_official, to_official
        >>> config = SCVAEConfig.preset("ffhq256-16x16", ch=32, ch_mult=(1, 2), attn_levels=(), resolution=64)
        >>> weights = to_official(SCVAE(config))
        >>> load_official(weights, n_iter=30, beta=1.0, attention="constant").config.n_iter
        30
    """
    weights = _unwrap(state_dict)
    config = SCVAEConfig(
        n_features=_shape(weights, "Dict")[0],
        n_atoms=_shape(weights, "Dict")[1],
        n_iter=n_iter,
        lmbda=beta,
        compat="official",
        attention=attention,
        attention_hidden=_shape(weights, "el1.0.weight")[0],
        **(_fields_from_shapes(weights) if ddconfig is None else _fields_from_ddconfig(ddconfig)),
    )
    model = SCVAE(config, dictionary=weights["Dict"]).to(weights["Dict"])
    tensors = _by_official_name(model)
    _check_layout(weights, tensors)
    for name, tensor in tensors.items():
        tensor.copy_(weights[name])
    return model.eval()


def to_official(model: SCVAE) -> dict[str, Tensor]:
    """A copy of the model's weights, completed to a state dict that the authors' `Model_VAEf16` loads strictly.

    Raises:
        ValueError: the authors' code can't express the model; the message says why.

    Example:
        >>> from scvae_fast import SCVAE, SCVAEConfig
        >>> from scvae_fast.models import to_official
        >>> config = SCVAEConfig.preset("ffhq256-16x16", ch=32, ch_mult=(1, 2), attn_levels=(), resolution=64)
        >>> to_official(SCVAE(config))["Dict"].shape
        torch.Size([256, 512])
    """
    config = model.config
    widths = [config.ch * mult for mult in (1, *config.ch_mult)]
    uses_graph = config.attention in ("GAT", "SSGC")
    obstacles = {
        "it computes the paper's variant": config.compat != "official",
        "it has no attention at the bottleneck": not config.mid_attention,
        "it doesn't normalise in 32 groups": any(math.gcd(width, config.norm_groups) != 32 for width in widths),
        "it doesn't normalise before the last convolutions": not config.norm_out,
        "its graph network is not for 512 atoms": uses_graph and config.n_atoms != _GRAPH_ATOMS,
    }
    if reasons := [reason for reason, present in obstacles.items() if present]:
        raise ValueError(f"to_official: the authors' code can't represent this model: {', '.join(reasons)}")
    return {name: tensor.clone() for name, tensor in _by_official_name(model).items()}


def ddconfig_of(config: SCVAEConfig) -> dict[str, Any]:
    """The `ddconfig` with which the authors' code builds the encoder and decoder of this configuration."""
    return {
        "double_z": False,
        "z_channels": config.n_features,
        "resolution": config.resolution,
        "in_channels": config.in_channels,
        "out_ch": config.in_channels,
        "ch": config.ch,
        "ch_mult": list(config.ch_mult),
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": [config.resolution // 2**level for level in config.attn_levels],
        "dropout": config.dropout,
    }


def _unwrap(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "load_official: state_dict must be a mapping, such as the result of torch.load(path, weights_only=True), "
            f"got {type(state_dict).__name__}"
        )
    for wrapper in ("state_dict", "model"):
        if isinstance(state_dict.get(wrapper), Mapping):
            state_dict = state_dict[wrapper]
    state_dict = uncompiled(state_dict)
    prefix = "module." if all(name.startswith("module.") for name in state_dict) else ""
    weights = {name.removeprefix(prefix): value for name, value in state_dict.items()}
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"load_official: state_dict[{name!r}] must be a tensor, got {type(value).__name__}")
    return weights


def _shape(weights: Mapping[str, Tensor], name: str, dims: int = 2) -> torch.Size:
    if name not in weights:
        raise ValueError(f"load_official: state_dict has no {name}")
    if weights[name].dim() != dims:
        raise ValueError(f"load_official: {name} must have {dims} dimensions, got shape {tuple(weights[name].shape)}")
    return weights[name].shape


def _fields_from_shapes(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    ch, in_channels = _shape(weights, "encoder.conv_in.weight", 4)[:2]
    levels = _count(weights, "encoder.down.{}.block.0.conv1.weight")
    widths = [_shape(weights, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)]
    if any(width % ch for width in widths):
        raise ValueError(f"load_official: widths of encoder.down, {widths}, are not multiples of conv_in's, {ch}")
    attn_levels = [i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in weights]
    resolution = _RELEASED_RESOLUTION
    if attn_levels:
        resolution = _RELEASED_ATTENTION_RESOLUTION * 2 ** attn_levels[0]
    return {
        "in_channels": in_channels,
        "resolution": resolution,
        "ch": ch,
        "ch_mult": [width // ch for width in widths],
        "num_res_blocks": _count(weights, "encoder.down.0.block.{}.conv1.weight"),
        "attn_levels": attn_levels,
    }


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    count = 0
    while pattern.format(count) in weights:
        count += 1
    if count == 0:
        raise ValueError(f"load_official: state_dict has no {pattern.format(0)}")
    return count


def _fields_from_ddconfig(ddconfig: Mapping[str, Any]) -> dict[str, Any]:
    same = ("in_channels", "resolution", "ch", "ch_mult", "num_res_blocks")
    if missing := [name for name in (*same, "attn_resolutions") if name not in ddconfig]:
        raise ValueError(f"load_official: ddconfig lacks {', '.join(missing)}")
    if ddconfig.get("double_z", False):
        raise ValueError("load_official: ddconfig must not have double_z: the latents are not distributions")
    if ddconfig.get("out_ch", ddconfig["in_channels"]) != ddconfig["in_channels"]:
        raise ValueError("load_official: ddconfig must have the same in_channels and out_ch")
    resolutions = [ddconfig["resolution"] // 2**level for level in range(len(ddconfig["ch_mult"]))]
    attn_levels = [i for i, size in enumerate(resolutions) if size in ddconfig["attn_resolutions"]]
    fields = {name: ddconfig[name] for name in same}
    return fields | {"attn_levels": attn_levels, "dropout": ddconfig.get("dropout", 0.0)}


def _check_layout(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    problems = [f"{name} is missing" for name in expected if name not in weights]
    problems += [f"{name} is not expected" for name in weights if name not in expected]
    problems += [
        f"{name} has shape {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(problems[:8]) + ("; …" if len(problems) > 8 else "")
        raise ValueError(f"load_official: {len(problems)} tensors of state_dict don't fit: {shown}")


def _by_official_name(model: SCVAE) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its official name; those that the model holds are views of its tensors."""
    dictionary = model.bottleneck.dictionary
    tensors = {"Dict": dictionary, "c": model.bottleneck.c.view(1), "w": torch.ones_like(dictionary[:, 0])}
    tensors |= {f"encoder.{name}": tensor for name, tensor in model.encoder.state_dict().items()}
    for network in _attention_networks(model):
        tensors |= _attention_by_official_name(network)
    tensors |= {f"decoder.{name}": tensor for name, tensor in model.decoder.state_dict().items()}
    return {name: tensor.detach() for name, tensor in uncompiled(tensors).items()}


def _attention_networks(model: SCVAE) -> list[AlphaNetwork]:
    """All attention networks: the model's own, and newly initialised ones of the other kinds."""
    config, like = model.config, model.bottleneck.dictionary
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        networks = {
            name: alpha_network(name, config.n_features, _GRAPH_ATOMS, hidden=config.attention_hidden)
            for name in get_args(AttentionName)
        }
    networks = {name: network.to(like.device, like.dtype) for name, network in networks.items()}
    return list((networks | {config.attention: model.attention}).values())


def _attention_by_official_name(network: AlphaNetwork) -> dict[str, Tensor]:
    if isinstance(network, EquivariantAlpha):
        layers = {"el1.0": network.linear1, "el2.0": network.linear2}
    elif isinstance(network, GraphConvolutionAlpha):
        layers = {"SGC.W": network.linear}
    elif isinstance(network, GraphAttentionAlpha):
        return _graph_attention_by_official_name(network)
    else:
        layers = {}
    return {f"{name}.{kind}": getattr(layer, kind) for name, layer in layers.items() for kind in ("weight", "bias")}


def _graph_attention_by_official_name(network: GraphAttentionAlpha) -> dict[str, Tensor]:
    heads = {f"attention_{i}": (network.layer1, i) for i in range(len(network.layer1.weight))}
    tensors = {}
    for name, (layer, head) in (heads | {"out_att": (network.layer2, 0)}).items():
        tensors[f"GAT.{name}.W"] = layer.weight[head]
        tensors[f"GAT.{name}.a"] = layer.score[head].view(-1, 1)
    return tensors
