"""What a recurrent layer ends with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from casc_core.extend import Abstract, Connection, Flag, Follower, Op, Run, Signal, settings
from casc_core.operations import meta


class LastState(Op, saved_as="LastState"):
    """`h_n` of one direction: the output at the last real position, or at the first in reverse."""

    SETTINGS = settings(reverse=Flag(), batch_first=Flag())
    connection = Connection.MOVES

    def forward(self, run: Run, output: Signal, lengths: Tensor | None = None) -> Signal:
        positions_axis = 1 if self.settings["batch_first"] else 0
        if self.settings["reverse"]:
            return output.map(lambda x: x.select(positions_axis, 0))
        if lengths is None:
            return output.map(lambda x: x.select(positions_axis, -1))
        last = torch.as_tensor(lengths, device=output.device).long() - 1
        index = last.reshape([-1, 1, 1] if positions_axis == 1 else [1, -1, 1])
        width = output.shape[-1]

        def pick(x: Tensor) -> Tensor:
            shape = list(x.shape)
            shape[positions_axis], shape[-1] = 1, width
            return x.gather(positions_axis, index.expand(shape)).squeeze(positions_axis)

        return output.map(pick)

    def follow(self, follower: Follower, output: Abstract, lengths: Abstract | Tensor | None = None) -> Abstract:
        batch_axis = 0 if self.settings["batch_first"] else 1
        batch, width = output.shape[batch_axis], output.shape[2]
        _, samples = follower.reduced(output, [1 - batch_axis], keepdim=False)
        if lengths is not None and not self.settings["reverse"]:
            rows = Abstract(meta([batch, 1]), samples)
            _, samples = follower.together(rows, _column(lengths))
        return replace(output, like=meta([batch, width]), samples=samples)


def _column(lengths: Abstract | Tensor) -> Abstract | Tensor:
    """`[B]` as `[B, 1]`."""
    return lengths[:, None] if isinstance(lengths, Tensor) else replace(lengths, like=meta([*lengths.shape, 1]))
