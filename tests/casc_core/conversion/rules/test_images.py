"""Convolutional networks as users write them: activations, residuals, convolutions. Exact, and the same function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from named_forwards import Forwards
from torch import nn
from user_cnns import IMAGES, SERIES, Head, check, cnn, conv, converted

CASES = Forwards(IMAGES)
case = CASES.add


# Activations.


@case(a=conv(), b=conv(6), relu=nn.ReLU(), head=Head())
def reused_relu(self, x):
    return self.head(self.relu(self.b(self.relu(self.a(x)))))


@case(a=conv(), b=conv(6), relu=nn.ReLU(inplace=True), head=Head())
def in_place_relu(self, x):
    return self.head(self.relu(self.b(self.relu(self.a(x)))))


@case(a=conv(), b=conv(6), head=Head())
def functional_relu(self, x):
    return self.head(F.relu(self.b(F.relu(self.a(x), inplace=True))))


@case(a=conv(), b=conv(6), head=Head())
def functional_relu_in_place_by_position(self, x):
    x = F.relu(self.a(x), True)
    return self.head(F.relu_(self.b(x)))


@case(a=conv(), b=conv(6), head=Head())
def torch_relu_and_method(self, x):
    return self.head(self.b(torch.relu(self.a(x))).relu())


@case(a=conv(), b=conv(6), c=conv(6), d=conv(6), head=Head())
def relu_methods_in_place(self, x):
    x = self.a(x).relu_()
    x = torch.relu_(self.b(x))
    return self.head(F.relu(self.d(F.relu(input=self.c(x)))))


@case(a=conv(), b=conv(6), c=conv(6), relu6=nn.ReLU6(inplace=True), hard=nn.Hardtanh(0.0, 1.5), head=Head())
def clipped_activations(self, x):
    return self.head(F.hardtanh(self.c(self.hard(self.b(self.relu6(self.a(x * 3))))), 0.0, 0.75))


@case(a=conv(), b=conv(6), head=Head())
def functional_clipped_activations(self, x):
    return self.head(F.hardtanh(self.b(F.relu6(self.a(x) * 4, inplace=True)), min_val=0.0, max_val=2.0, inplace=True))


@case(head=Head(3))
def relu_of_the_image(self, x):
    return self.head(F.relu(x))


# Residuals.


@case(a=conv(), b=conv(6, bias=False), norm=nn.BatchNorm2d(6), relu=nn.ReLU(inplace=True), head=Head())
def residual_after_the_normalisation(self, x):
    x = self.relu(self.a(x))
    y = self.norm(self.b(x))
    y += x
    return self.head(self.relu(y))


@case(a=conv(), b=conv(6, bias=False), norm=nn.BatchNorm2d(6), relu=nn.ReLU(), head=Head())
def residual_before_the_normalisation(self, x):
    x = self.relu(self.a(x))
    return self.head(self.relu(self.norm(self.b(x) + x)))


@case(a=conv(), n1=nn.BatchNorm2d(6), b=conv(6), n2=nn.BatchNorm2d(6), c=conv(6), n3=nn.BatchNorm2d(6), head=Head())
def preactivation_residual(self, x):
    x = self.a(x)
    x = x + self.b(F.relu(self.n1(x)))
    x = x + self.c(F.relu(self.n2(x)))
    return self.head(F.relu(self.n3(x)))


@case(a=conv(), n=nn.BatchNorm2d(6), b=conv(6), c=conv(6), relu=nn.ReLU(), head=Head())
def normalised_spikes_into_padded_convolutions(self, x):
    x = self.n(self.relu(self.a(x)))
    return self.head(self.relu(self.b(x) + self.c(x)))


@case(
    a=conv(), short=conv(6, 8, 1, 0, stride=2, bias=False), norm=nn.BatchNorm2d(8), b=conv(6, 8, stride=2), head=Head(8)
)
def shortcut_by_a_strided_one_by_one(self, x):
    x = F.relu(self.a(x))
    return self.head(F.relu(self.norm(self.short(x)) + self.b(x)))


@case(a=conv(), b=conv(6, 10, stride=2), head=Head(10))
def shortcut_without_parameters(self, x):
    x = F.relu(self.a(x))
    return self.head(F.relu(self.b(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))))


@case(a=conv(), b=conv(6), c=conv(6), d=conv(6), e=conv(6), f=conv(6), relu=nn.ReLU(), head=Head())
def a_sum_of_more_terms_than_a_kernel_reads(self, x):
    x = self.relu(self.a(x))
    return self.head(self.relu(self.b(x) + self.c(x) + x + self.d(x) + self.e(x) + self.f(x)))


@case(a=conv(), b=conv(6), relu=nn.ReLU(), head=Head())
def the_same_convolution_twice_and_a_difference(self, x):
    x = self.relu(self.a(x))
    return self.head(self.relu(self.b(x) - 0.5 * self.b(self.relu(self.b(x))) + 0.25 * x))


@case(a=conv(), b=conv(9, 6), c=conv(15, 6), n=nn.BatchNorm2d(15), relu=nn.ReLU(), head=Head(21))
def dense_blocks(self, x):
    x = torch.cat([x, self.relu(self.a(x))], 1)
    x = torch.cat([x, self.relu(self.b(x))], 1)
    x = torch.cat([x, self.c(self.relu(self.n(x)))], dim=1)
    return self.head(self.relu(x))


@case(a=conv(), b=conv(6, 4, 1, 0), c=conv(6, 4, 5, 2), d=conv(6, 4), n=nn.BatchNorm2d(18), e=conv(18, 6), head=Head())
def normalisation_after_a_concatenation(self, x):
    x = F.relu(self.a(x))
    x = torch.cat((self.b(x), F.relu(self.c(x)), self.d(x), F.max_pool2d(x, 3, 1, 1)), 1)
    return self.head(F.relu(self.e(F.relu(self.n(x)))))


# Convolutions.


@case(a=conv(), b=conv(6, 12, groups=3), c=conv(12, 12, groups=12), d=conv(12, 6, 1, 0), relu=nn.ReLU(), head=Head())
def grouped_and_depthwise(self, x):
    return self.head(self.relu(self.d(self.relu(self.c(self.relu(self.b(self.relu(self.a(x)))))))))


@case(
    a=conv(), wide=conv(6, 12, 1, 0, bias=False), n1=nn.BatchNorm2d(12), deep=conv(12, 12, groups=12, bias=False),
    n2=nn.BatchNorm2d(12), narrow=conv(12, 6, 1, 0, bias=False), n3=nn.BatchNorm2d(6), head=Head(),
)  # fmt: skip
def inverted_residuals(self, x):
    """Nothing spikes where the narrow ends are added: convolutions follow upon sums of convolutions."""
    x = self.a(x)
    for _ in range(3):
        y = F.relu6(self.n2(self.deep(F.relu6(self.n1(self.wide(x))))))
        x = x + self.n3(self.narrow(y))
    return self.head(F.relu(x))


@case(a=conv(), deep=conv(6, groups=6), point=conv(6, 6, 1, 0), n=nn.BatchNorm2d(6), relu=nn.ReLU(), head=Head())
def separable_convolutions(self, x):
    x = self.relu(self.a(x))
    x = self.relu(self.n(self.point(self.deep(x))))
    return self.head(self.relu(self.point(self.deep(x)) + x))


@case(a=conv(padding=2, dilation=2), b=conv(6, 6, (3, 2), (2, 3), dilation=(2, 3), stride=(1, 2)), head=Head())
def dilated(self, x):
    return self.head(F.relu(self.b(F.relu(self.a(x)))))


@case(
    a=conv(kernel=4, padding="same"),
    b=conv(6, 6, (2, 5), "same", dilation=(3, 1)),
    c=conv(6, padding="valid"),
    head=Head(),
)
def padding_same(self, x):
    return self.head(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


@case(
    a=conv(padding_mode="reflect"), b=conv(6, 6, (3, 5), (1, 2), padding_mode="circular"),
    c=conv(6, 6, 4, "same", padding_mode="replicate"), head=Head(),
)  # fmt: skip
def padding_modes(self, x):
    return self.head(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


@case(
    a=conv(padding=0),
    zero=nn.ZeroPad2d((1, 2, 0, 3)),
    b=conv(6, padding=0),
    edge=nn.ReplicationPad2d(1),
    c=conv(6),
    head=Head(),
)
def padding_beforehand(self, x):
    x = F.relu(self.a(F.pad(x, (1, 1, 1, 1), mode="reflect")))
    x = F.relu(self.b(self.zero(x)))
    return self.head(F.relu(self.c(F.pad(self.edge(x), [0, 1, -2, 0], value=0.0))))


@case(a=conv(), b=conv(6, 5), relu=nn.ReLU())
def fully_convolutional(self, x):
    return self.b(self.relu(self.a(x))).mean((2, 3))


@case(a=conv(), b=conv(6, 5), relu=nn.ReLU())
def dense_output(self, x):
    return self.b(self.relu(self.a(x)))


@case(a=conv(), b=conv(6, 4, 1, 0, groups=2), fc=nn.Linear(4, 3))
def functional_convolutions(self, x):
    x = F.relu(F.conv2d(x, self.a.weight, self.a.bias, padding=1, stride=(1, 2)))
    x = torch.conv2d(x, weight=self.b.weight, bias=None, groups=2).relu()
    return F.linear(x.mean([-1, -2]), self.fc.weight, self.fc.bias)


@case(
    SERIES, a=nn.Conv1d(3, 6, 5, padding=2), n=nn.BatchNorm1d(6), b=nn.Conv1d(6, 8, 3, stride=2, groups=2, bias=False),
    m=nn.BatchNorm1d(8), pool=nn.MaxPool1d(3, 1, 1), mean=nn.AvgPool1d(2, padding=1), head=nn.Linear(8, 4),
)  # fmt: skip
def one_dimensional(self, x):
    x = F.relu(self.n(self.a(x)))
    x = F.relu(self.m(self.b(self.pool(x))))
    return self.head(self.mean(x).mean(-1))


@case(
    SERIES,
    a=nn.Conv1d(3, 6, 4, padding="same", padding_mode="circular"),
    b=nn.Conv1d(6, 6, 3, dilation=2),
    head=nn.Linear(6, 4),
)
def one_dimensional_residual(self, x):
    x = F.relu(self.a(x))
    y = F.relu(self.b(F.pad(x, (4, 0))) + x)
    return self.head(F.adaptive_avg_pool1d(y, 1).squeeze(-1))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # torch's own
@pytest.mark.parametrize("name", CASES)
def test_it_is_exact_and_the_same_function(name):
    forward, inputs, layers = CASES[name]
    check(cnn(forward, **layers), *inputs)


def test_a_reused_activation_has_its_own_neurons_at_each_place():
    forward, _, layers = CASES["reused_relu"]
    assert converted(cnn(forward, **layers)).layers == ("relu", "relu#2")
