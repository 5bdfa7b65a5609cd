"""Checkpoints in SAELens' layout: its numbers, in old and new layouts, or one error that names file and key."""

import json

import pytest
import torch
from safetensors.torch import save_file

from scvae_fast import SparseAutoencoder, load_saelens

d_in, d_sae, k = 5, 16, 4


def weights(architecture, dtype=torch.float32):
    """A state dict as SAELens names and lays it out."""
    stored = {
        "W_enc": torch.randn(d_in, d_sae),
        "b_enc": torch.randn(d_sae),
        "W_dec": torch.randn(d_sae, d_in),
        "b_dec": torch.randn(d_in),
    }
    if architecture == "jumprelu":
        stored["threshold"] = torch.rand(d_sae) * 2 - 0.3
    return {name: t.to(dtype) for name, t in stored.items()}


def new_layout(architecture, **changes):
    """cfg.json of SAELens 6."""
    config = {
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": "float32",
        "device": "cuda",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.18.0", "sae_lens_training_version": "6.18.0", "model_name": "gpt2"},
        "architecture": architecture,
    }
    if architecture == "topk":
        config |= {"k": k, "rescale_acts_by_decoder_norm": False}
    return config | changes


def old_layout(architecture, **changes):
    """cfg.json of SAELens 3 to 5, with settings of the training."""
    activation = "topk" if architecture == "topk" else "relu"
    config = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "activation_fn_str": activation,
        "activation_fn_kwargs": {"k": k} if activation == "topk" else {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "normalize_activations": "none",
        "hook_name": "blocks.8.hook_resid_pre",
        "hook_layer": 8,
        "dtype": "torch.float32",
        "device": "mps",
        "sae_lens_training_version": "5.0.0",
        "lr": 0.0003,
    }
    return config | changes


def saved(folder, config, stored):
    (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(stored, folder / "sae_weights.safetensors")
    return folder


def numbers(stored, x, *, k=None, centred=True, rescaled=False):
    """SAELens' results in plain PyTorch: codes and reconstruction."""
    stored = {name: t.double() for name, t in stored.items()}
    norms = stored["W_dec"].norm(dim=-1) if rescaled else torch.ones(d_sae).double()
    u = (x.double() - stored["b_dec"] * centred) @ stored["W_enc"] + stored["b_enc"]
    if "threshold" in stored:
        z = u.relu() * (u > stored["threshold"])
    elif k is not None:
        u = u * norms
        largest = u.topk(k)
        z = torch.zeros_like(u).scatter(-1, largest.indices, largest.values.relu())
    else:
        z = u.relu()
    return z, (z / norms) @ stored["W_dec"] + stored["b_dec"]


def assert_loads(folder, config, stored, **settings):
    x = torch.randn(3, 20, d_in)
    layer = load_saelens(saved(folder, config, stored))
    assert isinstance(layer, SparseAutoencoder)
    for ours, theirs in zip(layer(x), numbers(stored, x, **settings), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-4)
    return layer


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("layout", [new_layout, old_layout])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu"])
def test_numbers_of_each_architecture(tmp_path, architecture, layout, centred):
    config = layout(architecture, apply_b_dec_to_input=centred)
    of_k = {"k": k} if architecture == "topk" else {}
    layer = assert_loads(tmp_path, config, weights(architecture), centred=centred, **of_k)
    assert layer.k == of_k.get("k")
    assert layer.dictionary.is_contiguous()
    assert layer.W_enc.is_contiguous()


def test_decoder_norms_in_the_codes(tmp_path):
    config = new_layout("topk", rescale_acts_by_decoder_norm=True)
    layer = assert_loads(tmp_path, config, weights("topk"), k=k, rescaled=True)
    torch.testing.assert_close(layer.dictionary.norm(dim=0), torch.ones(d_sae))


def test_old_layouts_have_fewer_settings(tmp_path):
    """Layouts without architecture, activation and normalisation, for which SAELens has defaults."""
    config = {"d_in": d_in, "d_sae": d_sae, "dtype": "float32", "hook_point": "blocks.0.hook_resid_pre"}
    ones = {"scaling_factor": torch.ones(d_sae)}
    assert_loads(tmp_path, config, weights("standard") | ones)
    assert_loads(tmp_path, config | {"activation_fn": "relu", "normalize_activations": False}, weights("standard"))
    topk = {"activation_fn": "topk", "activation_fn_kwargs": {"k": k}, "normalize_activations": None}
    assert assert_loads(tmp_path, config | topk, weights("standard"), k=k).k == k
    heads = old_layout("standard", reshape_activations="hook_z", sae_lens_version="5.2.0")
    assert_loads(tmp_path, heads, weights("standard"))


def test_dtypes(tmp_path):
    stored = weights("jumprelu", torch.bfloat16)
    assert assert_loads(tmp_path, new_layout("jumprelu"), stored).b_enc.dtype == torch.float32
    layer = load_saelens(saved(tmp_path, new_layout("jumprelu", dtype="torch.bfloat16"), weights("jumprelu")))
    assert {t.dtype for t in layer.state_dict().values()} == {torch.bfloat16}
    layer = load_saelens(saved(tmp_path, new_layout("standard", dtype="float64"), weights("standard")))
    assert layer.W_enc.dtype == torch.float64


def test_iterations_refine_what_was_loaded(tmp_path):
    for architecture in ("standard", "topk", "jumprelu"):
        folder = saved(tmp_path, new_layout(architecture), weights(architecture))
        usual, refined = load_saelens(folder), load_saelens(folder, 50, lmbda=0.01)
        x = torch.randn(100, d_in)
        errors = [(layer(x)[1] - x).square().sum() for layer in (usual, refined)]
        assert errors[1] < 0.5 * errors[0]
        assert load_saelens(folder, 2, momentum=False).momentum is None
        assert load_saelens(folder, 2, backend="eager").backend == "eager"


REFUSED = {
    "architecture must be 'standard' or 'topk' or 'jumprelu', got 'gated'": new_layout("gated"),
    "architecture must be .*, got 'transcoder'": new_layout("transcoder"),
    "architecture must be .*, got 'batchtopk'": old_layout("batchtopk"),
    "normalize_activations must be .*, got 'layer_norm'": new_layout("standard", normalize_activations="layer_norm"),
    "normalize_activations must be .*, got True": old_layout("standard", normalize_activations=True),
    "normalize_activations must be .*, got 'expected_average_only_in'": new_layout(
        "topk", normalize_activations="expected_average_only_in"
    ),
    "activation_fn must be 'relu', got 'tanh-relu'": old_layout("standard", activation_fn_str="tanh-relu"),
    "activation_fn must be 'relu', got 'topk'": old_layout(
        "jumprelu", activation_fn_str="topk", activation_fn_kwargs={"k": k}
    ),
    "activation_fn must be 'topk', got 'relu'": old_layout("topk", activation_fn_str="relu"),
    "activation_fn_kwargs must hold only k, got {'k': 4, 'postact_fn': 'tanh'}": old_layout(
        "topk", activation_fn_kwargs={"k": k, "postact_fn": "tanh"}
    ),
    "activation_fn_kwargs must hold only k, got None": old_layout("topk", activation_fn_kwargs=None),
    "finetuning_scaling_factor must be False or None, got True": old_layout("standard", finetuning_scaling_factor=True),
    "reshape_activations must be 'none' or 'hook_z', got 'other'": new_layout("standard", reshape_activations="other"),
    "rescale_acts_by_decoder_norm must be False for the architecture 'jumprelu', got True": new_layout(
        "jumprelu", rescale_acts_by_decoder_norm=True
    ),
    "rescale_acts_by_decoder_norm must be True or False, got 1": new_layout("topk", rescale_acts_by_decoder_norm=1),
    "apply_b_dec_to_input must be True or False, got 'yes'": new_layout("standard", apply_b_dec_to_input="yes"),
    "k must be an int >= 1 and <= 16, got 17": new_layout("topk", k=17),
    "k must be an int >= 1 and <= 16, got 3.5": new_layout("topk", k=3.5),
    "d_in must be an int >= 1, got '5'": new_layout("standard", d_in="5"),
    "d_sae must be an int >= 1, got 0": new_layout("standard", d_sae=0),
    "d_sae must be an int >= 1, got None": new_layout("standard", d_sae=None),
    "dtype must be .*, got 'float8_e4m3fn'": new_layout("standard", dtype="float8_e4m3fn"),
    "sae_lens_version must be at most 6, got '7.0.0'": new_layout("standard", sae_lens_version="7.0.0"),
    "sae_lens_version must be a version such as '6.0.0', got 'main'": new_layout("standard", sae_lens_version="main"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_that_are_refused_by_name(tmp_path, message):
    folder = saved(tmp_path, REFUSED[message], weights("standard"))
    with pytest.raises(ValueError, match=f"^load_saelens: {folder}/cfg.json: {message}"):
        load_saelens(folder)


@pytest.mark.parametrize(
    ("architecture", "key"),
    [("standard", "d_in"), ("standard", "d_sae"), ("standard", "dtype"), ("standard", "architecture"), ("topk", "k")],
)
def test_missing_settings(tmp_path, architecture, key):
    config = new_layout(architecture)
    del config[key]
    folder = saved(tmp_path, config, weights(architecture))
    with pytest.raises(ValueError, match=f"^load_saelens: {folder}/cfg.json has no {key}$"):
        load_saelens(folder)


def test_missing_tensors(tmp_path):
    for name in weights("jumprelu"):
        stored = weights("jumprelu")
        del stored[name]
        folder = saved(tmp_path, new_layout("jumprelu"), stored)
        with pytest.raises(ValueError, match=f"^load_saelens: {folder}/sae_weights.safetensors has no {name}$"):
            load_saelens(folder)


TENSORS = {
    r"W_enc must be \[5, 16\], by the d_in and d_sae of cfg.json, got \[16, 5\]": {"W_enc": torch.ones(16, 5)},
    r"W_dec must be \[16, 5\], .* got \[5, 16\]": {"W_dec": torch.ones(5, 16)},
    r"b_enc must be \[16\], .* got \[1, 16\]": {"b_enc": torch.ones(1, 16)},
    r"b_dec must be \[5\], .* got \[6\]": {"b_dec": torch.ones(6)},
    "b_dec must be of a floating-point dtype, got torch.int64": {"b_dec": torch.ones(5).long()},
    "b_gate, r_mag don't belong to the architecture 'standard'": {"r_mag": torch.ones(16), "b_gate": torch.ones(16)},
    "threshold don't belong to the architecture 'standard'": {"threshold": torch.ones(16)},
    "scaling_factor must be 1 everywhere": {"scaling_factor": torch.full((16,), 1.1)},
    "finetuning_scaling_factor must be 1 everywhere": {"finetuning_scaling_factor": torch.full((16,), 0.9)},
}


@pytest.mark.parametrize("message", TENSORS)
def test_tensors_that_dont_fit(tmp_path, message):
    folder = saved(tmp_path, new_layout("standard"), weights("standard") | TENSORS[message])
    with pytest.raises(ValueError, match=f"^load_saelens: {folder}/sae_weights.safetensors: {message}"):
        load_saelens(folder)


def test_a_decoder_row_of_zeros_has_no_norm_to_move(tmp_path):
    stored = weights("topk")
    stored["W_dec"][3] = 0
    assert_loads(tmp_path, new_layout("topk"), stored, k=k)
    folder = saved(tmp_path, new_layout("topk", rescale_acts_by_decoder_norm=True), stored)
    with pytest.raises(ValueError, match="W_dec must have no row of zeros with rescale_acts_by_decoder_norm"):
        load_saelens(folder)


def test_damaged_and_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^load_saelens: {tmp_path} has no cfg.json$"):
        load_saelens(tmp_path)
    folder = saved(tmp_path, new_layout("standard"), weights("standard"))
    (folder / "sae_weights.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle: never opened as one
    with pytest.raises(ValueError, match=f"^load_saelens: {folder}/sae_weights.safetensors is damaged: "):
        load_saelens(folder)
    (folder / "sae_weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=f"^load_saelens: {folder} has no sae_weights.safetensors$"):
        load_saelens(folder)
    save_file(weights("standard"), folder / "sae_weights.safetensors")
    for content, message in (
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[1]", "must hold an object, got list"),
    ):
        (folder / "cfg.json").write_bytes(content)
        with pytest.raises(ValueError, match=f"^load_saelens: {folder}/cfg.json {message}"):
            load_saelens(folder)
