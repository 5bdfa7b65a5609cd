"""The layers LISTA and DictionaryLISTA."""

import copy
import pickle
import warnings

import pytest
import torch

from scvae_fast import ALISTA, LISTA, LISTACP, SLISTA, DictionaryLISTA, SparseAutoencoder, dictionaries, soft_threshold


def tied(D, c, lmbda, x, n_iter, official):
    """SC-VAE's bottleneck, written out: the paper's start, or the released code's."""
    y = x @ D
    theta = lmbda / c
    S = torch.eye(D.shape[1], dtype=D.dtype) - D.T @ D / c
    z = soft_threshold(y if official else y / c, theta)
    for _ in range(n_iter):
        z = soft_threshold(z @ S + y / c, theta)
    return z, z @ D.T


@pytest.fixture
def D():
    return dictionaries.random_unit(6, 10, dtype=torch.float64)


@pytest.mark.parametrize("compat", ["paper", "official"])
@pytest.mark.parametrize("n_iter", [0, 3])
def test_tied_form_and_its_gradients(D, compat, n_iter):
    layer = DictionaryLISTA(D, n_iter, 0.3, compat)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    plain = [layer.dictionary.detach().clone().requires_grad_(), layer.c.detach().clone().requires_grad_()]
    expected = tied(*plain, 0.3, x, n_iter, compat == "official")
    found = layer(x)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    sum(t.square().sum() for t in found).backward()
    sum(t.square().sum() for t in expected).backward()
    torch.testing.assert_close(layer.dictionary.grad, plain[0].grad)
    torch.testing.assert_close(layer.c.grad, plain[1].grad)


def test_paper_form_converges_to_the_lasso(D):
    layer = DictionaryLISTA(D, 4000, 0.3).eval()
    x = torch.randn(4, 6, dtype=torch.float64)
    _, x_hat = layer(x)
    assert ((x - x_hat) @ D).abs().max() <= 0.3 + 1e-8


def test_fixed_dictionary_and_step_are_buffers(D):
    layer = DictionaryLISTA(D, 2, 0.1, learn_dictionary=False, learn_c=False)
    assert list(layer.parameters()) == []
    assert set(layer.state_dict()) == {"dictionary", "c"}
    torch.testing.assert_close(layer.c, torch.linalg.matrix_norm(D, 2).reshape(1) ** 2)


def test_warm_start_from_the_solution_stays_there(D):
    layer = DictionaryLISTA(D, 5000, 0.3).eval()
    x = torch.randn(3, 6, dtype=torch.float64)
    z, _ = layer(x)
    layer.n_iter = 3
    torch.testing.assert_close(layer(x, z0=z)[0], z)


def test_weights_are_kept_in_eval_mode_and_formed_again_after_a_change(D, monkeypatch):
    layer = DictionaryLISTA(D, 2, 0.1).eval()
    formed = []
    form = layer._form_weights
    monkeypatch.setattr(layer, "_form_weights", lambda *given: formed.append(1) or form(*given))
    x = torch.randn(3, 6, dtype=torch.float64)
    with torch.inference_mode():
        first, again = layer(x)[0], layer(x)[0]
    assert len(formed) == 1
    assert torch.equal(first, again)
    with torch.no_grad():
        layer.dictionary.mul_(0.5)
        layer.c.mul_(2)
        changed = layer(x)[0]
    assert len(formed) == 2
    torch.testing.assert_close(changed, tied(layer.dictionary, layer.c, 0.1, x, 2, False)[0])
    layer.load_state_dict({"dictionary": D, "c": torch.tensor(9.0, dtype=D.dtype)})
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], tied(D, layer.c, 0.1, x, 2, False)[0])


def test_eval_mode_still_differentiates(D):
    layer = DictionaryLISTA(D, 2, 0.1).eval()
    with torch.inference_mode():
        layer(torch.randn(3, 6, dtype=torch.float64))
    layer(torch.randn(3, 6, dtype=torch.float64))[1].sum().backward()
    assert layer.dictionary.grad.abs().sum() > 0


def test_frozen_layer_passes_gradients_through_kept_weights(D):
    layer = DictionaryLISTA(D, 2, 0.1, learn_dictionary=False, learn_c=False).eval()
    with torch.inference_mode():
        layer(torch.randn(3, 6, dtype=torch.float64))
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    layer(x)[1].sum().backward()
    assert x.grad.abs().sum() > 0


def test_copies_and_pickles_work_after_use(D):
    layer = DictionaryLISTA(D, 2, 0.1).eval()
    x = torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(x)[0]
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert other._kept._last is None
            assert torch.equal(other(x)[0], expected)


def test_moves_between_dtypes(D):
    layer = DictionaryLISTA(D, 2, 0.1).eval()
    with torch.no_grad():
        layer(torch.randn(3, 6, dtype=torch.float64))
        z, _ = layer.float()(torch.randn(3, 6))
    assert z.dtype == torch.float32


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast_keeps_the_bottleneck_in_float32(D, compiled):
    layer = DictionaryLISTA(D.float(), 4, 0.1)
    x = torch.randn(3, 6)
    expected, _ = layer(x)

    def mixed(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x), layer(x @ torch.eye(6))

    run = torch.compile(mixed, fullgraph=True, backend="aot_eager") if compiled else mixed
    (z, x_hat), (_, rounded) = run(x)
    assert z.dtype == x_hat.dtype == rounded.dtype == torch.float32
    torch.testing.assert_close(z, expected)
    rounded.sum().backward()
    assert layer.dictionary.grad.dtype == torch.float32


def test_autocast_keeps_encode_in_float32():
    """Also of layers that form the drive before the operation."""
    D = dictionaries.random_unit(6, 10, generator=torch.Generator().manual_seed(0))
    x = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
    layers = [LISTA(6, 10, 4, dictionary=D), DictionaryLISTA(D, 4, 0.1), SLISTA(D, 4), LISTACP(D, 4), ALISTA(D, 4)]
    for layer in layers:
        expected = layer.encode(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(layer.encode(x), expected), type(layer).__name__


def test_layers_hold_copies_of_a_dictionary(D):
    before = D.clone()
    for make in (lambda: LISTA(6, 10, 2, dictionary=D), lambda: DictionaryLISTA(D, 2, 0.1), lambda: LISTACP(D, 2)):
        layer, other = make(), make()
        layer.load_state_dict({name: torch.zeros_like(value) for name, value in layer.state_dict().items()})
        assert torch.equal(D, before), type(layer).__name__
        assert torch.equal(other.dictionary, before), type(layer).__name__


def test_a_layer_has_the_dtype_of_its_dictionary(D):
    assert LISTA(6, 10, 2, dictionary=D).W_e.dtype == torch.float64
    assert LISTA(6, 10, 2, dictionary=D, dtype=torch.float32).W_e.dtype == torch.float32
    assert LISTA(6, 10, 2).W_e.dtype == torch.float32
    assert SparseAutoencoder(6, 10, 1, dictionary=D).W_enc.dtype == torch.float64
    with pytest.raises(TypeError, match="LISTA: dictionary must"):
        LISTA(6, 10, 2, dictionary=torch.ones(6, 10, dtype=torch.int64))


def test_a_dictionary_that_is_not_finite_or_zero_is_refused_with_any_c(D):
    for bad in (D * float("nan"), D * 0):
        with pytest.raises(ValueError, match="DictionaryLISTA"):
            DictionaryLISTA(bad, 2, 0.1, c=3.0)
    layer = DictionaryLISTA(D, 2, 0.1)
    with torch.no_grad():
        layer.dictionary.fill_(float("nan"))
    assert layer(torch.ones(1, 6, dtype=torch.float64))[0].isnan().all(), "in the call that looks at c too"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_c_is_not_rounded_below_the_norm(dtype):
    for seed in range(10):
        D = dictionaries.random_unit(16, 32, generator=torch.Generator().manual_seed(seed)).to(dtype)
        norm = torch.linalg.matrix_norm(D.double(), ord=2) ** 2
        layer = DictionaryLISTA(D, 2, 0.1)
        assert norm <= layer.c.double() <= norm * (1 + 3 * torch.finfo(dtype).eps)
        with torch.no_grad():
            layer.c.zero_()
        layer.raise_c()
        assert layer.c.double() >= norm


def test_numbers_of_another_type_are_named(D):
    for arguments, name in (({"lmbda": "a"}, "lmbda"), ({"lmbda": 0.1, "c": "a"}, "c"), ({"lmbda": True}, "lmbda")):
        with pytest.raises(TypeError, match=f"DictionaryLISTA: {name} must be a number, got"):
            DictionaryLISTA(D, 2, **arguments)
    with pytest.raises(ValueError, match="backend"):
        SparseAutoencoder(6, 10, 1, backend="foo")


def test_warns_once_when_the_step_falls_under_the_norm(D):
    layer = DictionaryLISTA(D, 1, 0.1)
    x = torch.randn(3, 6, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x)
        with torch.no_grad():
            layer.c.mul_(0.5)
        for _ in range(layer._CHECK_EVERY - 1):
            layer(x)
    with pytest.warns(UserWarning, match=r"step constant c = .* fell below ‖D‖₂² = "):
        layer(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2 * layer._CHECK_EVERY):
            layer(x)


def test_step_is_raised_to_the_norm_but_never_lowered(D):
    norm = torch.linalg.matrix_norm(D, 2).reshape(1) ** 2
    layer = DictionaryLISTA(D, 1, 0.1, c=0.5 * float(norm))
    layer.raise_c(1.01)
    torch.testing.assert_close(layer.c.detach(), 1.01 * norm)
    layer.raise_c()
    torch.testing.assert_close(layer.c.detach(), 1.01 * norm)


@pytest.mark.parametrize("compat", ["paper", "official"])
def test_compile_and_export(D, compat):
    layer = DictionaryLISTA(D, 2, 0.1, compat)
    x = torch.randn(3, 6, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    program = torch.export.export(layer.eval(), (x,))
    torch.testing.assert_close(program.module()(x), layer(x))


# Inductor itself imports modules of torch that warn of torch.jit.
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_inductor_trains_like_eager(D):
    x = torch.randn(5, 6, dtype=torch.float64)
    gradients = []
    for compile_it in (False, True):
        layer = DictionaryLISTA(D, 3, 0.1)
        z, x_hat = (torch.compile(layer, fullgraph=True) if compile_it else layer)(x)
        ((x - x_hat).square().sum() + 0.1 * z.abs().sum()).backward()
        gradients.append((layer.dictionary.grad, layer.c.grad))
    for compiled, eager in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"dictionary": [[1.0]]},
            TypeError,
            "DictionaryLISTA: dictionary must be a floating-point torch.Tensor",
        ),
        (
            {"dictionary": torch.ones(3)},
            ValueError,
            r"DictionaryLISTA: dictionary must be \(n, K\), got \[3\]",
        ),
        (
            {"dictionary": torch.zeros(3, 4)},
            ValueError,
            "DictionaryLISTA: dictionary must be finite and not zero",
        ),
        ({"n_iter": -1}, ValueError, "DictionaryLISTA: n_iter must be at least 0, got -1"),
        ({"n_iter": 1.5}, TypeError, "DictionaryLISTA: n_iter must be an int, got float"),
        ({"lmbda": -0.1}, ValueError, "DictionaryLISTA: lmbda must be a finite number >= 0"),
        ({"compat": "both"}, ValueError, "DictionaryLISTA: compat must be 'paper' or 'official', got 'both'"),
        ({"c": 0.0}, ValueError, "DictionaryLISTA: c must be a finite number > 0, got 0.0"),
    ],
)
def test_bad_settings_of_the_tied_form(change, error, message):
    with pytest.raises(error, match=message):
        DictionaryLISTA(**{"dictionary": torch.eye(3, 4), "n_iter": 2, "lmbda": 0.1, **change})


def test_untied_form_starts_as_ista(D):
    layer = LISTA(6, 10, 4000, dictionary=D, lmbda=0.3, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64)
    z = layer(x)
    assert z.shape == (4, 10)
    assert ((x - z @ D.T) @ D).abs().max() <= 0.3 + 1e-8
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "W_e": (10, 6),
        "S": (10, 10),
        "theta": (10,),
    }


def test_untied_form_learns_to_predict_codes(D):
    x = torch.randn(256, 6, dtype=torch.float64)
    target = LISTA(6, 10, 2000, dictionary=D, lmbda=0.2, dtype=torch.float64)(x).detach()
    layer = LISTA(6, 10, 2, dictionary=D, lmbda=0.2, dtype=torch.float64)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.01)
    losses = []
    for _ in range(150):
        loss = (layer(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.35 * losses[0]


def test_random_start_follows_the_generator():
    first, second = (LISTA(5, 8, 1, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.S, second.S)
    assert not torch.equal(first.S, LISTA(5, 8, 1).S)


def test_untied_form_compiles():
    layer = LISTA(5, 8, 2)
    x = torch.randn(3, 5)
    torch.testing.assert_close(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_features": 0}, ValueError, "LISTA: n_features must be at least 1, got 0"),
        ({"n_atoms": 2.0}, TypeError, "LISTA: n_atoms must be an int, got float"),
        ({"n_iter": -1}, ValueError, "LISTA: n_iter must be at least 0, got -1"),
        ({"lmbda": float("nan")}, ValueError, "LISTA: lmbda must be a finite number >= 0, got nan"),
        ({"dictionary": torch.eye(4)}, ValueError, r"LISTA: dictionary must be .* = \(3, 4\), got \[4, 4\]"),
    ],
)
def test_bad_settings_of_the_untied_form(arguments, error, message):
    with pytest.raises(error, match=message):
        LISTA(**{"n_features": 3, "n_atoms": 4, "n_iter": 1, **arguments})


def test_printing_names_the_sizes(D):
    assert "n_features=6, n_atoms=10, n_iter=2" in repr(LISTA(6, 10, 2))
    assert "compat='official'" in repr(DictionaryLISTA(D, 2, 0.1, "official"))


@pytest.mark.parametrize("compiled", [False, True])
def test_S_in_bfloat16_is_for_inference_only(D, compiled):
    x = torch.randn(3, 6)
    tied_layers = [DictionaryLISTA(D.float(), 3, 0.1, inhibition_dtype=dtype) for dtype in (torch.bfloat16, None)]
    untied = [LISTA(6, 10, 3, dictionary=D.float(), inhibition_dtype=dtype) for dtype in (torch.bfloat16, None)]
    for ours, plain in (tied_layers, untied):
        run = torch.compile(ours, fullgraph=True, backend="aot_eager") if compiled else ours
        found, expected = (torch.cat(f(x), -1) if plain is tied_layers[1] else f(x) for f in (run, plain))
        assert torch.equal(found, expected)
        ours.eval()
        with torch.no_grad():
            found = torch.cat(run(x), -1) if plain is tied_layers[1] else run(x)
        assert not torch.equal(found, expected)
        torch.testing.assert_close(found, expected.detach(), rtol=0.05, atol=0.02)
        run(x)[0].sum().backward()
        assert all(p.grad is not None for p in ours.parameters() if p is not getattr(ours, "dictionary", None))


def test_S_in_bfloat16_follows_the_parameter(D):
    layer = LISTA(6, 10, 2, dictionary=D.float(), inhibition_dtype=torch.bfloat16).eval()
    x = torch.randn(3, 6)
    with torch.no_grad():
        first = layer(x)
        assert layer._inhibition().dtype == torch.bfloat16
        layer.S.data.mul_(0.5)
        assert torch.equal(layer._inhibition(), layer.S.bfloat16())
        assert not torch.equal(layer(x), first)
    assert layer.double()._inhibition() is layer.S


def test_settings_of_the_tied_form_may_change_between_calls(D):
    layer = DictionaryLISTA(D.float(), 2, 0.1).eval()
    with torch.no_grad():
        assert layer._weights()[1].dtype == torch.float32
        layer.inhibition_dtype = torch.bfloat16
        assert layer._weights()[1].dtype == torch.bfloat16


X = torch.randn(7, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("per_iteration", [None, "thresholds", "all"])
def test_every_form_starts_as_ista(D, per_iteration):
    layer = LISTA(6, 10, 3, dictionary=D, lmbda=0.2, per_iteration=per_iteration, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), DictionaryLISTA(D, 3, 0.2)(x)[0])


def test_positive_and_dim(D):
    maps = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    rows = maps.permute(0, 2, 3, 1)
    for make in (
        lambda **s: LISTA(6, 10, 3, dictionary=D, lmbda=0.05, dtype=torch.float64, **s),
        lambda **s: LISTA(6, 10, 3, dictionary=D, lmbda=0.05, dtype=torch.float64, per_iteration="all", **s),
        lambda **s: DictionaryLISTA(D, 3, 0.05, **s),
    ):
        layer, of_maps = make(positive=True), make(positive=True, dim=1)
        z = layer.encode(rows)
        assert z.min() == 0
        assert z.max() > 0
        assert torch.equal(of_maps.encode(maps), z.permute(0, 3, 1, 2))
        assert torch.equal(of_maps.encode(maps, z.permute(0, 3, 1, 2)), layer.encode(rows, z).permute(0, 3, 1, 2))
        torch.testing.assert_close(of_maps.decode(of_maps.encode(maps)), layer.decode(z).permute(0, 3, 1, 2))
    pair = of_maps(maps)
    assert torch.equal(pair[0], layer(rows)[0].permute(0, 3, 1, 2))
    torch.testing.assert_close(pair[1], layer(rows)[1].permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda D: LISTA(6, 10, 3, per_iteration="each"),
            ValueError,
            "per_iteration must be None, 'thresholds' or 'all'",
        ),
        (lambda D: LISTA(6, 10, 3, positive=1), TypeError, "positive must be a bool, got int"),
        (lambda D: LISTA(6, 10, 3, dtype=torch.complex64), TypeError, "dtype must be float32, .*, got torch.complex64"),
        (
            lambda D: DictionaryLISTA(D.to(torch.float8_e5m2), 3, 0.1),
            TypeError,
            "dictionary must be float32",
        ),
        (
            lambda D: LISTA(6, 10, 3)(torch.ones(2, 6, dtype=torch.int64)),
            TypeError,
            "x must be torch.float32, .* torch.int64",
        ),
        (lambda D: LISTA(6, 10, 3)(torch.tensor(1.0)), ValueError, r"x must have size 6 in dimension -1, got \[\]"),
        (lambda D: LISTA(6, 10, 3, dim="1"), TypeError, "dim must be an int, got str"),
        (lambda D: LISTA(6, 10, 3, backend="gpu"), ValueError, "backend must be one of"),
        (lambda D: LISTA(6, 10, 3)(torch.ones(2, 5)), ValueError, r"x must have size 6 in dimension -1, got \[2, 5\]"),
        (lambda D: LISTA(6, 10, 3, dim=1)(torch.ones(6)), ValueError, r"x must have size 6 in dimension 1, got \[6\]"),
        (lambda D: LISTA(6, 10, 3)(X), TypeError, "x must be torch.float32, as the layer is, got torch.float64"),
        (lambda D: LISTA(6, 10, 3)([1.0] * 6), TypeError, "x must be a torch.Tensor"),
        (lambda D: LISTA(6, 10, 3)(X.float(), X.float()), ValueError, r"z0 must have size 10 in dimension -1"),
        (lambda D: DictionaryLISTA(D, 3, 0.1)(X[:, :5]), ValueError, "x must have size 6 in dimension -1"),
        (lambda D: DictionaryLISTA(D, 3, 0.1).decode(X), ValueError, "z must have size 10 in dimension -1"),
    ],
)
def test_wrong_arguments_are_named(D, call, error, message):
    with pytest.raises(error, match=f"LISTA: {message}"):
        call(D)
