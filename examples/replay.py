"""Replay an export of casc in integers: how many spikes, potentials and logits differ from its golden traces?

It needs NumPy and safetensors, nothing of casc: what an export means is what this file does. `python replay.py FOLDER`
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file


class Export:
    """An export's description and its tensors, those of one sample at a time."""

    def __init__(self, folder):
        self.about, self.sample = json.loads((Path(folder) / "integers.json").read_text()), 0
        self.arrays = {name: x for file in self.about["files"] for name, x in load_file(Path(folder) / file).items()}

    def __getitem__(self, name):
        about, x = self.about["tensors"][name], self.arrays[name]
        if about["limbs"]:  # wider than 64 bits: limbs of 32 bits, lowest first, as Python's integers
            x = sum(limb.astype(object) << 32 * place for place, limb in enumerate(x))
        return np.asarray(x[self.sample] if about["by_sample"] else x, object if about["limbs"] else np.int64)


def weights(node, x, e):
    return e[node["weight"]].astype(np.result_type(x[0], e[node["weight"]]))


def convolution(node, x, e):
    weight, groups, x = weights(node, x, e), node["groups"], x[0]
    for dim, around in enumerate(node["padding"], 2):
        first, last = (np.zeros((*x.shape[:dim], size, *x.shape[dim + 1 :]), x.dtype) for size in around)
        x = np.concatenate([first, x, last], dim)
    moves = list(zip(weight.shape[2:], x.shape[2:], node["stride"], node["dilation"]))
    sizes = [(size - (kernel - 1) * dilation - 1) // stride + 1 for kernel, size, stride, dilation in moves]
    total = 0
    for tap in itertools.product(*(range(kernel) for kernel, *_ in moves)):
        window = [slice(k * d, k * d + (n - 1) * s + 1, s) for k, n, (*_, s, d) in zip(tap, sizes, moves)]
        read = x[(..., *window)].reshape(len(x), groups, weight.shape[1], -1)
        total = total + weight[(..., *tap)].reshape(groups, -1, weight.shape[1]) @ read
    return total.reshape(len(x), len(weight), *sizes)


def gather(node, x, e, reduce=np.sum, nothing=0):
    """Entries in other places, or sums or maxima of several; -1 is none."""
    index, entries = e[node["index"]], np.concatenate([each.reshape(-1) for each in x])
    read = np.where(index < 0, nothing, entries[index])
    return reduce(read * e[node["weights"]] if node.get("weights") else read, -1)


MAPS = {
    "linear": lambda node, x, e: x[0] @ weights(node, x, e).T,
    "convolution": convolution,
    "gather": gather,
    "reshape": lambda node, x, e: x[0].reshape(node["shape"]),
    "add": lambda node, x, e: sum(x),
    "scale": lambda node, x, e: x[0] * e[node["factor"]],
    "product": lambda node, x, e: x[0] * x[1],
    "table": lambda node, x, e: e[node["table"]][x[0] - node["lowest"]],
    "max": lambda node, x, e: gather(node, x, e, np.max, -(2**62)),
}


def value_of(node, x, e):
    """A map; where it rounds: the exact result as float64, over a divisor, to the nearest integer, halves to the even."""
    value, rounds = MAPS[node["kind"]](node, x, e), node.get("rounds")
    if rounds:
        value = np.ldexp(value.astype(np.float64), rounds["shift"])
        value = np.rint(value / e[rounds["divisor"]] if rounds["divisor"] else value).astype(np.int64)
        value = np.clip(value, -rounds["limit"], rounds["limit"]) if rounds["limit"] else value
    return value


def fire(node, x, e, state, cap):
    """Integrate, fire +1 or -1, reset by subtraction. The potential: what has been received less the count's threshold."""
    (lowest, highest), n = node["count"], state.get("n", np.zeros(node["shape"], np.int64))
    threshold = e[node["threshold"]] if node["threshold"] else 1
    if node["levels"]:
        taus = np.concatenate([[0], e[node["levels"]], e[node["levels"]][-1:]])
    else:  # equal steps, and no more spikes than wake steps have begun
        taus, highest = np.arange(highest + 2), min(highest, cap)
    v = state["v"] if "v" in state else n - taus[-lowest] * threshold + (e[node["potential"]] if node["potential"] else 0)
    v, at = v + (x << node["shift"]), n - lowest
    plus, minus = (v >= (taus[at + 1] - taus[at]) * threshold) & (n < highest), (v < 0) & (n > lowest)
    state["n"] = n + plus - (minus & (node["rule"] == "CIF"))
    state["v"] = v - (taus[state["n"] - lowest] - taus[at]) * threshold
    return state["n"] - n


def recurrence(node, x, e, states, t, awake):
    """Position by position: each reads what the one before it has just fired, at this very step."""
    shapes, here = {each["name"]: each["shape"] for each in node["body"]}, {}
    fired = {name + kind: np.zeros([len(x), *shapes[name]], np.int64) for name in node["emits"] for kind in ("", ".v")}
    places = range(e[node["lengths"]] if node["lengths"] else len(x))
    for place in reversed(places) if node["reverse"] else places:
        before = {name: here.get(given, e[begins] * (t == 0)) for name, (given, begins) in node["carries"].items()}
        here = step(node["body"], {"x": x[place], **before}, e, states.setdefault(place, {}), t, awake)
        for name, all_places in fired.items():
            all_places[place] = here[name]
    return fired


def step(nodes, values, e, states, t, awake):
    """One time step, node after node: each reads what those before it give at this very step."""
    for node in nodes:
        kind, name, state, period = node["kind"], node["name"], states.setdefault(node["name"], {}), node.get("period", 1)
        x = [values[each] << shift for each, shift in zip(node["read"], node.get("shifts") or [0] * len(node["read"]))]
        if kind == "drive":  # flows at each wake step; beside bins, that of a whole period at its last step
            flows = sum(awake[t + 1 - period : t + 1]) if (t + 1) % period == 0 else 0
            values[name] = np.broadcast_to(e[node["drive"]] * flows, node["shape"])
        elif kind == "population":
            values[name], values[name + ".v"] = fire(node, x[0], e, state, sum(awake[: t + 1])), state["v"]
        elif kind == "recurrence":
            values |= recurrence(node, x[0], e, state, t, awake)
        elif kind == "bin":  # what comes in a period, at its last step
            state["sum"] = state.get("sum", 0) + x[0]
            values[name] = state.pop("sum") if (t + 1) % period == 0 else 0 * x[0]
        else:
            if node.get("bits", {}).get("sum", 0) > 62 or node.get("rounds"):
                x = [each.astype(object) for each in x]
            if kind in ("product", "table", "max") or node.get("rounds"):  # of totals: by how much its value changes
                zeros = [0 * each for each in x]
                before = state.get("value", value_of(node, zeros, e))
                state["totals"] = x = [total + each for total, each in zip(state.get("totals", zeros), x)]
                state["value"] = value_of(node, x, e)
            values[name] = state["value"] - before if "value" in state else value_of(node, x, e)
    return values


def replay(folder):
    """Of each kind, how many numbers differ from the golden traces, and how many there are."""
    e, found = Export(folder), {}
    nodes, awake = e.about["nodes"], e.about["awake"]
    populations = [each for node in nodes for each in (node, *node.get("body", ())) if each.get("layer") is not None]

    def compare(kind, ours, golden):
        differing = int((np.broadcast_to(ours, golden.shape) != golden).sum())
        found[kind] = [had + more for had, more in zip(found.get(kind, (0, 0)), (differing, golden.size))]

    for e.sample in range(e.about["samples"]):
        states, totals = {}, {}
        for t in range(e.about["T"]):
            values, wake = step(nodes, {}, e, states, t, awake), sum(awake[: t + 1])
            for each in populations:
                compare("spikes", values[each["name"]], e["spikes." + each["layer"]][t])
                compare("potentials", values[each["name"] + ".v"], e["potentials." + each["layer"]][t])
            for out in e.about["outputs"]:
                name, drive = out["name"], e[out["drive"]] if out["drive"] else np.zeros(())
                totals[name] = totals.get(name, np.zeros(out["shape"], object)) + (values[out["read"]] if out["read"] else 0)
                value = np.ldexp(totals[name].astype(np.float64), out["exponent"])
                value = value + np.ldexp(drive.astype(np.float64), out["drive_exponent"]) * wake
                value = value / e[out["divisor"]] if out["divisor"] else value
                compare("logits", (value * out["scale"] / wake).astype(np.float32).view(np.int32), e["logits." + name][t])
    return found


if __name__ == "__main__":
    result = replay(sys.argv[1])
    for kind, (differing, count) in result.items():
        print(f"{kind}: {differing:,} of {count:,} differ")
    sys.exit(any(differing for differing, _ in result.values()))
