"""The four α networks: dense formulas, and the properties of each."""

import pytest
import torch
import torch.nn.functional as F

from scvae_fast.nn.attention import (
    ConstantAlpha,
    EquivariantAlpha,
    GraphAttentionAlpha,
    GraphConvolutionAlpha,
    GridAttention,
    alpha_network,
)

NAMES = ["constant", "eq", "GAT", "SSGC"]
B, H, W, N, K = 2, 3, 5, 4, 6


@pytest.fixture
def sq_err():
    return torch.rand(B, H, W, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def codes():
    return torch.randn(B, H, W, K, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


def network(name):
    torch.manual_seed(0)
    return alpha_network(name, N, K, hidden=7).double().eval()


def adjacency(h, w):
    """(h·w, h·w), 1 between a position and itself or a neighbour at distance 1."""
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1).double()
    return (torch.cdist(places, places) <= 1).double()


def dense_layer(layer, x, adjacent):  # x: (B, h·w, in_features)
    heads = []
    for weight, (own, other) in zip(layer.weight, layer.score, strict=True):
        features = x @ weight
        scores = F.leaky_relu((features @ own)[:, :, None] + (features @ other)[:, None, :], 0.2)
        scores = scores.masked_fill(adjacent == 0, float("-inf"))
        heads.append(scores.softmax(2) @ features)
    return torch.cat(heads, 2)


def test_graph_attention_is_masked_dense_attention(sq_err, codes):
    net = network("GAT")
    adjacent, flat = adjacency(H, W), codes.flatten(1, 2)
    hidden = F.elu(dense_layer(net.layer1, flat, adjacent))
    expected = F.elu(dense_layer(net.layer2, hidden, adjacent)).softmax(1).view(B, H, W, 1)
    torch.testing.assert_close(net(sq_err, codes), expected)


def test_graph_convolution_is_the_dense_formula(sq_err, codes):
    net = network("SSGC")
    flat = codes.flatten(1, 2)
    expected = net.linear(0.5 * flat + 0.5 * adjacency(H, W) @ flat).softmax(1).view(B, H, W, 1)
    torch.testing.assert_close(net(sq_err, codes), expected)


def test_equivariant_formula(sq_err, codes):
    net = network("eq")
    below = sq_err - sq_err.amax((1, 2), keepdim=True)
    hidden = torch.sigmoid(below @ net.linear1.weight.T + net.linear1.bias)
    below = hidden - hidden.amax((1, 2), keepdim=True)
    logits = torch.sigmoid(below @ net.linear2.weight.T + net.linear2.bias)
    expected = logits.flatten(1).softmax(1).view(B, H, W, 1)
    torch.testing.assert_close(net(sq_err, codes), expected)


def test_constant(sq_err, codes):
    alpha = network("constant")(sq_err, codes)
    assert alpha.shape == sq_err.shape
    assert torch.equal(alpha, torch.full_like(sq_err, 1 / (H * W * N)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid", [(1, 1), (1, 4), (3, 1), (2, 2), (8, 8)])
def test_weights_of_a_picture_sum_to_one(name, grid):
    sq_err, codes = torch.rand(2, *grid, N).double(), torch.randn(2, *grid, K).double()
    alpha = network(name)(sq_err, codes)
    assert alpha.shape[:3] == (2, *grid)
    assert alpha.ge(0).all()
    torch.testing.assert_close(alpha.sum((1, 2, 3)), torch.ones(2).double())


def test_equivariant_network_is_equivariant(sq_err, codes):
    net = network("eq")
    order = torch.randperm(H * W, generator=torch.Generator().manual_seed(3))

    def permuted(grid):
        return grid.flatten(1, 2)[:, order].view(grid.shape)

    torch.testing.assert_close(net(permuted(sq_err), permuted(codes)), permuted(net(sq_err, codes)))


@pytest.mark.parametrize("name", ["GAT", "SSGC"])
def test_graph_networks_know_neighbours(name, sq_err, codes):
    net = network(name)
    mirrored = net(sq_err.flip(2), codes.flip(2)).flip(2)
    torch.testing.assert_close(mirrored, net(sq_err, codes))
    shuffled = codes.flatten(1, 2).roll(2, 1).view(codes.shape)
    rolled = net(sq_err, codes).flatten(1).roll(2, 1).view(B, H, W, 1)
    assert not torch.allclose(net(sq_err, shuffled), rolled)


@pytest.mark.parametrize("name", NAMES[1:])
def test_gradients(name, sq_err, codes):
    net = network(name)
    inputs = sq_err.requires_grad_(), codes.requires_grad_()
    weight = torch.rand(B, H, W, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *arguments: net(*arguments) * weight, inputs)
    (net(*inputs) * weight).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.compiles
@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_graph_breaks(name, sq_err, codes):
    net = network(name)
    compiled = torch.compile(net, fullgraph=True, backend="eager", dynamic=True)
    torch.testing.assert_close(compiled(sq_err, codes), net(sq_err, codes))
    smaller = sq_err[:1, :2], codes[:1, :2]
    torch.testing.assert_close(compiled(*smaller), net(*smaller))


def test_dropout_acts_in_training_only(sq_err, codes):
    net = network("GAT")
    assert torch.equal(net(sq_err, codes), net(sq_err, codes))
    net.train()
    assert not torch.equal(net(sq_err, codes), net(sq_err, codes))


def test_sizes_of_the_parameters():
    assert isinstance(network("constant"), ConstantAlpha)
    assert not list(network("constant").parameters())
    eq = alpha_network("eq", 256, 512)
    assert isinstance(eq, EquivariantAlpha)
    assert eq.linear1.weight.shape == (64, 256)
    gat = alpha_network("GAT", 256, 512)
    assert isinstance(gat, GraphAttentionAlpha)
    assert gat.layer1.weight.shape == (6, 512, 64)
    assert gat.layer2.weight.shape == (1, 384, 1)
    assert isinstance(alpha_network("SSGC", 256, 512), GraphConvolutionAlpha)


def test_heads_start_alike_in_scale():
    torch.manual_seed(0)
    layer = GridAttention(40, 30, heads=3, dropout=0.0)
    limit = 2**0.5 * (6 / 70) ** 0.5
    assert layer.weight.abs().amax((1, 2)).le(limit).all()
    assert layer.weight.abs().amax((1, 2)).ge(0.9 * limit).all()


def test_unknown_name():
    with pytest.raises(ValueError, match=r"name must be one of .*, got 'mean'"):
        alpha_network("mean", N, K)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_belong_together(name, sq_err, codes):
    with pytest.raises(ValueError, match=r"Alpha: sq_err must be \(B, h, w, n\) and codes"):
        network(name)(sq_err, codes[:, :-1])
    with pytest.raises(ValueError, match=r"got \(3, 5, 4\) and \(3, 5, 6\)"):
        network(name)(sq_err[0], codes[0])
