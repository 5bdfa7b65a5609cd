"""Features of autograd around a backward pass: checkpoints, hooks, saved tensors, retained graphs, scaled gradients."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from scvae_fast import lista
from transforms.subjects import SUBJECTS, assert_same, in_float64, weighted_sum

EVERY_SUBJECT = pytest.mark.parametrize("name", SUBJECTS)


class Case:
    """A subject with leaves, and what the plain formula gives for them in float64."""

    def __init__(self, name):
        self.name, self.subject = name, SUBJECTS[name]
        self.leaves = {n: t.requires_grad_() for n, t in self.subject.tensors().items()}
        exact = {n: t.requires_grad_() for n, t in in_float64(self.leaves).items()}
        results = self.subject.plain(**exact)
        self.expected = [*results, *torch.autograd.grad(weighted_sum(results), list(exact.values()))]

    def __call__(self):
        return self.subject.call(**self.leaves)

    def gradients(self, loss, **options):
        return torch.autograd.grad(loss, list(self.leaves.values()), **options)

    def check(self, results, gradients):
        assert_same([*results, *gradients], self.expected)


@pytest.fixture(params=SUBJECTS)
def case(request):
    return Case(request.param)


def test_printed_results_show_the_operation():
    b = torch.randn(2, 3, requires_grad=True)
    z = lista(b, torch.zeros(3, 3), 0.1, 1)
    assert "grad_fn=<listaBackward>" in str(z)
    (gradient,) = torch.autograd.grad(z.square().sum(), b, create_graph=True)
    assert "grad_fn=<lista_backwardBackward>" in str(gradient)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(case, reentrant):
    names = list(case.leaves)
    results = checkpoint(
        lambda *values: case.subject.call(**dict(zip(names, values, strict=True))),
        *case.leaves.values(),
        use_reentrant=reentrant,
    )
    weighted_sum(results).backward()
    case.check(results, [t.grad for t in case.leaves.values()])


def test_saved_tensor_hooks(case):
    """Tensors that a hook packs and brings back, as other tensors, elsewhere or from a file."""
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.numpy(force=True).copy(), torch.from_numpy):
        results = case()
    case.check(results, case.gradients(weighted_sum(results)))


def test_save_on_cpu(case):
    with torch.autograd.graph.save_on_cpu():
        results = case()
    case.check(results, case.gradients(weighted_sum(results)))


def test_hooks_that_bring_back_something_else_are_refused():
    """The kernels would read beyond its end."""
    for name in (n for n in SUBJECTS if not n.startswith("soft")):
        case = Case(name)
        for change in (lambda t: t[..., :-1], lambda t: t.half() if t.dtype == torch.float32 else t.float()):
            with torch.autograd.graph.saved_tensors_hooks(
                lambda t: t, lambda t, change=change: change(t) if t.dim() > 1 else t
            ):
                results = case()
            with pytest.raises((TypeError, ValueError, RuntimeError)):
                case.gradients(weighted_sum(results))


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled:UserWarning")
def test_anomaly_mode(case):
    with torch.autograd.detect_anomaly(check_nan=True):
        results = case()
        case.check(results, case.gradients(weighted_sum(results)))


def test_graph_that_is_kept(case):
    results = case()
    loss = weighted_sum(results)
    first = case.gradients(loss, retain_graph=True)
    second = case.gradients(loss, retain_graph=True)
    case.check(results, first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    case.gradients(loss)
    with pytest.raises(RuntimeError, match="second time"):
        case.gradients(loss)


@pytest.mark.parametrize("name", SUBJECTS)
def test_change_in_place_before_the_backward_pass_raises(name):
    for changed in SUBJECTS[name].tensors():
        case = Case(name)
        results = case()
        with torch.no_grad():
            case.leaves[changed].add_(1)
        if (name == "group_norm_silu" and changed == "bias") or name == "soft_threshold":
            continue  # PyTorch's own formula does not need it
        if name.startswith("SparseAutoencoder") and changed in ("x", "b_enc", "b_dec"):
            continue  # a difference or a sum of it is kept, not the tensor itself
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            case.gradients(weighted_sum(results))


def test_results_may_be_changed_in_place(case):
    """Unless the backward pass needs the result: then it raises."""
    results = case()
    loss = sum(r.mul_(2.0).sum() for r in results)
    if not case.name.startswith(("decode", "group_norm_silu", "soft_threshold")):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            case.gradients(loss)
    else:
        assert_same(case.gradients(loss), case.gradients(sum(2 * r.sum() for r in case())))


def test_hooks_of_tensors_and_nodes(case):
    seen = []
    results = case()
    # A reconstruction from the codes that are returned: a hook of theirs sees the gradient of both.
    factor = 1 if "of k codes" in case.name else 2
    for result in results:
        result.register_hook(lambda g: seen.append("result") or factor * g)
        result.grad_fn.register_prehook(lambda grads: seen.append("node"))
    for leaf in case.leaves.values():
        leaf.register_hook(lambda g: seen.append("leaf") or g / factor)
    case.check(results, case.gradients(weighted_sum(results)))
    assert {"result", "node", "leaf"} == set(seen)


def test_gradients_of_some_arguments(case):
    results = case()
    for i, leaf in enumerate(case.leaves.values()):
        (found,) = torch.autograd.grad(weighted_sum(results), leaf, retain_graph=True)
        assert_same(found, case.expected[len(results) + i])
    for name in case.leaves:
        leaves = {n: t.detach().requires_grad_(n == name) for n, t in case.leaves.items()}
        (found,) = torch.autograd.grad(weighted_sum(case.subject.call(**leaves)), leaves[name])
        assert_same(found, case.expected[len(results) + list(leaves).index(name)])


def test_the_same_tensor_twice():
    """As drive and start, or weight and dictionary: gradients, and second derivatives, add up."""
    for name in (n for n in SUBJECTS if n.startswith("lista from z0")):
        subject, found = SUBJECTS[name], []
        for function, tensors in ((subject.call, subject.tensors()), (subject.plain, in_float64(subject.tensors()))):
            b = tensors.pop("b").requires_grad_()
            tensors.pop("z0")
            (gradient,) = torch.autograd.grad(weighted_sum(function(b=b, z0=b, **tensors)), b, create_graph=True)
            found.append([gradient, *torch.autograd.grad(gradient.square().sum(), b)])
        assert_same(*found)


def test_scaled_gradients(case):
    """GradScaler: a loss of 2¹⁶ times the size, and gradients that it divides again."""
    optimizer = torch.optim.SGD(list(case.leaves.values()), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    results = case()
    scaler.scale(weighted_sum(results)).backward()
    scaler.unscale_(optimizer)
    case.check(results, [t.grad for t in case.leaves.values()])
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**16


def test_no_grad_inference_mode_and_detached_arguments(case):
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            results = case()
        assert all(not r.requires_grad for r in results)
        assert_same(results, case.expected[: len(results)])
    made = {n: t.detach().clone() for n, t in case.leaves.items()}
    with torch.inference_mode():
        made = {n: t.clone() for n, t in made.items()}
    assert_same(case.subject.call(**made), case.expected[: len(results)])


def test_batched_gradients(case):
    """is_grads_batched: one vmap over many backward passes."""
    results = case()
    for i, result in enumerate(results):
        basis = torch.eye(result.numel(), dtype=result.dtype, device=result.device).view(-1, *result.shape)
        found = case.gradients(result, grad_outputs=basis, is_grads_batched=True, retain_graph=True)
        leaves = {n: t.requires_grad_() for n, t in in_float64(case.leaves).items()}
        plain = case.subject.plain(**leaves)[i]
        expected = torch.autograd.grad(
            plain, list(leaves.values()), basis.cpu().double(), is_grads_batched=True, allow_unused=True
        )
        for a, b in zip(found, expected, strict=True):
            assert_same(a, torch.zeros_like(a) if b is None else b)


@pytest.mark.parametrize("name", [n for n in SUBJECTS if "cpu" in n or n == "group_norm_silu"])
def test_functional_jacobian_and_hessian(name):
    """torch.autograd.functional, in both of its strategies."""
    subject = SUBJECTS[name]
    tensors, exact = subject.tensors(), in_float64(subject.tensors())

    def of(function, names):
        return lambda *values: weighted_sum(function(**dict(zip(names, values, strict=True))))

    # PyTorch's group normalisation has no second derivative under its vmap.
    for vectorize in (False,) if name == "group_norm_silu" else (False, True):
        found, expected = (
            torch.autograd.functional.hessian(of(f, t), tuple(t.values()), vectorize=vectorize)
            for f, t in ((subject.call, tensors), (subject.plain, exact))
        )
        assert_same(found, expected)
