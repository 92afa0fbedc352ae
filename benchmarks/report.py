"""The results as Markdown tables and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peers import SINABS, SPIKINGJELLY
from speed import SILENT

from casc_core.reporting.tables import markdown_table

Section = dict[str, Any]
MEGABYTE = 1e6
MEMORY_NAMES = {"ann": "ANN", "silent": "until silent"}


def markdown(results: Section) -> str:
    """Every section as tables."""
    machine, sections = results["machine"], results["sections"]
    parts = [
        "# How fast the engine is",
        f"{machine['cpu']}, {machine['cores']} cores; torch by {machine['instructions']}, our kernels by "
        f"{machine['kernels']}; {machine['system']}, "
        f"torch {machine['torch']}, Python {machine['python']}. What a table compares takes turns within one process; "
        "each figure is the fastest turn.",
    ]
    writers: dict[str, Callable[[Section], list[str]]] = {
        "recurrent": recurrent, "feedforward": feed_forward, "convolution": convolution, "deep": deep,
        "growth": growth, "memory": memory, "startup": startup,
    }  # fmt: skip
    for name, section in sections.items():
        title, *tables = writers[name](section)
        parts += [f"{title} ({machine['kernels']})", *tables]
    return "\n\n".join(parts) + "\n"


def recurrent(section: Section) -> list[str]:
    """Trained text classifiers."""
    parts = [
        "## Recurrent classifier",
        f"Trained on {section['training_texts']:,} texts of: {section['data']}.",
        networks(section["networks"]),
    ]
    return parts + [part for case, rows in by_case(section["rows"]) for part in (f"### {case}", times(rows))]


def feed_forward(section: Section) -> list[str]:
    """The perceptron and the peers."""
    parts = ["## Feed-forward network", f"{section['shape']}.", networks(section["networks"])]
    for case, rows in by_case(section["rows"]):
        parts += [f"### {case}", times(rows), *advantage(rows)]
    return parts


def convolution(section: Section) -> list[str]:
    """The convolutional network and the peers: times, errors, and the two paths that a layer can take."""
    parts = [
        "## Convolutional network",
        f"{section['shape']}; trained for {section['training_seconds']:.0f} s on: {section['data']}.",
        networks(section["networks"]),
    ]
    for _, rows in by_case(section["rows"]):
        parts += ["### Time", times(rows), *advantage(rows)]
    parts += ["### What each gets wrong", errors(section["errors"])]
    return parts + ways(section["ways"])


def deep(section: Section) -> list[str]:
    """ResNet20, VGG16 and the detector; a roofline of the first."""
    parts = [
        "## Deep convolutional networks",
        f"Calibrated to q={section['q']}, a threshold for each channel, on: {section['data']}.",
        networks(section["networks"]),
    ]
    for case, rows in by_case(section["rows"]):
        parts += [f"### {case}", times(rows)]
    parts += [
        "### What ResNet20's layers do",
        f"One thread. A large convolution in float32 makes {section['multiply_adds_per_second'] / 1e9:.0f} billion "
        "multiply-adds a second; a register holds twice as many numbers of 16 bits, so at best twice as many are added.",
    ]
    for roof in section["rooflines"]:
        parts.append(roofline(roof["layers"], section["multiply_adds_per_second"], roof["numerics"]))
    return parts


def roofline(layers: list[Section], peak: float, numerics: str) -> str:
    """What each layer adds, and how fast, beside the same convolution in float32."""
    header = [
        f"layer{numerics}", "synapses", "events each", "input not zero, by step (%)", "MB in", "MB out", "ms",
        "additions/s", "of what there could be", "float32 ms", "of its peak",
    ]  # fmt: skip
    body = [
        [
            layer["layer"],
            f"{layer['synapses'] / 1e6:.1f} M",
            f"{layer['additions'] / layer['synapses']:.2f}",
            " ".join(f"{100 * share:.0f}" for share in layer["densities"]),
            f"{layer['bytes_in'] / MEGABYTE:.1f}",
            f"{layer['bytes_out'] / MEGABYTE:.1f}",
            f"{1000 * layer['spikes_s']:.2f}",
            f"{layer['additions'] / layer['spikes_s'] / 1e9:.1f} G",
            f"{layer['additions'] / layer['spikes_s'] / (2 * peak):.0%}",
            f"{1000 * layer['float32_s']:.2f}",
            f"{layer['synapses'] / layer['float32_s'] / peak:.0%}",
        ]
        for layer in layers
    ]
    return markdown_table([header, *body])


def errors(rows: list[Section]) -> str:
    """How far the logits, the counts of the last layer and the predictions of each entry are off."""
    header = ["run", "against", "logits off by (%)", "neurons of the last layer off", "(%)", "predictions that differ"]
    body = [
        [
            row["entry"],
            row["against"],
            percent(row["logits_percent"]),
            f"{row['counts_that_differ']:,} of {row['neurons']:,}",
            percent(row["counts_percent"]),
            f"{row['predictions_that_differ']} of {row['images']}",
        ]
        for row in rows
    ]
    return markdown_table([header, *body])


def ways(section: Section) -> list[str]:
    """The integer path beside float convolutions, layer by layer, and how often each is taken."""
    taken = [
        f"- {name}: {used['integer']} of {used['integer'] + used['float']} layers on the integer path"
        for name, used in section["used"].items()
    ]
    parts = ["### Integers and floats", "Layers of neurons behind a convolution of spikes:", "\n".join(taken)]
    for case, rows in by_case(section["rows"]):
        header, body = [case], {row["entry"]: [row["entry"]] for row in rows}
        for threads, mine in by_threads(rows):
            header += [f"wall ms, {count(threads)}", "x", "CPU ms", "x"]
            for row in mine:
                figures = f"{row['wall_ms']:.2f}", number(row["wall_ratio"])
                body[row["entry"]] += [*figures, f"{row['cpu_ms']:.2f}", number(row["cpu_ratio"])]
        parts.append(markdown_table([header, *body.values()]))
    return parts


def percent(value: float) -> str:
    """As a table shows it; 0 only where it is exactly that."""
    return "0" if value == 0 else f"{value:.2f}" if value >= 0.01 else f"{value:.0e}"


def advantage(rows: list[Section]) -> list[str]:
    """How many times as fast as the fastest peer of as many steps each of our ways is; nothing if none is installed."""
    lines = []
    for threads, mine in by_threads(rows):
        timed = [row for row in mine if row["steps"] and row["wall_s"]]
        for steps in dict.fromkeys(row["steps"] for row in timed if is_peer(row["entry"])):
            peer = min((r for r in timed if is_peer(r["entry"]) and r["steps"] == steps), key=lambda r: r["wall_ms"])
            ours = [r for r in timed if not is_peer(r["entry"]) and (r["steps"] == steps or r["entry"] == SILENT)]
            words = [f"{row['entry']}: {peer['wall_ms'] / row['wall_ms']:.2f} x" for row in ours]
            lines.append(f"- Faster than {peer['entry']} (the fastest peer), {count(threads)}: {'; '.join(words)}")
    return ["\n".join(lines)] if lines else []


def growth(section: Section) -> list[str]:
    """One table for each size that grows."""
    base = ", ".join(f"{name}={value}" for name, value in section["base"].items())
    parts = [
        "## How time grows",
        f"Untrained (random) classifiers, {base} but for what grows; time relative to the ANN's.",
    ]
    for axis, points in section["axes"].items():
        header, body = [axis], []
        for point in points:
            rows = point["rows"]
            header = [axis, *(f"{kind}, {count(row['threads'])}" for row in rows for kind in ("wall", "CPU"))]
            ratios = [number(row[f"{kind}_ratio"]) for row in rows for kind in ("wall", "cpu")]
            body.append([f"{point['value']:,}" if isinstance(point["value"], int) else point["value"], *ratios])
        parts += [f"### {axis}", markdown_table([header, *body])]
    return parts


def memory(section: Section) -> list[str]:
    """Peak memory over what is there after set-up."""
    rows = section["rows"]
    names = [MEMORY_NAMES.get(what, f"T={what}") for what in rows[0]["bytes"]]
    header = ["network", "batch", *names]
    body = [[row["network"], f"{row['batch']:,}", *map(megabytes, row["bytes"].values())] for row in rows]
    about = f"Peak of one run in a fresh process, less what is there after set-up ({section['method']}); one thread"
    about += f", at most {section['limit_bytes'] / 1e9:.0f} GB." if section["limit_bytes"] else "."
    return ["## Memory", about, markdown_table([header, *body])]


def megabytes(taken: int | None) -> str:
    """As a table shows it."""
    return "too little memory" if taken is None else f"{taken / MEGABYTE:,.0f} MB"


def startup(section: Section) -> list[str]:
    """Time from the start of a process."""
    body = [
        [
            row["program"], f"{min(row['wall_s']):.2f}", f"{min(row['cpu_s']):.2f}",
            number(row["wall_ratio"]), number(row["cpu_ratio"]),
        ]
        for row in section["rows"]
    ]  # fmt: skip
    header = ["from the start of the process", "wall (s)", "CPU (s)", "wall, x import torch", "CPU, x import torch"]
    return ["## Start-up", markdown_table([header, *body])]


def networks(facts: list[Section]) -> str:
    """How densely each network spikes."""
    header = ["network", "ANN accuracy (%)", "in spikes", "spikes per neuron", "negative", "silent at (median, max)"]
    body = [
        [
            fact["network"],
            *("-" if fact.get(key) is None else f"{fact[key]:.2f}" for key in ("accuracy", "spiking_accuracy")),
            f"{fact['spikes_per_neuron']:.2f}",
            f"{fact['negative_share']:.1%}",
            f"{fact['silent_at_median']:.0f}, {fact['silent_at_max']:.0f}",
        ]
        for fact in facts
    ]
    return markdown_table([header, *body])


def times(rows: list[Section]) -> str:
    """Times of one comparison, side by side for each number of threads."""
    header, body = ["run"], {row["entry"]: [row["entry"]] for row in rows}
    for threads, mine in by_threads(rows):
        header += [f"wall ms, {count(threads)}", "x ANN", "x ANN / T", "CPU ms", "x ANN"]
        for row in mine:
            if not row["wall_s"]:
                body[row["entry"]] += [row["note"], "", "", "", ""]
                continue
            per_step = number(row["wall_ratio"] / row["steps"]) if row["steps"] else ""
            body[row["entry"]] += [
                f"{row['wall_ms']:.2f}", number(row["wall_ratio"]), per_step,
                f"{row['cpu_ms']:.2f}", number(row["cpu_ratio"]),
            ]  # fmt: skip
    return markdown_table([header, *body.values()])


def by_case(rows: list[Section]) -> list[tuple[str, list[Section]]]:
    """Rows of each comparison, in order."""
    cases = dict.fromkeys(row["case"] for row in rows)
    return [(case, [row for row in rows if row["case"] == case]) for case in cases]


def by_threads(rows: list[Section]) -> list[tuple[int, list[Section]]]:
    """Rows of each number of threads, in order."""
    counts = dict.fromkeys(row["threads"] for row in rows)
    return [(threads, [row for row in rows if row["threads"] == threads]) for threads in counts]


def is_peer(entry: str) -> bool:
    """Whether the entry is another simulator's."""
    return entry.startswith((SPIKINGJELLY, SINABS))


def number(value: float) -> str:
    """A ratio in three digits or so."""
    return f"{value:.3f}" if value < 0.995 else f"{value:.2f}"


def count(threads: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{threads} thread{'s' * (threads > 1)}"
