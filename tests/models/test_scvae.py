"""The whole model: what goes in and out, compiled, exported, copied, trained."""

import copy
import dataclasses
import io
import pickle

import pytest
import torch

from scvae_fast import dictionaries
from scvae_fast.models import SCVAE, SCVAEConfig, SCVAEOutput
from scvae_fast.models.loss import scvae_loss

NETWORKS = ["constant", "eq", "GAT", "SSGC"]


def close(actual: SCVAEOutput, expected: SCVAEOutput) -> None:
    for name, tensor, other in zip(SCVAEOutput._fields, actual, expected, strict=True):
        torch.testing.assert_close(tensor, other, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("attention", "features"), [("constant", 16), ("eq", 1), ("GAT", 1), ("SSGC", 1)])
def test_output(attention, features, small_config, pictures):
    model = SCVAE(dataclasses.replace(small_config, attention=attention))
    output = model(pictures)
    assert isinstance(output, SCVAEOutput)
    assert output.x_hat.shape == pictures.shape
    assert output.codes.shape == (2, 6, 8, 24)
    assert output.latents.shape == output.latents_hat.shape == (2, 16, 6, 8)
    assert output.alpha.shape == (2, 6, 8, features)
    torch.testing.assert_close(output.alpha.sum((1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("compat", ["paper", "official"])
def test_codes_are_those_of_the_formula(compat, small_config, pictures):
    model = SCVAE(dataclasses.replace(small_config, compat=compat)).double().eval()
    output = model(pictures.double())
    D, c = model.bottleneck.dictionary, model.bottleneck.c
    threshold = small_config.lmbda / c

    def shrink(u):
        return u.sign() * (u.abs() - threshold).clamp_min(0)

    drive = output.latents.permute(0, 2, 3, 1) @ D / c
    z = shrink(drive if compat == "paper" else drive * c)
    for _ in range(small_config.n_iter):
        z = shrink(drive + z - z @ (D.T @ D) / c)
    torch.testing.assert_close(output.codes, z)
    torch.testing.assert_close(output.latents_hat, (z @ D.T).permute(0, 3, 1, 2))


def test_parts_make_the_whole(small_model, pictures):
    small_model, pictures = small_model.double(), pictures.double()
    output = small_model(pictures)
    encoding = small_model.encode(pictures)
    assert torch.equal(encoding.latents, output.latents)
    assert torch.equal(encoding.codes, output.codes)
    assert torch.equal(small_model.decode(encoding.latents_hat), output.x_hat)
    torch.testing.assert_close(small_model.decode_codes(encoding.codes), output.x_hat)


def test_pictures_are_independent(small_model, pictures):
    small_model, pictures = small_model.double(), pictures.double()
    whole, single = small_model(pictures), small_model(pictures[1:])
    close(single, SCVAEOutput(*(tensor[1:] for tensor in whole)))


@pytest.mark.compiles
@pytest.mark.parametrize("attention", NETWORKS)
def test_compiles_without_graph_breaks(attention, small_config, pictures):
    model = SCVAE(dataclasses.replace(small_config, attention=attention)).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    close(compiled(pictures), model(pictures))


@pytest.mark.compiles
def test_gradients_of_the_compiled_model(small_model, pictures):
    def gradients(model):
        small_model.zero_grad()
        scvae_loss(pictures, model(pictures), lmbda=0.1).total.backward()
        return [parameter.grad.clone() for parameter in small_model.parameters()]

    compiled = torch.compile(small_model, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(gradients(compiled), gradients(small_model), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.compiles
@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")  # torch 2.10, loading
def test_exports_for_any_size(small_model, pictures):
    batch, height, width = (torch.export.Dim(name) for name in ("batch", "height", "width"))
    program = torch.export.export(
        small_model.eval(), (pictures,), dynamic_shapes={"x": {0: batch, 2: 2 * height, 3: 2 * width}}
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    other = torch.rand(3, 3, 20, 8)
    output = torch.export.load(file).module()(other)
    assert isinstance(output, SCVAEOutput)
    close(output, small_model(other))


@pytest.mark.parametrize("attention", NETWORKS)
def test_every_parameter_learns(attention, small_config, pictures):
    model = SCVAE(dataclasses.replace(small_config, attention=attention))
    scvae_loss(pictures, model(pictures), lmbda=0.1).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("k.bias"):  # softmax doesn't see it: its gradient is rounding
            assert parameter.grad.abs().sum() > 0, name


def test_fixed_dictionary_and_step(small_config):
    model = SCVAE(dataclasses.replace(small_config, learn_dictionary=False, learn_c=False))
    assert {name for name, _ in model.bottleneck.named_buffers()} == {"dictionary", "c"}
    assert not list(model.bottleneck.parameters())


def test_begins_like_the_released_code(small_model):
    weight = small_model.encoder.conv_in.weight  # Glorot: fan in 3·9, fan out 8·9
    limit = (6 / (27 + 72)) ** 0.5
    assert 0.9 * limit < weight.abs().max() <= limit
    assert small_model.encoder.conv_in.bias.abs().max() == 0
    assert torch.equal(small_model.bottleneck.dictionary, dictionaries.dct(16, 24))


def test_a_custom_dictionary(small_config):
    own = dictionaries.random_unit(16, 24, generator=torch.Generator().manual_seed(0))
    model = SCVAE(small_config, dictionary=own, backend="eager")
    assert torch.equal(model.bottleneck.dictionary, own)
    assert model.bottleneck.backend == "eager"
    with pytest.raises(ValueError, match=r"dictionary must be .* \(16, 24\), got \(24, 16\)"):
        SCVAE(small_config, dictionary=own.T)


def test_copies_are_independent(small_model, pictures):
    before = small_model(pictures)
    for duplicate in (copy.deepcopy(small_model), pickle.loads(pickle.dumps(small_model))):
        assert duplicate.config == small_model.config
        close(duplicate(pictures), before)
        torch.nn.init.zeros_(duplicate.encoder.conv_in.weight)
    close(small_model(pictures), before)


def test_autocast(small_model, pictures):
    exact = small_model(pictures)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = small_model(pictures)
        loss = scvae_loss(pictures, output, lmbda=0.1).total
    loss.backward()
    assert (output.x_hat.float() - exact.x_hat).norm() < 0.1 * exact.x_hat.norm()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in small_model.parameters())


def test_wrong_codes(small_model):
    with pytest.raises(ValueError, match=r"decode_codes: codes must be \(B, h, w, 24\), got \(1, 2, 2, 16\)"):
        small_model.decode_codes(torch.zeros(1, 2, 2, 16))


@pytest.mark.parametrize("size", [(1, 1), (5, 6), (7, 9), (8, 4)])
def test_codes_of_pictures_of_any_size(size, small_model):
    picture = torch.rand(2, 3, *size) * 2 - 1
    encoding = small_model.encode(picture)
    rows, columns = (torch.arange(side + side % 2).clamp_max(side - 1) for side in size)
    extended = picture[:, :, rows][..., columns]  # with its last row and column once more
    expected = small_model(extended)
    assert torch.equal(encoding.codes, expected.codes)
    assert encoding.codes.shape[1:3] == small_model.config.grid(*size)
    x_hat = small_model.decode_codes(encoding.codes, size)
    torch.testing.assert_close(x_hat, expected.x_hat[..., : size[0], : size[1]])


def test_codes_of_another_size(small_model):
    codes = torch.zeros(1, 3, 4, 24)
    assert small_model.decode_codes(codes).shape == (1, 3, 6, 8)
    with pytest.raises(ValueError, match=r"7 x 8 have \(4, 4\) cells of 2 x 2 pixels, codes are of \(3, 4\)"):
        small_model.decode_codes(codes, (7, 8))
    with pytest.raises(ValueError, match=r"SCVAE.combine_atoms: codes must be \(B, h, w, 24\), got \(3, 4, 24\)"):
        small_model.combine_atoms(codes[0])


def test_wrong_pictures(small_model):
    with pytest.raises(ValueError, match=r"Encoder: x must be \(B, 3, H, W\), got \(3, 5, 6\)"):
        small_model.encode(torch.zeros(3, 5, 6))
    with pytest.raises(ValueError, match=r"floating point .* got torch.int64"):
        small_model.encode(torch.zeros(1, 3, 5, 7, dtype=torch.int64))
    with pytest.raises(ValueError, match="positive multiples of 2, got 0 x 7"):
        small_model.encode(torch.zeros(1, 3, 0, 7))
    with pytest.raises(ValueError, match="positive multiples of 2, got 0 x 6"):
        small_model.encode(torch.zeros(1, 3, 0, 6))
    with pytest.raises(ValueError, match="multiples of 2, got 5 x 6"):
        small_model(torch.zeros(1, 3, 5, 6))


def test_the_small_preset(pictures):
    model = SCVAE(SCVAEConfig.preset("pictures64"))
    output = model(torch.rand(1, 3, 64, 64))
    assert output.codes.shape[1:3] == (8, 8)
    assert sum(parameter.numel() for parameter in model.parameters()) < 10_000_000


# Which strides a convolution gives its gradient is up to the library behind it; other ones cost a copy.
@pytest.mark.filterwarnings("ignore:Grad strides do not match bucket view strides:UserWarning")
def test_distributed_data_parallel(small_model, pictures, tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(small_model)
        output = parallel(pictures)
        assert isinstance(output, SCVAEOutput)
        scvae_loss(pictures, output, lmbda=0.1).total.backward()
    finally:
        torch.distributed.destroy_process_group()
    assert all(parameter.grad is not None for parameter in small_model.parameters())
