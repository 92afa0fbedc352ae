"""Replay an export in integers, beside its golden traces: `python replay.py FOLDER`. What it means is what happens here."""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


class Export:  # its description and its tensors, those of one sample at a time
    def __init__(self, folder):
        self.about, self.sample = json.loads((Path(folder) / "integers.json").read_text()), 0
        self.arrays = {name: x for file in self.about["files"] for name, x in load_file(Path(folder) / file).items()}

    def __getitem__(self, name):
        about, x = self.about["tensors"][name], self.arrays[name]
        if about["limbs"]:  # wider than 64 bits: limbs of 32 bits, lowest first, as Python's integers
            x = sum(limb.astype(object) << 32 * place for place, limb in enumerate(x))
        return np.asarray(x[self.sample] if about["by_sample"] else x, object if about["limbs"] else np.int64)


def convolution(node, x, e):
    weight, groups, flat = e[node["weight"]], node["groups"], x[0].reshape(*x[0].shape[:2], -1)
    places = np.pad(np.arange(1, flat.shape[-1] + 1).reshape(x[0].shape[2:]), node["padding"])
    entries, total = np.concatenate([0 * flat[..., :1], flat], -1), 0  # place 0 is padding
    moves = list(zip(weight.shape[2:], places.shape, node["stride"], node["dilation"]))
    sizes = [(size - (kernel - 1) * dilation - 1) // stride + 1 for kernel, size, stride, dilation in moves]
    for tap in itertools.product(*(range(kernel) for kernel, *_ in moves)):
        window = tuple(slice(k * d, k * d + (n - 1) * s + 1, s) for k, n, (*_, s, d) in zip(tap, sizes, moves))
        read = entries[..., places[window].reshape(-1)].reshape(len(flat), groups, weight.shape[1], -1)
        total = total + weight[(..., *tap)].reshape(groups, -1, weight.shape[1]) @ read
    return total.reshape(len(flat), len(weight), *sizes)


def gather(node, x, e, reduce=np.sum, nothing=0):  # entries in other places, or sums or maxima of several; -1 is none
    index, entries = e[node["index"]], np.concatenate([each.reshape(-1) for each in x])
    read = np.where(index < 0, nothing, entries[index])
    return reduce(read * e[node["weights"]] if node.get("weights") else read, -1)


MAPS = {
    "linear": lambda node, x, e: x[0] @ e[node["weight"]].T,
    "convolution": convolution,
    "gather": gather,
    "reshape": lambda node, x, e: x[0].reshape(node["shape"]),
    "add": lambda node, x, e: sum(x),
    "scale": lambda node, x, e: x[0] * e[node["factor"]],
    "product": lambda node, x, e: np.einsum(node["equation"], *x),
    "table": lambda node, x, e: e[node["table"]][x[0] - node["lowest"]],
    "max": lambda node, x, e: gather(node, x, e, np.max, -(2**62)),
}


def value_of(node, x, e):
    """A map; where it rounds: the exact result as float64, over a divisor, to the nearest integer, halves to the even."""
    value, rounds = MAPS[node["kind"]](node, x, e), node.get("rounds")
    if not rounds:
        return value
    value = np.ldexp(value.astype(np.float64), rounds["shift"]) / (e[rounds["divisor"]] if rounds["divisor"] else 1)
    return np.clip(np.rint(value), -(rounds["limit"] or 2**62), rounds["limit"] or 2**62).astype(np.int64)


def running(node, x, e, state):
    """A function of totals: it gives by how much its value has changed."""
    before = state.get("totals", [0 * each for each in x])
    state["totals"] = [total + each for total, each in zip(before, x)]
    return value_of(node, state["totals"], e) - value_of(node, before, e)


def fire(node, x, e, state, cap):
    """Integrate, fire +1 or -1, reset by subtraction. The potential: what has been received less the count's threshold."""
    (lowest, highest), n = node["count"], state.get("n", np.zeros(node["shape"], np.int64))
    threshold, taus = e[node["threshold"]] if node["threshold"] else 1, np.arange(highest + 2)
    if node["levels"]:
        taus = np.concatenate([[0], e[node["levels"]], e[node["levels"]][-1:]])
    begins = n - taus[-lowest] * threshold + (e[node["potential"]] if node["potential"] else 0)
    v, at = state.get("v", begins) + (x << node["shift"]), n - lowest
    plus = (v >= (taus[at + 1] - taus[at]) * threshold) & (n < (highest if node["levels"] else min(highest, cap)))
    minus = (v < 0) & (n > lowest) & (node["rule"] == "CIF")
    state["n"] = n + plus - minus
    state["v"] = v - (taus[state["n"] - lowest] - taus[at]) * threshold
    return state["n"] - n


def recurrence(node, x, values, e, states, t, awake):
    """Position by position: each reads what the one before it has just fired, at this very step."""
    begins = {at: values[at] if at in values else e[at] * (t == 0) for _, at in node["carries"].values()}
    shapes, here = {each["name"]: [len(x), *each["shape"]] for each in node["body"]}, {}
    fired = {name + end: np.zeros(shapes[name], np.int64) for name in node["emits"] for end in ("", ".v")}
    for place in range(e[node["lengths"]] if node["lengths"] else len(x))[:: -1 if node["reverse"] else 1]:
        before = {name: here.get(given, begins[at]) for name, (given, at) in node["carries"].items()}
        here = step(node["body"], {"x": x[place], **before}, e, states.setdefault(place, {}), t, awake)
        for name, all_places in fired.items():
            all_places[place] = here[name]
    return fired


def step(nodes, values, e, states, t, awake):
    """One time step, node after node: each reads what those before it give at this very step."""
    for node in nodes:
        kind, name, state = node["kind"], node["name"], states.setdefault(node["name"], {})
        x = [values[each] << shift for each, shift in zip(node["read"], node.get("shifts") or [0] * len(node["read"]))]
        if node.get("bits", {}).get("sum", 0) > 62 or node.get("rounds"):
            x = [each.astype(object) for each in x]
        if kind == "drive":  # flows at each wake step; beside bins, that of a whole period at its last step
            flows = sum(awake[t + 1 - node["period"] : t + 1]) if (t + 1) % node["period"] == 0 else 0
            values[name] = np.broadcast_to(e[node["drive"]] * flows, node["shape"])
        elif kind == "population":
            values[name], values[name + ".v"] = fire(node, x[0], e, state, sum(awake[: t + 1])), state["v"]
        elif kind == "recurrence":
            values |= recurrence(node, x[0], values, e, state, t, awake)
        elif kind == "bin":  # what comes in a period, at its last step
            state["sum"] = state.get("sum", 0) + x[0]
            values[name] = state.pop("sum") if (t + 1) % node["period"] == 0 else 0 * x[0]
        elif kind in ("product", "table", "max") or node.get("rounds"):
            values[name] = running(node, x, e, state)
        else:
            values[name] = value_of(node, x, e)
    return values


def replay(folder):
    """By trace, how many numbers differ from it."""
    e, found = Export(folder), {}
    nodes, awake = e.about["nodes"], e.about["awake"]
    populations = [each for node in nodes for each in (node, *node.get("body", ())) if each.get("layer") is not None]
    for sample in range(e.about["samples"]):
        e.sample, states, totals = sample, {}, {}
        for t, wake in enumerate(np.cumsum(awake)):
            values = step(nodes, {}, e, states, t, awake)
            ours = {"spikes." + each["layer"]: values[each["name"]] for each in populations}
            ours |= {"potentials." + each["layer"]: values[each["name"] + ".v"] for each in populations}
            for out in e.about["outputs"]:
                name, drive = out["name"], e[out["drive"]] if out["drive"] else np.zeros(())
                total = totals.get(name, np.zeros(out["shape"], object))
                totals[name] = total = total + (values[out["read"]] if out["read"] else 0)
                value = np.ldexp(total.astype(np.float64), out["exponent"])
                value = value + np.ldexp(drive.astype(np.float64), out["drive_exponent"]) * wake
                logits = value / (e[out["divisor"]] if out["divisor"] else 1) * out["scale"] / wake
                ours["logits." + name] = logits.astype(np.float32).view(np.int32)
            for name, x in ours.items():
                found[name] = found.get(name, 0) + int((np.broadcast_to(x, e[name][t].shape) != e[name][t]).sum())
    return found


if __name__ == "__main__":
    for trace, differing in replay(sys.argv[1]).items():
        print(f"{trace}: {differing:,} differ")
