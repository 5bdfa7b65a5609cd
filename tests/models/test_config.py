"""`SCVAEConfig`: presets, validation, and its way through JSON."""

import dataclasses
import json

import pytest

from scvae_fast.models import SCVAEConfig

PRESETS = ["ffhq256-16x16", "ffhq256-32x32", "imagenet256-16x16", "imagenet256-32x32", "pictures64"]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name):
    config = SCVAEConfig.preset(name)
    assert SCVAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("name", PRESETS[:4])
def test_published_presets_have_the_grid_of_their_name(name):
    config = SCVAEConfig.preset(name)
    grid = config.resolution // config.stride
    assert name.endswith(f"-{grid}x{grid}")
    assert (config.n_features, config.n_atoms, config.compat) == (256, 512, "official")


def test_the_small_preset_has_three_downsamplings():
    config = SCVAEConfig.preset("pictures64")
    assert (config.resolution, config.stride, config.compat) == (64, 8, "paper")


def test_a_preset_can_be_changed():
    config = SCVAEConfig.preset("pictures64", n_iter=2, attention="eq")
    assert (config.n_iter, config.attention) == (2, "eq")
    with pytest.raises(ValueError, match="n_iter"):
        SCVAEConfig.preset("pictures64", n_iter=-1)


def test_unknown_preset():
    with pytest.raises(ValueError, match=r"preset: name must be one of .*'pictures64'.*, got 'faces'"):
        SCVAEConfig.preset("faces")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_features", 0),
        ("n_features", 2.0),
        ("n_atoms", True),
        ("n_iter", -1),
        ("n_iter", "5"),
        ("lmbda", -0.1),
        ("lmbda", float("nan")),
        ("lmbda", float("inf")),
        ("compat", "theirs"),
        ("attention", "gat"),
        ("attention", ["GAT"]),
        ("attention_hidden", 0),
        ("learn_dictionary", 1),
        ("learn_c", None),
        ("in_channels", 0),
        ("resolution", 100),
        ("ch", -32),
        ("ch_mult", ()),
        ("ch_mult", (1, 0)),
        ("ch_mult", 4),
        ("num_res_blocks", 0),
        ("attn_levels", (5,)),
        ("attn_levels", (-1,)),
        ("mid_attention", "yes"),
        ("dropout", 1.0),
        ("norm_groups", 0),
        ("norm_out", 0),
    ],
)
def test_each_bad_field_is_named(field, value):
    with pytest.raises(ValueError, match=f"^SCVAEConfig: {field} must be .*, got "):
        SCVAEConfig(**{field: value})


def test_it_is_frozen_and_hashable():
    config = SCVAEConfig(ch_mult=[1, 2], attn_levels=[])
    assert config.ch_mult == (1, 2)
    assert hash(config) == hash(SCVAEConfig(ch_mult=(1, 2), attn_levels=()))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_iter = 3


def test_from_dict_wants_every_field_and_no_other():
    values = SCVAEConfig().to_dict()
    with pytest.raises(ValueError, match="unknown fields: depth"):
        SCVAEConfig.from_dict(values | {"depth": 3})
    del values["n_iter"], values["ch"]
    with pytest.raises(ValueError, match="fields missing: ch, n_iter"):
        SCVAEConfig.from_dict(values)
    with pytest.raises(ValueError, match="must be a mapping, got list"):
        SCVAEConfig.from_dict([])
