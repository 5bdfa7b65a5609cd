"""The measured tensors: requested density and start, and detection of rows near a tie."""

import pytest
import torch

from benchmarks import formulas, problems
from benchmarks.cases import FORWARD, Case


@pytest.mark.parametrize("start", ["official", "paper"])
@pytest.mark.parametrize("dictionary", ["dct", "random"])
@pytest.mark.parametrize("density", [0.05, 0.5, 1.0])
def test_the_final_codes_have_the_density_asked_for(dictionary, density, start):
    case = Case("lista", FORWARD, rows=512, n_iter=4, density=density, atoms=128, dictionary=dictionary, start=start)
    *_, z = problems.iterates(problems.problem(case))
    assert abs(formulas.density(z) - density) < 0.03


def test_the_released_start_scales_the_drive_by_c():
    case = Case("lista", FORWARD, rows=4, atoms=128)
    official = problems.problem(case)
    assert official.gain is official.c
    torch.testing.assert_close(official.c * official.W_e, official.D.T)
    assert problems.problem(case._replace(start="paper")).gain is None


def test_tensors_are_of_the_dtype_and_sampled_rows_evenly_spaced():
    p = problems.problem(Case("lista", FORWARD, rows=10, atoms=128, dtype="bfloat16"))
    assert {tensor.dtype for tensor in p if isinstance(tensor, torch.Tensor)} == {torch.bfloat16}
    sample, step = p.sampled(4)
    assert step == 2
    assert torch.equal(sample.x, p.x[::2])
    assert p.sampled(100)[1] == 1


def test_rows_where_a_rounding_could_switch_a_code_are_known():
    p = problems.problem(Case("lista", FORWARD, rows=48, n_iter=2, atoms=128)).to(dtype=torch.float64)
    near = problems.near_a_tie(p)
    assert not near.all()
    first = torch.zeros_like(p.x[:1])
    first[0, 0] = p.theta / (p.W_e[0, 0] * p.c)  # a drive at its threshold
    assert problems.near_a_tie(p._replace(x=first)).all()
