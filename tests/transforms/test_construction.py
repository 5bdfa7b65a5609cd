"""Making layers and models: on the meta device, as fakes, in inference mode, in other dtypes, with NumPy's numbers."""

import copy

import numpy as np
import pytest
import torch
from pictures import TINY
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from scvae_fast import (
    ALISTA,
    LISTA,
    LISTACP,
    SLISTA,
    DictionaryLISTA,
    SCVAEConfig,
    SparseAutoencoder,
    TiLISTA,
    decode,
    dictionaries,
    lista,
    soft_threshold,
    sparse_code,
)
from scvae_fast.functional import group_norm_silu
from scvae_fast.models import SCVAE

N, K, T = 9, 12, 3

MAKES = {
    "LISTA": lambda: LISTA(N, K, T),
    "DictionaryLISTA": lambda: DictionaryLISTA(dictionaries.dct(N, K), T, 0.1),
    "DictionaryLISTA, buffers": lambda: DictionaryLISTA(
        dictionaries.random_unit(N, K), T, 0.1, "official", learn_dictionary=False, learn_c=False
    ),
    "LISTA of each iteration": lambda: LISTA(N, K, T, per_iteration="all"),
    **{
        make.__name__: lambda make=make: make(dictionaries.random_unit(N, K), T)
        for make in (LISTACP, TiLISTA, ALISTA, SLISTA)
    },
    "SparseAutoencoder": lambda: SparseAutoencoder(N, K, T),
    "SparseAutoencoder, one layer": lambda: SparseAutoencoder(N, K, 0, k=4),
    "SparseAutoencoder of an encoder": lambda: SparseAutoencoder.from_encoder(
        torch.randn(K, N), torch.randn(K), torch.randn(N, K), torch.randn(N), T, threshold=torch.rand(K)
    ),
    "SCVAE": lambda: SCVAE(TINY),
}


@pytest.fixture(params=MAKES)
def make(request):
    return MAKES[request.param]


def example(module, batch=2):
    """An input for it, on the CPU."""
    generator = torch.Generator(device="cpu").manual_seed(2)
    shape = (batch, 3, TINY.resolution, TINY.resolution) if isinstance(module, SCVAE) else (batch, N)
    dtype = next(module.state_dict().values().__iter__()).dtype
    with torch.device("cpu"):
        return torch.rand(shape, generator=generator).to(dtype) * 2 - 1


def leaves(results):
    return torch.utils._pytree.tree_leaves(tuple(results) if isinstance(results, tuple) else (results,))


def assert_equal(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(leaves(found), leaves(expected), strict=True))


@pytest.mark.parametrize("assign", [False, True])
def test_deferred_initialisation(make, assign):
    torch.manual_seed(0)
    original = make().eval()
    with torch.device("meta"):
        deferred = make()
    assert all(t.is_meta for t in deferred.state_dict().values())
    assert {n: t.shape for n, t in deferred.state_dict().items()} == {
        n: t.shape for n, t in original.state_dict().items()
    }
    shapes = [t.shape for t in leaves(deferred(example(original).to("meta")))]
    if not assign:
        deferred.to_empty(device="cpu")
    deferred.load_state_dict(original.state_dict(), assign=assign)
    x = example(original)
    with torch.no_grad():
        results = deferred.eval()(x)
        assert_equal(results, original(x))
    assert [t.shape for t in leaves(results)] == shapes


def test_meta_copy_of_a_model(make):
    original = make().eval()
    with torch.no_grad():
        expected = original(example(original))
        found = copy.deepcopy(original).to("meta")(example(original).to("meta"))
    assert all(t.is_meta for t in leaves(found))
    assert [t.shape for t in leaves(found)] == [t.shape for t in leaves(expected)]


def test_fake_tensors(make):
    """As in estimates of memory: shapes alone, forward and backward."""
    with FakeTensorMode():
        for module in (make().train(), make().eval()):
            results = leaves(module(example(module)))
            assert all(isinstance(t, FakeTensor) for t in results)
            if any(p.requires_grad for p in module.parameters()):
                sum(t.sum() for t in results).backward()
                assert all(isinstance(p.grad, FakeTensor) for p in module.parameters() if p.grad is not None)
    real = make().eval()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
        assert all(isinstance(t, FakeTensor) for t in leaves(real(mode.from_tensor(example(real)))))


def test_made_in_inference_mode(make):
    torch.manual_seed(0)
    outside = make().eval()
    torch.manual_seed(0)
    with torch.inference_mode():
        inside = make().eval()
        for module in (inside, copy.deepcopy(inside), copy.deepcopy(outside), copy.deepcopy(outside).to(torch.float32)):
            assert_equal(module(example(outside)), outside(example(outside)))
        loaded = make().eval()
        loaded.load_state_dict(outside.state_dict())
        assert_equal(loaded(example(outside)), outside(example(outside)))
    with torch.no_grad():
        assert_equal(inside(example(outside)), outside(example(outside)))


def test_model_loaded_in_inference_mode(tmp_path):
    model = SCVAE(TINY).eval()
    model.save_pretrained(tmp_path)
    x = example(model)
    with torch.inference_mode():
        assert_equal(SCVAE.from_pretrained(tmp_path)(x), model(x))
    with torch.device("meta"):
        deferred = SCVAE.from_pretrained(tmp_path)
    with torch.no_grad():
        assert_equal(deferred(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_default_dtype(make, dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        module = make()
        over_dictionary = isinstance(module, (DictionaryLISTA, LISTACP, TiLISTA, ALISTA, SLISTA))
        expected = torch.float32 if over_dictionary else dtype  # that of its dictionary
        assert {t.dtype for t in module.state_dict().values()} == {expected}
        assert all(t.dtype == expected for t in leaves(module(example(module))))
    finally:
        torch.set_default_dtype(before)


def test_numpys_scalars():
    int64, float32 = np.int64, np.float32
    b, S, D = torch.randn(4, 6), 0.1 * torch.randn(6, 6), torch.randn(5, 6)
    x, W_e = torch.randn(4, 5), torch.randn(6, 5)
    assert torch.equal(lista(b, S, float32(0.5), int64(2), gain=float32(2.0)), lista(b, S, 0.5, 2, gain=2.0))
    found = sparse_code(x, W_e, S, float32(0.5), D, np.int32(2), gain=np.float64(2.0))
    assert_equal(found, sparse_code(x, W_e, S, 0.5, D, 2, gain=2.0))
    assert torch.equal(soft_threshold(b, np.float16(0.5)), soft_threshold(b, 0.5))
    pictures, ones = torch.randn(2, 4, 3, 3), torch.ones(4)
    normalised = group_norm_silu(pictures, ones, ones, int64(2), float32(0.5))
    assert torch.equal(normalised, group_norm_silu(pictures, ones, ones, 2, 0.5))
    layer = LISTA(int64(5), int64(6), int64(2), lmbda=float32(0.5))
    assert (layer.n_features, layer.n_atoms, layer.n_iter) == (5, 6, 2)
    assert type(layer.n_iter) is int
    tied = DictionaryLISTA(dictionaries.dct(int64(9), int64(12)), int64(2), float32(0.5), c=float32(20.0))
    assert torch.equal(
        tied(torch.ones(1, 9))[0], DictionaryLISTA(dictionaries.dct(9, 12), 2, 0.5, c=20.0)(torch.ones(1, 9))[0]
    )
    autoencoder = SparseAutoencoder(int64(5), int64(6), int64(2), k=int64(3), lmbda=float32(0.5))
    assert (autoencoder.n_atoms, autoencoder.n_iter, autoencoder.k) == (6, 2, 3)
    assert type(autoencoder.k) is int
    assert torch.equal(autoencoder.lmbda.detach(), torch.full((6,), 0.5))
    for dictionary in (dictionaries.orthogonal_dct(int64(4)), dictionaries.random_unit(int64(4), int64(3))):
        assert dictionary.shape[0] == 4
    fields = {"n_atoms": int64(512), "n_iter": np.uint8(3), "lmbda": float32(0.5), "ch_mult": (int64(1), int64(2))}
    config = SCVAEConfig.preset("pictures64", **fields)
    assert config == SCVAEConfig.preset("pictures64", n_atoms=512, n_iter=3, lmbda=0.5, ch_mult=(1, 2))
    assert all(type(v) in (int, float, str, bool, tuple) for v in config.to_dict().values())
    for wrong in (np.bool_(True), True, np.float32(2.0), "2", None, np.array([2, 3])):
        with pytest.raises(TypeError, match="lista: n_iter must be an int"):
            lista(b, S, 0.5, wrong)
    for wrong in (True, np.bool_(True), 1j, "0.5", np.array([0.5, 1.0])):
        with pytest.raises(TypeError, match=r"lista: theta must be a number or a torch\.Tensor"):
            lista(b, S, wrong, 2)


def test_number_of_iterations_is_bounded():
    b, S = torch.zeros(1, 2), torch.zeros(2, 2)
    for op in (lista, lambda b, S, theta, n_iter: sparse_code(b, S, S, theta, S, n_iter)):
        with pytest.raises(ValueError, match="n_iter must be at most 2147483647, got 1000000000000"):
            op(b, S, 0.1, 10**12)
    with pytest.raises(ValueError, match="LISTA: n_iter must be at most"):
        LISTA(2, 2, 10**12)


def test_parameters_are_contiguous(make, tmp_path):
    """Else safetensors, flat optimisers and fully_shard refuse them."""
    from safetensors.torch import load_file, save_file

    module = make()
    assert all(t.is_contiguous() for t in module.state_dict().values())
    assert all(p.dim() > 0 for p in module.parameters())
    save_file(module.state_dict(), tmp_path / "weights.safetensors")
    module.load_state_dict(load_file(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize("assign", [False, True])
def test_step_constant_without_dimensions_is_loaded(assign):
    model = SCVAE(TINY).eval()
    given = model.state_dict()
    scalar = {**given, "bottleneck.c": (2 * given["bottleneck.c"]).reshape(())}
    model.load_state_dict(scalar, assign=assign)
    assert model.bottleneck.c.shape == (1,)
    assert torch.equal(model.bottleneck.c.detach(), scalar["bottleneck.c"].reshape(1))
    assert scalar["bottleneck.c"].shape == ()  # what was given stays as it was
    with pytest.raises(RuntimeError, match=r"size mismatch for bottleneck\.c"):
        model.load_state_dict({**given, "bottleneck.c": torch.ones(2)})


def test_one_value_may_have_any_number_of_dimensions():
    b, S = torch.randn(4, 5), 0.1 * torch.randn(5, 5)
    for name in ("cpu", "eager"):
        for shape in ((), (1,), (1, 1), (1, 1, 1), (1, 1, 1, 1)):
            theta, gain = torch.full(shape, 0.1, requires_grad=True), torch.full(shape, 2.0, requires_grad=True)
            z = lista(b, S, theta, 2, gain=gain, backend=name)
            assert torch.equal(z, lista(b, S, 0.1, 2, gain=2.0, backend=name))
            z.square().sum().backward()
            assert theta.grad.shape == gain.grad.shape == shape
            codes, x_hat = sparse_code(b, S, S, theta, S, 2, gain=gain, backend=name)
            (codes.sum() + x_hat.sum()).backward()
            assert soft_threshold(b, theta).shape == b.shape


def test_decode_of_a_numpy_array_is_refused():
    with pytest.raises(TypeError, match=r"decode: z must be a torch\.Tensor"):
        decode(np.zeros((2, 3)), torch.zeros(4, 3))
