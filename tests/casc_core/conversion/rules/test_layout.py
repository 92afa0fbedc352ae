"""Rearrangements of images: shuffles, padding, upsampling, slices, views. Exact, and the same function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from user_cnns import IMAGES, Head, check, cnn, conv


def channel_shuffle_by_view(self, x):
    x = self.relu(self.grouped(self.relu(self.a(x))))
    n, c, h, w = x.size()
    x = x.view(n, 2, c // 2, h, w)
    x = torch.transpose(x, 1, 2).contiguous().view(n, -1, h, w)
    return self.head(self.relu(self.grouped(x)))


def channel_shuffle_by_reshape(self, x):
    x = self.relu(self.a(x))
    n, c, h, w = x.shape
    x = x.reshape(n, 3, c // 3, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)
    return self.head(self.relu(self.grouped(x)))


def channel_shuffle_by_a_module(self, x):
    return self.head(self.relu(self.grouped(self.shuffle(self.relu(self.grouped(self.relu(self.a(x))))))))


def channel_split(self, x):
    """As ShuffleNet: half of the channels pass."""
    x = self.relu(self.a(x))
    x1, x2 = x.chunk(2, dim=1)
    x = torch.cat((x1, self.relu(self.some(x2))), dim=1)
    left, right = torch.split(F.channel_shuffle(x, 2), 3, 1)
    return self.head(torch.cat([self.relu(self.some(left)), right], 1))


def upsample_by_a_module(self, x):
    x = self.relu(self.a(x))
    y = self.relu(self.b(F.max_pool2d(x, 2)))
    return self.head(self.relu(self.b(self.up(y) + x)))


def interpolate(self, x):
    x = self.relu(self.a(x))
    x = F.interpolate(x, scale_factor=2, mode="nearest")
    x = F.interpolate(self.relu(self.b(x)), size=(5, 7))
    x = F.interpolate(self.relu(self.b(x)), size=9, mode="nearest-exact")
    return self.head(self.relu(self.b(x)))


def interpolate_to_the_size_of_another(self, x):
    x = self.relu(self.a(x))
    y = self.relu(self.b(F.max_pool2d(x, 3, 2)))
    return self.head(self.relu(self.b(F.interpolate(y, size=x.shape[2:], mode="nearest") + x)))


def interpolate_the_image_and_the_currents(self, x):
    x = self.a(F.interpolate(x, scale_factor=(0.5, 2.0), mode="nearest"))
    return self.head(self.relu(F.interpolate(x, scale_factor=1.5)))


def pixel_shuffles(self, x):
    x = self.relu(self.wide(self.relu(self.a(x))))
    x = self.relu(self.b(self.pixels(x)))
    return self.head(self.relu(self.b(F.pixel_shuffle(self.wide(x), 2))))


def space_to_depth(self, x):
    """As the focus layer of YOLO, and as a module."""
    x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
    x = self.relu(self.twelve(x))
    return self.head(self.relu(self.many(self.unpixels(x))) + self.relu(self.many(F.pixel_unshuffle(x, 2))))


def paddings_of_spikes(self, x):
    x = self.relu(self.a(x))
    y = F.pad(x, (1, 2, 0, 1)) + F.pad(x, [2, 1, 1, 0], mode="replicate")
    y = self.relu(self.b(F.pad(y, (2, 2, 3, 1), "reflect")))
    return self.head(self.relu(self.b(F.pad(y, (1, 0, 0, 1), mode="circular"))))


def paddings_of_currents(self, x):
    return self.head(self.relu(F.pad(self.b(F.pad(self.a(x), (1, 1, 1, 1), "reflect")), (0, 1, 2, 0))))


def paddings_by_modules(self, x):
    x = self.relu(self.a(nn.functional.pad(x, (-1, 0, 0, -1))))
    for layer in self.padders:
        x = layer(x)
    return self.head(self.relu(self.b(x)))


def crops_and_flips(self, x):
    x = self.relu(self.a(x))
    x = x[:, :, 1:-1, 2:] + x.flip(3)[..., :6, :6] + x.roll(1, 2)[:, :, 2:, 2:]
    return self.head(self.relu(self.b(x)))


def views_and_transposes(self, x):
    x = self.relu(self.a(x))
    n = x.shape[0]
    rows = self.fc(x.flatten(2).transpose(1, 2).reshape(-1, 6)).view(n, 64, 4)
    return rows.amax(1) + self.fc(x.permute(0, 2, 3, 1)).mean((1, 2))


def patches_as_channels(self, x):
    """Linear layers over positions, channels last, between convolutions."""
    x = self.relu(self.a(x)).permute(0, 2, 3, 1)
    x = self.relu(self.rows(x)).permute(0, 3, 1, 2)
    return self.head(self.relu(self.b(x)))


def unflatten_and_squeeze(self, x):
    x = torch.flatten(self.pool(self.relu(self.a(x))), start_dim=1)
    x = self.relu(self.rows(x)).unflatten(1, (6, 1, 1))
    return self.fc(self.relu(self.point(self.unflatten(x.squeeze(-1).squeeze(-1)))).squeeze(3).squeeze(2))


def stack_and_sum(self, x):
    x = self.relu(self.a(x))
    return self.head(self.relu(torch.stack([self.b(x), x, self.b(x.flip(2))]).sum(0)))


def stack_and_maximum(self, x):
    x = self.relu(self.a(x))
    return self.head(self.relu(torch.stack([self.b(x), x], dim=1).max(1).values))


FORWARDS = [
    channel_shuffle_by_view, channel_shuffle_by_reshape, channel_shuffle_by_a_module, channel_split, upsample_by_a_module,
    interpolate, interpolate_to_the_size_of_another, interpolate_the_image_and_the_currents, pixel_shuffles, space_to_depth,
    paddings_of_spikes, paddings_of_currents, paddings_by_modules, crops_and_flips, views_and_transposes,
    patches_as_channels, unflatten_and_squeeze, stack_and_sum, stack_and_maximum,
]  # fmt: skip


@pytest.mark.parametrize("forward", FORWARDS, ids=lambda forward: forward.__name__)
def test_it_is_exact_and_the_same_function(forward):
    padders = (
        nn.ZeroPad2d(1), nn.ConstantPad2d((0, 1, 0, 0), 0.0), nn.ReflectionPad2d((1, 0, 2, 1)), nn.ReplicationPad2d(1),
        nn.CircularPad2d((0, 1, 1, 0)),
    )  # fmt: skip
    model = cnn(
        forward, a=conv(), b=conv(6), grouped=conv(6, groups=2), some=conv(3, 3), wide=conv(6, 24), twelve=conv(12),
        many=conv(24), point=conv(6, 6, 1, 0), relu=nn.ReLU(), head=Head(), fc=nn.Linear(6, 4), rows=nn.Linear(6, 6),
        shuffle=nn.ChannelShuffle(3), up=nn.Upsample(scale_factor=2), pixels=nn.PixelShuffle(2),
        unpixels=nn.PixelUnshuffle(2),
        padders=nn.ModuleList(padders), pool=nn.AdaptiveAvgPool2d(1), unflatten=nn.Unflatten(1, (6, 1, 1)),
    )  # fmt: skip
    check(model, IMAGES)
