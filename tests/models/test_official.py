"""Checkpoints of the released code: read, written, refused."""

import pytest
import torch

from scvae_fast import dictionaries
from scvae_fast.models import SCVAE, SCVAEConfig, load_official, to_official
from scvae_fast.models.official import ddconfig_of


@pytest.mark.parametrize("name", ["ffhq256-16x16", "ffhq256-32x32"])
def test_layout_of_full_size_checkpoints(name, golden_layouts):
    layout = golden_layouts[name]
    config = SCVAEConfig.preset(name)
    dictionary = dictionaries.dct(256, 512)
    with torch.device("meta"):
        model = SCVAE(config, dictionary=dictionary)
    written = to_official(model)
    assert {key: list(tensor.shape) for key, tensor in written.items()} == layout["state_dict"]
    assert sum(tensor.numel() for tensor in written.values()) == layout["parameters"]
    assert config.n_iter == layout["num_soft_thresh"]


def test_round_trip_is_exact(golden):
    model = load_official(golden.state_dict, **golden.load_options())
    written = to_official(model)
    assert written.keys() == golden.state_dict.keys()
    for name in golden.settings["grad_norm"]:
        assert torch.equal(written[name], golden.state_dict[name]), name
    again = load_official(written, **golden.load_options())
    assert again.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_written_constants_are_always_the_same(golden):
    model = load_official(golden.state_dict, **golden.load_options())
    before = torch.get_rng_state()
    first, second = to_official(model), to_official(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(first["w"], torch.ones(256))
    assert first["SGC.W.weight"].std() > 0


def test_written_tensors_are_copies(golden_gat):
    model = load_official(golden_gat.state_dict, **golden_gat.load_options())
    for tensor in to_official(model).values():
        tensor.zero_()
    assert torch.equal(model.bottleneck.dictionary, golden_gat.state_dict["Dict"])
    assert model.attention.layer1.weight.abs().max() > 0


@pytest.mark.parametrize("attention", ["constant", "eq", "GAT", "SSGC"])
def test_every_attention_network_round_trips(attention, small_config):
    config = SCVAEConfig(
        **small_config.to_dict()
        | {
            "attention": attention,
            "compat": "official",
            "ch": 32,
            "norm_groups": 32,
            "n_atoms": 512,
            "attention_hidden": 7,
        }
    )
    model = SCVAE(config, dictionary=dictionaries.random_unit(16, 512))
    again = load_official(to_official(model), n_iter=3, beta=0.05, attention=attention)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    again.encoder = torch.compile(again.encoder, backend="eager")
    assert to_official(again).keys() == to_official(model).keys()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights},
        lambda weights: {f"module.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}},
        lambda weights: {f"_orig_mod.{name}": tensor for name, tensor in weights.items()},
        lambda weights: {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()},
    ],
    ids=["state_dict", "model", "module.", "state_dict of module.", "_orig_mod.", "module._orig_mod."],
)
def test_wrapped_checkpoints(wrap, golden_gat):
    model = load_official(wrap(golden_gat.state_dict), **golden_gat.load_options())
    assert torch.equal(model.bottleneck.dictionary, golden_gat.state_dict["Dict"])


def test_configuration_is_read_off_the_shapes(golden):
    ddconfig = golden.settings["ddconfig"]
    from_shapes = load_official(golden.state_dict, **golden.load_options())
    given = load_official(golden.state_dict, **golden.load_options(), ddconfig=ddconfig)
    assert from_shapes.config == given.config
    assert from_shapes.config.attention_hidden == golden.settings["H_1"]
    assert ddconfig_of(given.config) == ddconfig
    assert not from_shapes.training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extra": torch.zeros(1)}, "extra is not expected"),
        ({"w": torch.zeros(7)}, r"w has shape \(7,\), expected \(256,\)"),
        ({"encoder.conv_out.bias": torch.zeros(5)}, "encoder.conv_out.bias has shape"),
        ({"c": "7.4"}, r"state_dict\['c'\] must be a tensor, got str"),
        ({"Dict": torch.zeros(4)}, "Dict must have 2 dimensions"),
        ({"encoder.down.1.block.0.conv1.weight": torch.zeros(33, 32, 3, 3)}, "are not multiples of"),
    ],
)
def test_misfits_are_named(changes, message, golden_gat):
    with pytest.raises(ValueError, match=f"^load_official: .*{message}"):
        load_official({**golden_gat.state_dict, **changes}, **golden_gat.load_options())


def test_a_path_is_not_a_state_dict(golden_gat):
    with pytest.raises(TypeError, match=r"state_dict must be a mapping, .*, got str"):
        load_official("checkpoint.pt", **golden_gat.load_options())


def test_dtype_of_the_checkpoint_is_kept(golden_gat):
    weights = {name: tensor.double() for name, tensor in golden_gat.state_dict.items()}
    model = load_official(weights, **golden_gat.load_options())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert torch.equal(to_official(model)["Dict"], weights["Dict"])


@pytest.mark.parametrize(
    "name", ["Dict", "c", "el1.0.weight", "encoder.conv_in.weight", "encoder.down.0.block.0.conv1.weight"]
)
def test_missing_tensors_are_named(name, golden_gat):
    weights = {key: tensor for key, tensor in golden_gat.state_dict.items() if key != name}
    with pytest.raises(ValueError, match=f"^load_official: .*{name}"):
        load_official(weights, **golden_gat.load_options())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ch": 64}, "tensors of state_dict don't fit"),
        ({"double_z": True}, "double_z"),
        ({"out_ch": 1}, "same in_channels and out_ch"),
    ],
)
def test_wrong_ddconfig(changes, message, golden_gat):
    ddconfig = golden_gat.settings["ddconfig"] | changes
    with pytest.raises(ValueError, match=message):
        load_official(golden_gat.state_dict, **golden_gat.load_options(), ddconfig=ddconfig)


def test_incomplete_ddconfig(golden_gat):
    with pytest.raises(ValueError, match="ddconfig lacks resolution, ch_mult"):
        load_official(
            golden_gat.state_dict,
            **golden_gat.load_options(),
            ddconfig={"in_channels": 3, "ch": 32, "num_res_blocks": 1, "attn_resolutions": [16]},
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compat": "paper"}, "the paper's variant"),
        ({"mid_attention": False}, "no attention at the bottleneck"),
        ({"norm_groups": 8}, "32 groups"),
        ({"ch": 24}, "32 groups"),
        ({"norm_out": False}, "before the last convolutions"),
        ({"attention": "GAT"}, "512 atoms"),
    ],
)
def test_models_that_the_released_code_cannot_hold(changes, message, small_config):
    fine = small_config.to_dict() | {"compat": "official", "ch": 32, "norm_groups": 32}
    assert to_official(SCVAE(SCVAEConfig(**fine)))["c"].shape == (1,)
    with pytest.raises(ValueError, match=message):
        to_official(SCVAE(SCVAEConfig(**fine | changes)))
