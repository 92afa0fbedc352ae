"""The report: whole, self-contained, inert and the same each time, in every size; its tables hold the figures."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser

import pytest
from comparisons import comparison

from casc_lab.compare.page import page
from casc_lab.compare.units import joules, ratio
from casc_lab.html.axes import linear, logarithmic, time
from casc_lab.html.charts import Series, legend, lines
from casc_lab.html.heat_map import heat_map

VOID = {"meta"}
DEEP = [f"stage{i // 6}.{i % 6}.act" for i in range(40)]
CASES = {
    "rnn": {},
    "cnn": {"layers": DEEP[:20], "T": 64, "q": 8, "positions": 0},
    "forty layers": {"layers": DEEP, "T": 64, "q": 8, "positions": 0},
    "five layers": {"layers": DEEP[:5], "T": 12, "q": 4, "positions": 0},
    "one layer": {"layers": ["act"], "positions": 0},
    "one step": {"T": 1},
    "one layer, one step, one token": {"layers": ["rnn"], "T": 1, "positions": 1, "samples": 1},
    "no rivals": {"rivals": 0},
    "no labels": {"labels": False},
    "not exact": {"exact": False},
    "exact later than T": {"layers": DEEP[:20], "T": 6, "q": 8, "positions": 0},
}


class Reader(HTMLParser):
    """Checks that tags are closed in order and that nothing is fetched; keeps tables, headings and tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.tables, self.headings, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        for name, value in attrs:
            assert name not in ("src", "href", "srcset", "action", "style"), f"{tag} {name}={value}"
            assert not name.startswith("on"), f"{tag} {name}={value}"
            assert not re.search(r"\b(nan|inf|None)\b", value or ""), f"{tag} {name}={value}"
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        elif tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data
        elif self.open and self.open[-1] == "h2":
            self.headings[-1] += data

    def rows(self, *cells):
        """Whether a table has this row."""
        return any(list(cells) == row for table in self.tables for row in table)


@pytest.fixture(scope="module")
def read():
    made = {name: comparison(**case) for name, case in CASES.items()}
    return {name: (result, page(result)) for name, result in made.items()}


@pytest.mark.parametrize("name", CASES)
def test_every_page_is_whole_and_needs_nothing_else(read, name):
    result, text = read[name]
    reader = Reader(text)
    used = {tag for tag, _ in reader.tags}
    assert not used & {"script", "link", "img", "iframe", "object", "use", "image"}
    assert not re.search(r"https?:|@import|url\(", text)
    assert ("html", {"lang": "en"}) in reader.tags
    assert len(text) < 1.5e6
    assert text == page(json.loads(json.dumps(result)))
    for colour in set(re.findall(r"var\(--(\w+)\)", text)):
        assert f"--{colour}:" in text
    for tag, attributes in reader.tags:
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
        if tag == "svg":
            assert "aria-hidden" in attributes or (attributes["role"] == "img" and attributes["aria-label"])


@pytest.mark.parametrize("name", CASES)
def test_tables_hold_every_figure(read, name):
    result, text = read[name]
    reader = Reader(text)
    at = [step - 1 for step in result["columns"]]
    for method in result["methods"]:
        label = method["label"]
        assert reader.rows(label, *(f"{method['mismatches'][t]:,}" for t in at))
        assert reader.rows(label, *(f"{method['spikes'][t]:,.0f}" for t in at))
        assert reader.rows(label, *(ratio(method["energy_nj"][t], result["ann"]["energy_nj"]) for t in at))
        if method["accuracy"] is not None:
            assert reader.rows(label, *(f"{method['accuracy'][t]:.2f}" for t in at))
        silence = method["silence"]
        assert reader.rows(
            label,
            "yes" if method["exact"] else "no",
            str(method["exact_at"] or "–"),
            *(("never", "never") if silence is None else (str(silence["p50"]), str(silence["max"]))),
            f"{method['spikes'][-1]:,.0f}",
            joules(method["energy_nj"][-1]),
            ratio(method["energy_nj"][-1], result["ann"]["energy_nj"]),
        )
    for number, layer in enumerate(result["methods"][3]["layers"], 1):
        macs, acs = sum(layer["macs"]), sum(layer["acs"])
        assert reader.rows(
            f"{number}. {layer['name']}",
            *(f"{value:,.0f}" for value in (layer["neurons"], layer["ann_macs"], macs, acs)),
        )
    for layer in result["equivalence"]["layers"]:
        assert reader.rows(
            layer["name"],
            *(f"{layer[key]:,}" for key in ("neurons", "differing", "silent_p50", "silent_max")),
        )
    for pairs in (result["configuration"], result["environment"]):
        for key, value in pairs.items():
            assert reader.rows(key, str(value))


@pytest.mark.parametrize("name", CASES)
def test_words_and_methods_are_there(read, name):
    result, text = read[name]
    said = " ".join(Reader(text).words)
    for method in result["methods"]:
        for key in ("label", "config", "equations", "note", "source"):
            assert method[key] in said
    for sentence in (*result["findings"], result["command"], result["created"], result["data"]["source"]):
        assert sentence in said
    for number in ("Figure 4, a to c", "Figure 4 d", "Figure 5", "Figure 6"):
        assert number in said
    assert ("Figure 4 e" in said) == (result["ann_accuracy"] is not None)
    assert ("Token by token" in said) == (result["methods"][0]["layers"][0]["positions"] is not None)


def verdict(text):
    return re.search(r'<section class="verdict.*?</section>', text, re.DOTALL).group()


def test_the_verdict_says_what_was_found(read):
    result, text = read["rnn"]
    ours, nearest = result["methods"][3], result["methods"][9]
    assert f"Exact from T = {ours['exact_at']}<" in verdict(text)
    assert "predictions of 0 of 7,600 samples differ" in verdict(text)
    assert f"{nearest['label']}, with {nearest['mismatches'][-1]:,} samples whose predictions differ" in verdict(text)
    assert joules(nearest["energy_nj"][-1]) in verdict(text)
    assert "verdict bad" not in text
    result, text = read["not exact"]
    assert "verdict bad" in text
    assert "Not exact<" in verdict(text)
    assert f"predictions of {result['methods'][3]['mismatches'][-1]:,} of 7,600 samples differ" in verdict(text)
    assert "Accuracy" not in verdict(read["no labels"][1])


def test_exact_only_after_the_last_step_shown_is_said():
    result = comparison()
    result["methods"][3] |= {"exact": True, "exact_at": 40}
    assert "Exact from T = 40<" in verdict(page(result))
    assert "That is beyond the T = 32 shown here." in verdict(page(result))


def test_our_method_alone_needs_no_others():
    result = comparison()
    result["methods"] = result["methods"][3:4]
    text = page(result)
    Reader(text)
    assert "nearest of the other" not in text


def test_words_of_the_user_are_inert():
    bad = "</style></title><script>alert('x')</script>\"&'"
    result = comparison(layers=[bad, "b<i>"], T=4)
    for key in ("title", "command", "created"):
        result[key] = bad
    result["data"]["source"] = result["network"]["class"] = bad
    result["configuration"], result["environment"], result["findings"] = {bad: bad}, {bad: bad}, [bad]
    result["energy_table"] |= {"name": bad, "source": bad}
    for method in result["methods"]:
        method |= dict.fromkeys(("label", "config", "equations", "source", "note"), bad)
    text = page(result)
    reader = Reader(text)
    assert not {"script", "i"} & {tag for tag, _ in reader.tags}
    assert text.count("</style>") == text.count("</title>") == 1


def test_an_ann_without_energy_is_not_divided_by():
    result = comparison()
    result["ann"] = {"macs": 0.0, "energy_nj": 0.0}
    text = page(result)
    Reader(text)
    assert re.search(r"\b(nan|inf)\b", text) is None


def test_nothing_is_changed(read):
    result = comparison()
    before = copy.deepcopy(result)
    page(result)
    assert result == before


def heights(svg):
    """Of a chart's first line."""
    path = re.search(r'<path d="M([^"]*)" fill="none" stroke="var\(--s', svg).group(1)
    return [float(point.split()[1]) for point in path.split("L")]


def test_zero_stands_below_everything_on_a_logarithmic_axis():
    values = [10.0, 1.0, 0.1, 0.0]
    top, one, tenth, zero = heights(
        lines("", [Series("", values, 0)], [1, 2, 3, 4], time(4), ("", ""), logarithmic(values))
    )
    assert one - top == pytest.approx(tenth - one, abs=0.2)
    assert zero > tenth + 10


def test_a_line_of_zeros_is_at_the_bottom():
    values = [0.0, 0.0]
    axis = linear(values)
    assert axis.marks[0] == (0.0, "0")
    assert axis.place(0.0) == 0.0


def test_limits_hold_what_is_beyond_them():
    axis = linear([], (40.0, 100.0))
    assert [axis.place(value) for value in (0.0, 70.0, 200.0)] == [0.0, 0.5, 1.0]


def test_lines_can_be_told_apart_without_colour():
    keys = [re.sub(r"var\(--s\d+\)", "", legend([Series("", [], number)])) for number in range(12)]
    assert len(set(keys)) == 12


def test_lines_that_coincide_have_markers_apart():
    steps = list(range(1, 33))
    svg = lines("", [Series("a", [1.0] * 32, 0), Series("b", [1.0] * 32, 1)], steps, time(32), ("T", ""))
    first, second = (
        set(re.findall(rf'translate\(([\d.]+) [\d.]+\) scale\([\d.]+\)" d="[^"]*" fill="var\(--s{number}\)', svg))
        for number in (0, 1)
    )
    assert len(first - second) >= 3
    assert len(second - first) >= 3


def test_only_exact_zeros_are_blank_in_a_map():
    assert "<path d=" not in heat_map("", ["a"], [[0.0, 0.0]], "off", 0.0)
    tiny = heat_map("", ["a"], [[0.0, 1e-9]], "off", 1.0)
    assert float(re.search(r'fill-opacity="([\d.]+)"', tiny).group(1)) > 0.1
