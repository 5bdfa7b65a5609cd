"""SCVAE through PyTorch's uses: evaluations between optimiser steps, gradient penalties, transforms, sharding."""

import copy
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pictures import TINY
from processes import run
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.utils._pytree import tree_leaves

from scvae_fast.models import SCVAE
from scvae_fast.models.loss import scvae_loss

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit")  # by torch's own modules
OPTIMISERS = {
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "single": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=False),
    "fused SGD": lambda p: torch.optim.SGD(p, lr=1e-6, momentum=0.9, fused=True),
}


# As the authors' models have it: attention, and normalisation before the last convolutions.
WHOLE = replace(TINY, ch=8, attn_levels=(1,), mid_attention=True, norm_out=True)
CONFIGS = {"tiny": TINY} | {name: replace(WHOLE, attention=name) for name in ("constant", "eq", "GAT", "SSGC")}
EVERY_NETWORK = pytest.mark.parametrize("model", CONFIGS, indirect=True)


@pytest.fixture
def model(request):
    torch.manual_seed(0)
    return SCVAE(CONFIGS[getattr(request, "param", "tiny")])


@pytest.fixture
def pictures():
    return torch.rand(2, 3, TINY.resolution, TINY.resolution, generator=torch.Generator().manual_seed(1)) * 2 - 1


def loss_of(model, pictures):
    return scvae_loss(pictures, model(pictures), lmbda=0.01).total


def assert_equal(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def fresh(model):
    """A model of the same weights that has never been called."""
    other = SCVAE(model.config)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    return other.eval()


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_evaluations_between_optimiser_steps(model, pictures, optimiser):
    """The first of them before any step, as a trainer's sanity check."""
    optimizer = OPTIMISERS[optimiser](model.parameters())
    for _ in range(3):
        model.eval()
        for mode in (torch.no_grad, torch.inference_mode):
            with mode():
                assert_equal(model(pictures), fresh(model)(pictures))
                assert_equal(model.encode(pictures), fresh(model).encode(pictures))
        model.train()
        before = model.bottleneck.dictionary.detach().clone()
        optimizer.zero_grad()
        loss_of(model, pictures).backward()
        optimizer.step()
        assert not torch.equal(before, model.bottleneck.dictionary)


def test_averaged_weights_swapped_in_for_an_evaluation(model, pictures):
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    optimizer = OPTIMISERS["fused"](model.parameters())
    with torch.no_grad():
        model.eval()(pictures)
    for _ in range(2):
        loss_of(model.train(), pictures).backward()
        optimizer.step()
        average.update_parameters(model)
        own = [p.detach().clone() for p in model.parameters()]
        with torch.no_grad():
            for values in ([p.detach() for p in average.module.parameters()], own):
                for parameter, value in zip(model.parameters(), values, strict=True):
                    parameter.data.copy_(value)
                assert_equal(model.eval()(pictures), fresh(model)(pictures))
            assert_equal(average.module.eval()(pictures), fresh(average.module)(pictures))


class Plain(SCVAE):
    """The same model with its bottleneck written out in plain PyTorch."""

    def _encode(self, x):
        latents = self.encoder(x)
        D, c = self.bottleneck.dictionary, self.bottleneck.c
        b, theta = latents.permute(0, 2, 3, 1) @ D / c, self.config.lmbda / c
        S = torch.eye(D.shape[1], dtype=D.dtype) - D.T @ D / c

        def threshold(u):
            return torch.sign(u) * torch.relu(u.abs() - theta)

        z = threshold(b)
        for _ in range(self.config.n_iter):
            z = threshold(b + z @ S.T)
        return latents, z, (z @ D.T).permute(0, 3, 1, 2)


@pytest.fixture
def plain(model):
    """In float64."""
    other = Plain(model.config).double()
    other.load_state_dict({n: t.double() for n, t in model.state_dict().items()})
    return other


def assert_close(found, expected):
    """Relative to the size of each tensor, and of the largest: some gradients are 0 up to rounding."""
    largest = max(b.norm() for b in expected)
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).norm() <= 1e-3 * b.norm() + 1e-5 * largest


@EVERY_NETWORK
def test_gradient_penalty(model, plain, pictures):
    """The derivative of the norm of the gradient with respect to the pictures, through the whole model."""
    model.eval(), plain.eval()  # without the dropout of graph attention

    def penalty(model, x):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(model, x), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), list(model.parameters()), materialize_grads=True)

    assert_close(penalty(model, pictures), penalty(plain, pictures.double()))


@EVERY_NETWORK
def test_forward_mode(model, plain, pictures):
    model.eval(), plain.eval()
    direction = torch.ones_like(pictures)
    found = jvp(lambda x: (model(x).x_hat, model(x).alpha), (pictures,), (direction,))
    expected = jvp(lambda x: (plain(x).x_hat, plain(x).alpha), (pictures.double(),), (direction.double(),))
    assert_close(tree_leaves(found), tree_leaves(expected))


@EVERY_NETWORK
def test_gradients_of_each_picture(model, plain, pictures):
    def of_each(model, x):
        parameters = {n: p.detach() for n, p in model.eval().named_parameters()}

        def loss(parameters, picture):
            batch = picture[None]
            output = functional_call(model, parameters, (batch,))
            return F.mse_loss(output.x_hat, batch) + output.codes.abs().mean()

        return list(vmap(grad(loss), in_dims=(None, 0))(parameters, x).values())

    assert_close(of_each(model, pictures), of_each(plain, pictures.double()))


def test_ensemble(pictures):
    models = [SCVAE(TINY).eval() for _ in range(3)]
    parameters, buffers = stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    with torch.no_grad():
        found = vmap(lambda p, b: functional_call(base, (p, b), (pictures,)).x_hat)(parameters, buffers)
        assert_close(found, [m.double()(pictures.double()).x_hat for m in models])


@pytest.mark.parametrize("prefix", ["_orig_mod.", "encoder._orig_mod."])
def test_weights_of_a_compiled_model(model, pictures, prefix):
    """Those of `torch.compile(model)`, or of parts of it, have its prefix in their names."""
    weights = model.state_dict()
    if prefix == "_orig_mod.":
        named = torch.compile(model).state_dict()
    else:
        named = {n.replace("encoder.", prefix, 1) if n.startswith("encoder.") else n: t for n, t in weights.items()}
    assert any("_orig_mod." in name for name in named)
    with torch.no_grad():
        model.bottleneck.dictionary.mul_(1.5)
    other = SCVAE(TINY)
    other.load_state_dict(named)
    assert_equal(other.eval()(pictures), model.eval()(pictures))
    with pytest.raises(ValueError, match="weights must not appear twice"):
        other.load_state_dict({**named, **weights})


def test_models_with_compiled_parts_load_their_own_weights_and_those_of_plain_ones(model):
    plain, whole, part = model.state_dict(), torch.compile(SCVAE(TINY)), SCVAE(TINY)
    part.encoder = torch.compile(part.encoder)
    part.load_state_dict(plain)
    assert part.fingerprint() == model.fingerprint()
    whole.load_state_dict({f"_orig_mod.{name}": tensor for name, tensor in plain.items()})
    assert whole.fingerprint() == model.fingerprint()
    both = torch.nn.ModuleDict({"part": part, "whole": whole})
    assert not any(both.load_state_dict(both.state_dict()))
    assert part.fingerprint() == whole.fingerprint() == model.fingerprint()


SHARDED = """
import copy, sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from pictures import TINY
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from scvae_fast.models.loss import scvae_loss
from scvae_fast.models import SCVAE
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=0, world_size=1)
pictures = torch.rand(2, 3, TINY.resolution, TINY.resolution) * 2 - 1
torch.manual_seed(0)
alone = SCVAE(TINY)
for kind in ("fully_shard", "FullyShardedDataParallel", "from meta"):
    expected, spread = copy.deepcopy(alone), copy.deepcopy(alone)
    if kind == "FullyShardedDataParallel":
        spread = FullyShardedDataParallel(spread, device_id=torch.device("cpu"), use_orig_params=True)
    else:
        if kind == "from meta":
            with torch.device("meta"):
                spread = SCVAE(TINY)
        mesh = init_device_mesh("cpu", (1,))
        for part in (spread.encoder, spread.bottleneck, spread.decoder):
            fully_shard(part, mesh=mesh)
        fully_shard(spread, mesh=mesh)
        if kind == "from meta":
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
            spread.to_empty(device="cpu")
            set_model_state_dict(spread, alone.state_dict(), options=StateDictOptions(full_state_dict=True))
    for model in (expected, spread):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            scvae_loss(pictures, model.train()(pictures), lmbda=0.01).total.backward()
            optimizer.step()
    with torch.no_grad():
        for a, b in zip(spread.eval()(pictures), expected.eval()(pictures)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    print(kind, flush=True)
dist.destroy_process_group()
"""


@pytest.mark.processes
def test_sharded_training(tmp_path):
    """On a mesh of one process: the numbers of the model that is not sharded."""
    tests = next(path for path in sys.path if path.endswith("support"))
    printed = run(sys.executable, "-W", "ignore", "-c", SHARDED, tests, str(tmp_path / "store"))
    assert printed.strip().split("\n")[-3:] == ["fully_shard", "FullyShardedDataParallel", "from meta"]
