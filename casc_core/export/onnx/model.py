"""Writing a network's reference as an ONNX model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from casc_core.engine.leaves import leaves
from casc_core.engine.network import Network
from casc_core.engine.program import Program, Readout, substitute
from casc_core.errors import ConfigError, ConversionError, ExactnessError, InputError
from casc_core.export.onnx.graph import Body, Graph, SymbolicTensor, sizes_of
from casc_core.export.onnx.rules import RULES
from casc_core.export.onnx.signals import SymbolicSignal, Writer
from casc_core.export.rules import called
from casc_core.storage.files import write_whole

OPSET, IR_VERSION = 20, 9
"""Of the standard's versions the oldest that has all operators, so that older runtimes read it."""
LARGEST_FILE = 2**31 - 1
"""Bytes that one file of the format holds."""
SINGLE = "logits"


Shapes = Mapping[str, tuple[int | str, ...]]
"""By name, the size of each dimension: a number, or a word for what may vary."""


@dataclass(frozen=True)
class WrittenModel:
    """What is known of a model that has been written.

    Attributes:
        inputs, outputs: their sizes.
    """

    inputs: Shapes
    outputs: Shapes


def write_onnx(
    file: str | Path, network: Network, program: Program, inputs: Mapping[str, Tensor], batch: Mapping[str, int | None]
) -> WrittenModel:
    """Write a network's reference to a file, whole or not at all.

    Args:
        inputs: an example of each, by name. batch: the dimension of each that counts samples.

    Raises:
        ConfigError: onnx is not installed.
        ConversionError: an operation cannot be written. ExactnessError: its sums might round.
        StorageError: the file cannot be written.
    """
    onnx = _onnx()
    varying = {(name, dim): "batch" for name, dim in batch.items() if dim is not None}
    graph = _written(network, program, inputs, varying)
    for further in _candidates(inputs, varying):
        try:
            graph = _written(network, program, inputs, varying | further)
        except (ConversionError, ExactnessError):  # nothing bounds it, or something needs its size
            continue
        varying |= further
    # A size is called what it varies with; one that several things decide has no name.
    words = dict(_varying_sizes(graph, varying))

    def shapes(tensors: Sequence[SymbolicTensor]) -> Shapes:
        return {
            each.name: tuple(
                first if first == second else words.get((first, second), "") for first, second in sizes_of(each.like)
            )
            for each in tensors
        }

    written = WrittenModel(shapes(graph.body.inputs), shapes(graph.body.outputs))
    model = _model(onnx, graph, written)
    if model.ByteSize() > LARGEST_FILE:
        raise ConversionError(f"as ONNX it takes {model.ByteSize():,} bytes; one file holds {LARGEST_FILE:,}")
    write_whole(Path(file), model.SerializeToString(deterministic=True))
    return written


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise ConfigError('ONNX models are written with the package onnx: pip install "casc[onnx]"') from error
    return onnx


def _candidates(
    inputs: Mapping[str, Tensor], known: Mapping[tuple[str, int], str]
) -> Iterator[dict[tuple[str, int], str]]:
    """Dimensions besides the batch that might vary, those of one size together: lengths of sequences, not of images."""
    groups: dict[int, dict[tuple[str, int], str]] = {}
    for name, value in inputs.items():
        for dim, size in enumerate(value.shape):
            if (name, dim) not in known and value.dim() <= 3:
                group = groups.setdefault(size, {})
                group[name, dim] = next(iter(group.values()), f"{name}_{dim}")
    return iter(groups.values())


def _written(
    network: Network, program: Program, inputs: Mapping[str, Tensor], varying: Mapping[tuple[str, int], str]
) -> Graph:
    """The graph, where these dimensions of inputs vary, each called by a word."""
    graph, settings = Graph(), network.settings
    writer = Writer(graph, settings.numerics, settings.levels)
    words = list(dict.fromkeys(varying.values()))
    values: dict[str, Any] = {}
    for name, value in inputs.items():
        others = [
            # At the other size, no two are alike.
            size + 2 * words.index(varying[name, dim]) + 1 if (name, dim) in varying else size
            for dim, size in enumerate(value.shape)
        ]
        like = (value.to("meta"), torch.empty(others, dtype=value.dtype, device="meta"))
        values[name] = SymbolicTensor(name, like)
        graph.body.inputs.append(values[name])
    for step in program.steps:
        op = network.ops[step.op]
        rule = RULES.rule_of(op)
        args, kwargs = substitute((step.args, dict(step.kwargs)), values)
        for each in leaves((args, kwargs)):
            if isinstance(each, SymbolicSignal) and not each.is_on_grid:
                raise ExactnessError(f"{called(op)}: what it reads is on no grid, and only a readout may be")
        try:
            values[step.result] = rule(writer, op, *args, **kwargs)
        except (InputError, RuntimeError, IndexError) as error:
            raise RULES.refused(op, str(error)) from error
    names = [SINGLE] if program.returned.is_single else list(program.returned.names)
    read = [
        _read_out(writer, values[output.ref.name], output)
        if isinstance(output, Readout)
        else graph.tensor(values[output.name])
        for output in program.outputs
    ]
    holds = _all(graph)
    for name, output, given in zip(names, program.outputs, read, strict=True):
        if isinstance(output, Readout) and holds is not None:
            given = graph.where(holds, given, graph.tensor(math.nan, given.dtype))
        graph.body.outputs.append(graph.named(given, name))
    return graph


def _read_out(writer: Writer, output: Any, readout: Readout) -> SymbolicTensor:
    """The logits: `scale * (sum of currents) / divisor / levels`, rounded last, as a run's are."""
    graph = writer.graph
    if not isinstance(output, SymbolicSignal):
        raise ConversionError(f"the network's output is a {type(output).__name__}, and not computed by its neurons")
    if not output.is_rounded:
        reach = 0.0 if writer.is_as_trained else output.reach
        writer.check(writer.levels * (output.bound + reach), readout.exponent, "the readout")
    total = writer.full(writer.all_of(output), output)
    if output.divisor != 1.0:
        total = graph.div(total, output.divisor)
    logits = graph.div(graph.mul(total, readout.scale), float(writer.levels))
    return graph.cast(logits, torch.float32)


def _all(graph: Graph) -> SymbolicTensor | None:
    """Whether all conditions hold; None: there are none."""
    if not graph.conditions:
        return None
    scalar = torch.empty((), dtype=torch.bool, device="meta")
    each = [graph.unsqueeze(SymbolicTensor(name, (scalar, scalar)), 0) for name in dict.fromkeys(graph.conditions)]
    return graph.apply("ReduceMin", lambda x: x.all(), graph.concat(each, 0), keepdims=0)


def _varying_sizes(graph: Graph, varying: Mapping[tuple[str, int], str]) -> Iterator[tuple[tuple[int, int], str]]:
    """The two sizes of each dimension of an input that varies, and what it is called."""
    for each in graph.body.inputs:
        for dim, sizes in enumerate(sizes_of(each.like)):
            if (each.name, dim) in varying:
                yield sizes, varying[each.name, dim]


def _model(onnx: Any, graph: Graph, written: WrittenModel) -> Any:
    """The model of a graph whose inputs and outputs have these sizes."""
    helper = onnx.helper

    def values(tensors: Sequence[SymbolicTensor], shapes: Shapes | None) -> list[Any]:
        return [
            helper.make_tensor_value_info(
                each.name, _type(onnx, each.dtype), None if shapes is None else shapes[each.name]
            )
            for each in tensors
        ]

    def attribute(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return _type(onnx, value)
        if isinstance(value, Body):
            inner = values(value.inputs, None), values(value.outputs, None)
            return helper.make_graph(nodes(value), "body", *inner)
        return value

    def nodes(body: Body) -> list[Any]:
        return [
            helper.make_node(
                node.operator,
                node.inputs,
                node.outputs,
                **{key: attribute(each) for key, each in node.attributes.items()},
            )
            for node in body.nodes
        ]

    constants = [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    whole = helper.make_graph(
        nodes(graph.body),
        "reference",
        values(graph.body.inputs, written.inputs),
        values(graph.body.outputs, written.outputs),
        constants,
    )
    made = helper.make_model(
        whole, producer_name="casc", ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    onnx.checker.check_model(made)
    return made


def _type(onnx: Any, dtype: torch.dtype) -> int:
    """The number of a type in the standard."""
    known: int = onnx.helper.np_dtype_to_tensor_dtype(torch.empty(0, dtype=dtype).numpy().dtype)
    return known
