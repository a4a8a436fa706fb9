"""Bare products: all of a piece of work is recorded, counted and made again, and nothing else."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmark.throughput.limits import Products

BATCH, SIDE, CHANNELS, OUT = 4, 10, 8, 5


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, CHANNELS, 3), nn.ReLU(), nn.Flatten(), nn.Linear(CHANNELS * 8 * 8, OUT))


def test_a_step_s_products_are_counted_forward_and_backward():
    net, pixels = network(), torch.randn(BATCH, 3, SIDE, SIDE)
    found = Products.recorded(lambda: net(pixels).sum().backward())
    convolution = 2 * BATCH * CHANNELS * 8 * 8 * 3 * 9
    linear = 2 * BATCH * CHANNELS * 8 * 8 * OUT
    # Backward: the gradient of the weights of both, and of the linear layer's input (pixels want none).
    assert found.flops == 2 * convolution + 3 * linear


def test_a_replay_makes_the_same_products_and_nothing_besides():
    net, pixels = network(), torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    found = Products.recorded(lambda: net(pixels).sum().backward())
    again = Products.recorded(found.replay())
    assert (len(again), again.flops) == (len(found), found.flops)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found.replay()()
    assert not any("relu" in event.key or "threshold" in event.key for event in profile.key_averages())


def test_operands_keep_their_shapes_and_layouts():
    """A transposed operand is read by column in the replay, too."""
    left, right = torch.randn(4, 3, requires_grad=True), torch.randn(5, 3).T.requires_grad_()
    calls: list[list[tuple[tuple[int, ...], tuple[int, ...]]]] = []

    class Operands(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket is torch.ops.aten.mm:
                calls[-1].append([(tuple(a.shape), a.stride()) for a in args])
            return func(*args, **(kwargs or {}))

    def operands(work):
        calls.append([])
        with Operands():
            work()
        return calls[-1]

    wanted = operands(lambda: (left @ right).sum().backward())
    found = Products.recorded(lambda: (left @ right).sum().backward())
    assert found.flops == 3 * 2 * 4 * 3 * 5
    assert len(wanted) == 3 and operands(found.replay()) == wanted


def test_nothing_is_computed_to_count_on_meta_tensors():
    with torch.device("meta"):
        left, right = torch.randn(10**6, 10**6), torch.randn(10**6, 10**6)
    assert Products.recorded(lambda: left @ right).flops == 2 * 10**18


def test_replays_leave_the_work_s_tensors_alone():
    weight, data = torch.randn(6, 6), torch.randn(3, 6)
    before = (weight.clone(), data.clone())
    Products.recorded(lambda: data @ weight).replay()()
    assert torch.equal(weight, before[0]) and torch.equal(data, before[1])


def test_attention_and_lstms_count_on_a_cpu():
    layer, rows = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 5, 8)
    found = Products.recorded(lambda: layer(rows, rows, rows, need_weights=False)[0].sum().backward())
    projections = 2 * (2 * 5) * 8 * (3 * 8 + 8)
    attention = 2 * (2 * 2 * 5 * 5 * 4)
    assert found.flops > projections + attention + 2.5 * attention
    lstm = nn.LSTM(4, 6, batch_first=True)
    words = torch.randn(2, 3, 4)
    with torch.no_grad():
        found = Products.recorded(lambda: lstm(words))
    assert found.flops == 2 * (2 * 3) * 4 * 6 * (4 + 6)
    found.replay()()


def test_broadcast_and_empty_operands_can_be_replayed():
    row, empty = torch.randn(1, 4).expand(3, 4), torch.randn(0, 4)
    found = Products.recorded(lambda: (row @ torch.randn(4, 2), empty @ torch.randn(4, 2)))
    assert len(found) == 2 and found.flops == 2 * 3 * 4 * 2
    found.replay()()
