"""What the Triton kernels are launched with, and compiled for. Nothing is compiled here and nothing is launched: stubs
stand for both.
"""

import importlib.util
import os
from types import SimpleNamespace

import pytest
import torch
from problems import VARIANTS, lista_problem, op_of, record, sparse_code_problem, to, variant

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1",
    reason="kernels are those that triton compiles, in a process that does not interpret them",
)

if importlib.util.find_spec("triton") is not None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import JITFunction, create_function_from_signature

    from scvae_fast.ops.backends import fused
    from scvae_fast.ops.backends.triton import bottleneck, launch, tiles
    from scvae_fast.ops.backends.triton.launch import Choice
    from scvae_fast.ops.problem import Incoming

H200 = tiles.Card((9, 0), 232_448, 132, 50 << 20, "H200")
GRADIENTS = ("x", "W_e", "S", "theta", "D", "gain", "z0", "step", "momentum")


class Compiler:
    """Replaces Triton's: records requests, and reports a given shared memory for kernels."""

    def __init__(self, shared=lambda arguments: 0):
        self.shared, self.keys, self.launched, self._binders = shared, set(), [], {}
        self.backend = make_backend(GPUTarget("cuda", 90, 32))

    def run(self, function, *values, grid, warmup, **arguments):
        if function not in self._binders:
            self._binders[function] = create_function_from_signature(function.signature, function.params, self.backend)
        bound, specialised, options = self._binders[function](*values, **arguments)
        self.keys.add((function.__name__, str(specialised), str(sorted(options.items()))))
        if not warmup:
            self.launched.append((function.__name__, bound, options))
        return SimpleNamespace(metadata=SimpleNamespace(shared=self.shared(bound)))


@pytest.fixture
def compiler(monkeypatch):
    """A stub for Triton's compiler, with no knowledge of earlier compilations."""
    found = Compiler()
    monkeypatch.setattr(JITFunction, "run", lambda function, *values, **more: found.run(function, *values, **more))
    monkeypatch.setattr(launch, "_needed", {})
    return found


def call(p, card=H200):
    """Forward and backward, with every gradient; results are meaningless."""
    kernels = bottleneck.TritonKernels(card)
    fused._code(kernels, p)
    z, x_hat = p.x.new_zeros(len(p.x), p.n_atoms), None if p.D is None else torch.zeros_like(p.x)
    needed = frozenset(name for name in GRADIENTS if getattr(p, name) is not None)
    fused._code_backward(kernels, p, Incoming(z, x_hat, z), needed)


def problem_of(name, M, K, n, T, dtype=torch.float32):
    """One of `VARIANTS`, or plain LISTA."""
    if name in VARIANTS:
        op, tensors, settings = variant(name, M, K, n, T)
        return record(op.__name__, **to(tensors, dtype), **settings)
    tensors = lista_problem(M, K) if name == "lista" else sparse_code_problem(M, K, n)
    return record(op_of(tensors), T, **to(tensors, dtype))


# ---- scratch


@pytest.mark.parametrize(
    ("dtype", "rows", "programs"), [(torch.bfloat16, 128, 132), (torch.float16, 128, 132), (torch.float32, 64, 132)]
)
def test_scratch_of_one_launch_stays_in_the_cache(dtype, rows, programs):
    """At K = 512 two slabs of codes and the drive of 128 rows of 16 bits, or 64 of float32, for each multiprocessor."""
    p = problem_of("sparse_code", 1, 512, 256, 30, dtype)
    p = p._replace(x=p.x.new_empty(65_536, 256, device="meta"))
    kernels = bottleneck.TritonKernels(H200)
    plan = kernels._plan(p, launch.choice(H200, dtype, 65_536, 512))
    assert (plan.tile.rows, plan.programs, plan.by_iteration) == (rows, programs, False)
    assert plan.scratch_bytes == 132 * 128 * 3 * 1024 == 51_904_512 <= H200.cache_bytes
    allocated = bottleneck._Scratch.in_flight(p, plan)
    assert sum(t.nbytes for t in allocated if t is not None) == plan.scratch_bytes


@pytest.mark.parametrize("name", ["lista", "everything of each iteration", "ista", "fista", "autoencoder"])
@pytest.mark.parametrize("way", [False, True])
def test_scratch_is_counted_as_it_is_allocated(name, way):
    p = problem_of(name, 300, 70, 33, 3)
    plan = bottleneck.TritonKernels(H200)._plan(p, Choice(tiles.tiles((9, 0), 4)[-1], way))
    allocated = bottleneck._Scratch.in_flight(p, plan)
    assert sum(t.nbytes for t in allocated if t is not None) == plan.scratch_bytes


# ---- shared memory, as compiled


def rows_of(compiler):
    """The rows of the tiles that products were launched with."""
    return {bound["BLOCK_M"] for name, bound, _ in compiler.launched if name not in ("collect", "outer")}


@pytest.mark.parametrize("way", [False, True])
@pytest.mark.parametrize("name", ["lista", "everything of each iteration", "fista", "autoencoder"])
def test_tile_that_compiles_to_too_much_gives_way_to_the_next_smaller(compiler, name, way):
    table = tiles.tiles((9, 0), 4)
    p = problem_of(name, 20_000, 70, 33, 2)
    compiler.shared = lambda bound: H200.shared_bytes + (bound["BLOCK_M"] == table[0].rows)
    with launch.forced(by_iteration=way):
        assert launch.choice(H200, torch.float32, 20_000, 70).tile == table[0]
        call(p)
    assert rows_of(compiler) == {table[1].rows}


def test_only_one_kernel_of_a_launch_need_be_too_large(compiler):
    """Here only that of the backward pass: the forward pass keeps its tile."""
    table = tiles.tiles((9, 0), 4)
    compiler.shared = lambda bound: H200.shared_bytes + ("adjoints" in bound and bound["BLOCK_M"] == table[0].rows)
    call(problem_of("lista", 20_000, 70, 33, 2))
    rows = [(name, bound["BLOCK_M"]) for name, bound, _ in compiler.launched if name in ("forward", "adjoint")]
    # z, then every z_t with the backward pass's tile.
    assert rows == [("forward", table[0].rows), ("forward", table[1].rows), ("adjoint", table[1].rows)]


def test_products_and_sums_take_smaller_tiles_too(compiler):
    table = tiles.tiles((9, 0), 2)
    left, right = torch.zeros(70_000, 256, dtype=torch.bfloat16), torch.zeros(512, 256, dtype=torch.bfloat16)
    compiler.shared = lambda bound: H200.shared_bytes + (bound["BLOCK_M"] == table[0].rows)
    launch.product(left, right, H200)
    launch.outer(left, left, H200)
    assert [(name, bound["BLOCK_M"]) for name, bound, _ in compiler.launched] == [
        ("product", table[1].rows),
        ("outer", table[1].rows),
    ]


def test_where_no_tile_fits_nothing_is_launched_and_the_error_says_why(compiler):
    compiler.shared = lambda bound: 300_000
    message = (
        "backend 'triton': its smallest tile takes 300000 bytes of shared memory as Triton "
        rf"{triton.__version__} compiles it, but this card allows 232448 per block"
    )
    with pytest.raises(RuntimeError, match=message):
        call(problem_of("lista", 300, 70, 33, 2))
    with pytest.raises(RuntimeError, match=message):
        launch.outer(torch.zeros(9, 4), torch.zeros(9, 4), H200)
    assert not compiler.launched


def test_kernels_that_fit_are_compiled_ahead_once(compiler, monkeypatch):
    p, asked = problem_of("lista", 300, 70, 33, 2), []
    unmet = launch.unmet
    monkeypatch.setattr(launch, "unmet", lambda problem, go: unmet(problem, lambda: asked.append(problem) or go()))
    call(p)
    first = len(asked)
    assert first > 0
    call(p)
    call(p._replace(n_iter=5))
    assert len(asked) == first
    call(p._replace(positive=True))
    assert len(asked) > first


def test_compile_only_mode_is_limited_to_its_thread(compiler):
    """Another thread still launches while this thread only compiles."""
    from concurrent.futures import ThreadPoolExecutor

    left = torch.zeros(16, 64)

    def both():
        launch.product(left, left, H200)  # inside another's `unmet`
        assert not compiler.launched
        with ThreadPoolExecutor(1) as pool:
            pool.submit(launch.product, left, left, H200).result()
        assert len(compiler.launched) == 1

    assert launch.unmet("a problem", both) == 0
    assert not launch._of_thread.compiles_only


# ---- what is compiled anew


@pytest.fixture(params=[False, True], ids=["one launch", "by iteration"])
def way(request):
    with launch.forced(by_iteration=request.param):
        yield


@pytest.mark.parametrize("name", ["lista", "sparse_code", *VARIANTS])
def test_rows_and_iterations_compile_nothing_anew(compiler, name, way):
    """Nor does the start of an iteration's thresholds: 70 float32 values are not a multiple of 16 bytes."""
    call(problem_of(name, 5, 70, 33, 3))
    known = set(compiler.keys)
    assert known
    for M, T in ((1, 2), (15, 16), (16, 17), (17, 3), (100, 32)):
        call(problem_of(name, M, 70, 33, T))
    assert compiler.keys == known


def test_few_kernels_are_compiled_for_all_variants(compiler):
    """Integers are specialised only where this makes loads faster."""
    for by_iteration in (False, True):
        with launch.forced(by_iteration=by_iteration):
            for name in ("lista", "sparse_code", *VARIANTS):
                for M, K, n, T in ((37, 70, 33, 3), (16, 64, 48, 2), (100, 64, 33, 16), (1, 70, 48, 1)):
                    call(problem_of(name, M, K, n, T))
    assert len(compiler.keys) <= 300
