"""Compile and run mlp_bench.v, with Icarus Verilog, on the export of a perceptron: `python mlp_bench.py FOLDER`.

The export is one of `snn.export(FOLDER, inputs, hex=True)`, of a network with two hidden layers of CIF neurons that was
converted with `numerics=Exact(...)`. Potentials and sums are as wide as the export proves that they need to be.
"""

import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

BENCH = Path(__file__).with_name("mlp_bench.v")


def settings(folder):
    """The bench's parameters, and the files that it reads."""
    about = json.loads((folder / "integers.json").read_text())
    tensors, nodes = about["tensors"], {node["name"]: node for node in about["nodes"]}
    first, second = (node for node in about["nodes"] if node["kind"] == "population")
    (readout,) = about["outputs"]
    into, last, drive = nodes[second["read"][0]], nodes[readout["read"]], nodes[first["read"][0]]
    weights, biases = (nodes[name] for name in into["read"])
    names = {
        "drive": drive["drive"], "w2": weights["weight"], "b2": biases["drive"], "w3": last["weight"],
        "spikes1": f"spikes.{first['layer']}", "potentials1": f"potentials.{first['layer']}",
        "spikes2": f"spikes.{second['layer']}", "potentials2": f"potentials.{second['layer']}",
        "totals": f"totals.{readout['name']}",
    }  # fmt: skip
    files = {name: folder / tensors[tensor]["hex"] for name, tensor in names.items()}
    bits = {name: tensors[tensor]["bits"] for name, tensor in names.items()}
    thresholds = [int((folder / tensors[each["threshold"]]["hex"]).read_text(), 16) for each in (first, second)]
    parameters = {
        "SAMPLES": about["samples"], "STEPS": about["T"], "N1": math.prod(first["shape"]), "N2": math.prod(second["shape"]),
        "CLASSES": math.prod(readout["shape"]), "THRESHOLD1": thresholds[0], "THRESHOLD2": thresholds[1],
        "WIDTH1": first["bits"]["potential"], "WIDTH2": second["bits"]["potential"], "WIDTH3": readout["bits"]["proven"],
        "SHIFT2": into["shifts"][0] + second["shift"], "DRIVE": bits["drive"], "W2": bits["w2"], "B2": bits["b2"],
        "W3": bits["w3"], "V1": bits["potentials1"], "V2": bits["potentials2"], "TOTALS": bits["totals"],
    }  # fmt: skip
    return parameters, files, "".join(map(str, reversed(about["awake"])))


def run(folder):
    """What the bench says."""
    parameters, files, awake = settings(folder)
    given = [f"-Pmlp_bench.{name}={value}" for name, value in parameters.items()]
    with tempfile.TemporaryDirectory() as place:
        compiled = Path(place) / "bench"
        subprocess.run(["iverilog", "-g2012", *given, "-o", compiled, BENCH], check=True)
        read = [f"+{name}={path}" for name, path in files.items()]
        return subprocess.run(
            ["vvp", "-n", compiled, f"+awake={awake}", *read], check=True, text=True, stdout=-1
        ).stdout


if __name__ == "__main__":
    said = run(Path(sys.argv[1]))
    print(said, end="")
    sys.exit(not said.startswith("0 of"))
