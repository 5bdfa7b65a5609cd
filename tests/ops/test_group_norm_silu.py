"""group_norm_silu: the C++ kernels for x of any size, and PyTorch for calls that they don't support."""

import pytest
import torch
import torch.nn.functional as F
from problems import assert_opcheck_passes, distance

from scvae_fast.functional import group_norm_silu
from scvae_fast.models.blocks import normalise
from scvae_fast.ops import normalisation as module
from scvae_fast.ops import registration

LAYOUTS = {"packed": torch.contiguous_format, "channels_last": torch.channels_last}
EVERY_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


@pytest.fixture(autouse=True)
def kernels_take_small_inputs(monkeypatch):
    monkeypatch.setattr(module, "_WORTHWHILE", 0)


def composed(x, weight, bias, groups, eps=1e-6):
    return F.silu(F.group_norm(x, groups, weight, bias, eps))


def problem(shape, dtype=torch.float32, layout="packed", center=0.3):
    """x, weight, bias and a gradient of y; the latter two are float32."""
    x, grad = ((torch.randn(shape) + offset).to(dtype) for offset in (center, 0.0))
    if layout == "channels_last":
        x, grad = (t.contiguous(memory_format=torch.channels_last) for t in (x, grad))
    return x, 1 + torch.randn(shape[1]) / 2, torch.randn(shape[1]), grad


def run(op, x, weight, bias, grad, groups):
    """The result, and the gradients of x, weight and bias."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    y = op(*leaves, groups)
    return {"y": y.detach(), **dict(zip(("x", "weight", "bias"), torch.autograd.grad(y, leaves, grad), strict=True))}


def in_float64(p):
    return [t.double() for t in p]


def assert_as_exact_as_pytorch(p, groups):
    ours, pytorch = run(group_norm_silu, *p, groups), run(composed, *p, groups)
    exact = run(composed, *in_float64(p), groups)
    for name, expected in exact.items():
        assert ours[name].dtype == pytorch[name].dtype
        few_roundings = 4 * torch.finfo(ours[name].dtype).eps
        assert distance(ours[name], expected) <= 2 * distance(pytorch[name], expected) + few_roundings, name


@EVERY_LAYOUT
@EVERY_DTYPE
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((2, 16, 8, 8), 4),
        ((3, 18, 5, 7), 3),
        ((1, 33, 3, 1), 1),
        ((2, 16, 1, 1), 4),
        ((2, 17, 4, 4), 17),
        ((2, 5, 3, 3), 5),
        ((1, 16, 1, 4099), 2),
        ((2, 520, 5, 4), 4),
        ((9, 24, 31, 33), 8),
    ],
)
def test_cpu_error_is_at_most_twice_pytorchs(shape, groups, dtype, layout):
    assert_as_exact_as_pytorch(problem(shape, dtype, layout), groups)


@EVERY_LAYOUT
@pytest.mark.parametrize("center", [1e2, -1e4])
def test_cpu_mean_that_is_large_beside_the_deviations(center, layout):
    x, weight, bias, grad = problem((2, 16, 16, 16), layout=layout, center=center)
    assert_as_exact_as_pytorch((x, weight, bias, grad), 4)
    x[:, :, :1] += 100 * center  # what the first elements are like says nothing of the rest
    assert_as_exact_as_pytorch((x, weight, bias, grad), 4)


@EVERY_LAYOUT
def test_cpu_constant_input(layout):
    x, weight, bias, grad = problem((2, 16, 5, 5), layout=layout)
    x = torch.full_like(x, 1000.1)
    found = run(group_norm_silu, x, weight, bias, grad, 4)
    torch.testing.assert_close(found["y"], F.silu(bias).view(1, 16, 1, 1).expand(x.shape))
    assert found["weight"].abs().max() < 1e-3


@EVERY_LAYOUT
@EVERY_DTYPE
def test_cpu_silu_far_from_zero(dtype, layout):
    x, _, _, grad = problem((1, 16, 32, 32), dtype, layout)
    weight, bias = torch.linspace(1, 100, 16), torch.linspace(-50, 50, 16)
    found = run(group_norm_silu, x, weight, bias, grad, 1)
    exact = run(composed, *in_float64((x, weight, bias, grad)), 1)
    tolerance = 1e-5 if dtype is torch.float32 else 2**-8
    for name in ("y", "x", "weight", "bias"):
        scale = exact[name].abs().max().item()
        torch.testing.assert_close(found[name].double(), exact[name], rtol=tolerance, atol=tolerance * scale)


@EVERY_LAYOUT
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", ["x", "weight", "bias", "grad"])
def test_cpu_not_finite_values_come_out_where_pytorch_puts_them(value, where, layout):
    p = dict(zip(("x", "weight", "bias", "grad"), problem((2, 18, 5, 7), layout=layout), strict=True))
    p[where][(1, 4, 2, 3) if where in ("x", "grad") else 4] = value
    found, expected = run(group_norm_silu, **p, groups=3), run(composed, **p, groups=3)
    assert not all(t.isfinite().all() for t in expected.values())
    for name, t in expected.items():
        if value == value and where in ("weight", "grad"):
            # An infinite factor: PyTorch, which multiplies out, has more of ∞ − ∞, and so a NaN for some infinities.
            assert torch.equal(found[name].isfinite(), t.isfinite())
            found[name], t = (each.nan_to_num(0, 0, 0) for each in (found[name], t))
        torch.testing.assert_close(found[name], t, equal_nan=True, rtol=1e-4, atol=1e-4)


@EVERY_DTYPE
def test_cpu_strided_and_expanded(dtype):
    wide, weight, bias, grad = problem((4, 32, 10, 9), dtype)
    x = wide[::2, ::2].transpose(2, 3)
    gradients = {
        "strided": grad[::2, ::2].transpose(2, 3),
        "expanded": grad[:1, :1, :1, :1].expand(x.shape),
        "channels_last": grad[:2, :16].transpose(2, 3).contiguous(memory_format=torch.channels_last),
    }
    for given in (x, wide[:1, :1, :1].expand(2, 16, 9, 9)):
        for g in gradients.values():
            upstream = g if g.shape == given.shape else g[..., :9].contiguous()
            arguments = (weight[::2], bias[:1].expand(16), upstream)
            packed = [t.contiguous() for t in (given, *arguments)]
            found, expected = run(group_norm_silu, given, *arguments, 4), run(group_norm_silu, *packed, 4)
            assert found["y"].is_contiguous()
            assert all(torch.equal(found[name], t) for name, t in expected.items())


@EVERY_LAYOUT
def test_layout_is_kept(layout):
    x, weight, bias, grad = problem((2, 16, 4, 5), layout=layout)
    found = run(group_norm_silu, x, weight, bias, grad.contiguous(), 4)
    assert found["y"].is_contiguous(memory_format=LAYOUTS[layout])
    assert found["x"].is_contiguous(memory_format=LAYOUTS[layout])


@EVERY_DTYPE
@pytest.mark.parametrize("shape", [(0, 16, 3, 3), (2, 16, 0, 3)])
def test_cpu_empty(shape, dtype):
    found = run(group_norm_silu, *problem(shape, dtype), 4)
    assert found["y"].shape == found["x"].shape == shape
    for name in ("weight", "bias"):
        assert torch.equal(found[name], torch.zeros(16))


@EVERY_LAYOUT
@EVERY_DTYPE
def test_cpu_results_do_not_depend_on_the_number_of_threads(dtype, layout):
    p = problem((3, 24, 40, 33), dtype, layout)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(run(group_norm_silu, *p, 4))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[name], t) for name, t in found[0].items())


@EVERY_LAYOUT
@pytest.mark.parametrize("learned", ["x", "weight", "bias"])
def test_cpu_frozen_inputs(learned, layout):
    *tensors, grad = problem((2, 16, 3, 5), torch.bfloat16, layout)
    expected = run(group_norm_silu, *tensors, grad, 4)[learned]
    p = dict(zip(("x", "weight", "bias"), tensors, strict=True))
    p[learned].requires_grad_()
    group_norm_silu(**p, groups=4).backward(grad)
    assert torch.equal(p[learned].grad, expected)
    assert all(t.grad is None for name, t in p.items() if name != learned)


def test_dispatcher_gives_the_same(monkeypatch):
    p = problem((2, 16, 3, 5))
    direct = run(group_norm_silu, *p, 4)
    monkeypatch.setattr(registration, "can_skip_dispatcher", lambda tensors, cast: False)
    dispatched = run(group_norm_silu, *p, 4)
    assert all(torch.equal(direct[name], t) for name, t in dispatched.items())


@EVERY_LAYOUT
@EVERY_DTYPE
def test_opcheck(dtype, layout):
    x, weight, bias, _ = (t.requires_grad_() for t in problem((2, 16, 3, 5), dtype, layout))
    assert_opcheck_passes("group_norm_silu", (x, weight, bias, 4, 1e-6))


@EVERY_LAYOUT
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_and_export(dynamic, layout):
    p = problem((2, 16, 3, 5), torch.bfloat16, layout)
    expected = run(group_norm_silu, *p, 4)
    compiled = torch.compile(group_norm_silu, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    found = run(compiled, *p, 4)
    assert all(torch.equal(found[name], t) for name, t in expected.items())

    class Layer(torch.nn.GroupNorm):
        def forward(self, x):
            return group_norm_silu(x, self.weight, self.bias, self.num_groups, self.eps)

    exported = torch.export.export(Layer(4, 16), (p[0],))
    assert torch.ops.scvae_fast.group_norm_silu.default in [node.target for node in exported.graph.nodes]
    assert torch.equal(exported.module()(p[0]), Layer(4, 16, eps=1e-5)(p[0]))


def test_autocast_leaves_everything_as_it_is():
    p = problem((2, 16, 3, 5), torch.bfloat16)
    expected = run(group_norm_silu, *p, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(group_norm_silu, *p, 4)
        assert group_norm_silu(p[0].float(), *p[1:3], 4).dtype == torch.float32
    assert [t.dtype for t in found.values()] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert all(torch.equal(found[name], t) for name, t in expected.items())


def test_weights_in_bfloat16_get_gradients_in_bfloat16():
    x, weight, bias, grad = (t.bfloat16() for t in problem((2, 16, 3, 5)))
    found = run(group_norm_silu, x, weight, bias, grad, 4)
    widened = run(group_norm_silu, x, weight.float(), bias.float(), grad, 4)
    assert all(torch.equal(found[name], t.bfloat16()) for name, t in widened.items())


@EVERY_LAYOUT
@EVERY_DTYPE
def test_second_derivative(dtype, layout):
    tensors, found = problem((2, 16, 3, 5), dtype, layout), []
    for op in (group_norm_silu, composed):
        x, weight, bias, grad = (t.clone().requires_grad_() for t in tensors)
        first = torch.autograd.grad(op(x, weight, bias, 4), (x, weight, bias), grad, create_graph=True)
        loss = sum(g.square().sum() for g in first)
        found.append([*first, *torch.autograd.grad(loss, (x, weight, bias, grad))])
    tolerance = 1e-4 if dtype is torch.float32 else 5e-2
    for ours, plain in zip(*found, strict=True):
        assert distance(ours.detach(), plain.detach()) <= tolerance


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 16, 3, 4), torch.float64),
        ((2, 16, 3, 4), torch.float16),
        ((2, 16, 3, 4, 5), torch.float32),
        ((2, 16, 3), torch.bfloat16),
        ((2, 16), torch.float32),
    ],
)
def test_what_the_kernels_do_not_take_is_pytorchs(shape, dtype):
    x, weight, bias, grad = problem(shape, dtype)
    if dtype is torch.float64:
        weight, bias = weight.double(), bias.double()
    found, expected = (run(op, x, weight, bias, grad, 4) for op in (group_norm_silu, composed))
    assert all(torch.equal(found[name], t) for name, t in expected.items())


def test_few_channels_last_stay_channels_last():
    x, weight, bias, _ = problem((2, 8, 3, 5), layout="channels_last")
    y = group_norm_silu(x, weight, bias, 4)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, composed(x, weight, bias, 4))


def test_small_inputs_and_missing_kernels_are_pytorchs(monkeypatch):
    x, weight, bias, _ = problem((2, 16, 3, 5), torch.bfloat16)
    expected = composed(x, weight, bias, 4)
    assert not torch.equal(group_norm_silu(x, weight, bias, 4), expected)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_WORTHWHILE", x.numel() + 1)
        assert torch.equal(group_norm_silu(x, weight, bias, 4), expected)
    monkeypatch.setattr(module.native, "missing", "it is not built")
    assert torch.equal(group_norm_silu(x, weight, bias, 4), expected)


def test_other_devices_get_weights_in_the_dtype_of_x():
    x, weight, bias, _ = (t.to("meta") for t in problem((2, 16, 3, 5), torch.bfloat16))
    for op in (group_norm_silu, torch.compile(group_norm_silu, fullgraph=True, backend="aot_eager")):
        assert op(x, weight, bias, 4).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"x": 1.0}, TypeError, "group_norm_silu: x must be a torch.Tensor, got float"),
        ({"x": torch.zeros(2, 6, 3, 3).long()}, TypeError, "group_norm_silu: x must be float32"),
        ({"x": torch.zeros(6)}, ValueError, r"group_norm_silu: x must be \(N, C, …\) with C >= 1, got \[6\]"),
        ({"weight": torch.ones(5)}, ValueError, r"group_norm_silu: weight must be \(C,\) = \[6\], got \[5\]"),
        ({"bias": torch.ones(6, 1)}, ValueError, r"group_norm_silu: bias must be \(C,\) = \[6\], got \[6, 1\]"),
        ({"bias": torch.ones(6).double()}, TypeError, "group_norm_silu: bias must have the dtype of x"),
        ({"weight": torch.ones(6, device="meta")}, ValueError, "group_norm_silu: weight must be on the device of x"),
        ({"groups": 2.0}, TypeError, "group_norm_silu: groups must be an int, got float"),
        ({"groups": 4}, ValueError, "group_norm_silu: groups must divide the 6 channels of x, got 4"),
        ({"groups": 0}, ValueError, "group_norm_silu: groups must divide the 6 channels of x, got 0"),
        ({"eps": -1e-6}, ValueError, "group_norm_silu: eps must be at least 0, got -1e-06"),
    ],
)
def test_bad_input_names_the_argument(bad, error, message):
    arguments = {"x": torch.zeros(2, 6, 3, 3), "weight": torch.ones(6), "bias": torch.zeros(6), "groups": 3}
    with pytest.raises(error, match=message):
        group_norm_silu(**{**arguments, **bad})


def test_the_operation_itself_refuses_what_the_kernels_do_not_take():
    x, weight, bias, _ = problem((2, 16, 3, 5))
    for wrong in ((x.double(), weight.double(), bias.double()), (x[0, :, None], weight[:3], bias[:3])):
        with pytest.raises((TypeError, ValueError), match="group_norm_silu: "):
            torch.ops.scvae_fast.group_norm_silu(*wrong, 1, 1e-6)


@EVERY_LAYOUT
@pytest.mark.parametrize("learned", ["weight", "bias", "both"])
def test_weights_learn_where_x_has_no_gradient(layout, learned, monkeypatch):
    """PyTorch's own group normalisation crashes here if x is channels-last."""
    x = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=LAYOUTS[layout])
    weight, bias = torch.ones(32, requires_grad=learned != "bias"), torch.zeros(32, requires_grad=learned != "weight")
    leaves = [t for t in (weight, bias) if t.requires_grad]
    norm = torch.nn.GroupNorm(8, 32, eps=1e-6)
    norm.weight, norm.bias = torch.nn.Parameter(weight.detach()), torch.nn.Parameter(bias.detach())
    expected = torch.autograd.grad(F.silu(norm(x.contiguous())).sum(), [norm.weight, norm.bias])
    monkeypatch.setattr(module, "_WORTHWHILE", 1 << 20)  # PyTorch takes the call
    found = torch.autograd.grad(group_norm_silu(x, weight, bias, 8).sum(), leaves)
    wanted = expected if learned == "both" else [expected[learned == "bias"]]
    torch.testing.assert_close(found, tuple(wanted), atol=1e-4, rtol=1e-4)
    for parameter, keeps in zip((norm.weight, norm.bias), (learned != "bias", learned != "weight"), strict=True):
        parameter.requires_grad_(keeps)
    plain = torch.autograd.grad(F.silu(normalise(norm, x)).sum(), [p for p in norm.parameters() if p.requires_grad])
    torch.testing.assert_close(plain, tuple(wanted), atol=1e-4, rtol=1e-4)
