"""How the report looks: light, dark and on paper; colours that stay apart for the colour-blind (after Okabe and Ito)."""

_LIGHT = """color-scheme:light;--ink:#1a1d21;--soft:#525a63;--paper:#fff;--tint:#f2f5f8;--line:#d7dce1;
--good:#0a7a52;--bad:#b3261e;--plus:#0b5cad;--minus:#c2410c;--off:#8a2b62;
--s0:#6b7280;--s1:#b35900;--s2:#7a5195;--s3:#0072b2;--s4:#008a65;--s5:#cc3311;--s6:#2488ab;--s7:#997000;--s8:#c2528b;
--s9:#5a8a00;--s10:#3d4f8a;--s11:#8c564b"""

_DARK = """color-scheme:dark;--ink:#e8eaed;--soft:#a9b2bc;--paper:#131619;--tint:#1d2328;--line:#363c43;
--good:#4cc38a;--bad:#ff8a80;--plus:#6cb2ff;--minus:#ff9a5c;--off:#f08fc0;
--s0:#a8b0ba;--s1:#f0a35e;--s2:#c3a1dd;--s3:#56b4ff;--s4:#3fd0a4;--s5:#ff7f66;--s6:#8adcf2;--s7:#e8c053;--s8:#f29ac6;
--s9:#a9d65c;--s10:#a3b1f0;--s11:#d0a497"""

STYLE = f"""
:root{{{_LIGHT}}}
@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}}
main{{max-width:1240px;margin:0 auto;padding:1.2rem 1rem 3rem}}
h1{{font-size:1.7rem;line-height:1.2;margin:.2rem 0;overflow-wrap:anywhere}}h2{{font-size:1.25rem;margin:2.4rem 0 .4rem}}
p{{margin:.3rem 0 .6rem;max-width:80ch;overflow-wrap:anywhere}}.soft{{color:var(--soft)}}
li{{max-width:80ch;margin:.2rem 0;overflow-wrap:anywhere}}
.verdict{{border-left:6px solid var(--good);background:var(--tint);padding:.8rem 1rem;margin:1rem 0;border-radius:4px}}
.verdict strong{{font-size:1.6rem;color:var(--good)}}.verdict.bad{{border-color:var(--bad)}}
.verdict.bad strong{{color:var(--bad)}}
.tables{{display:flex;flex-wrap:wrap;gap:0 2rem;align-items:start}}
figure{{margin:0;min-width:0;max-width:100%}}.data{{margin:.8rem 0 1.2rem;flex:0 1 auto}}
figcaption{{font-size:.9rem;font-weight:600;margin:0 0 .2rem;overflow-wrap:anywhere}}
.data figcaption{{font-weight:400;color:var(--soft);max-width:80ch}}.tables .data figcaption{{max-width:34rem}}
.wide{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:.84rem;font-variant-numeric:tabular-nums}}
th,td{{padding:.26rem .42rem;text-align:right;border-bottom:1px solid var(--line)}}
td{{white-space:nowrap}}.data td:only-of-type{{white-space:normal;overflow-wrap:anywhere;text-align:left}}
thead th{{font-weight:600;border-bottom:2px solid var(--line);vertical-align:bottom}}
th:first-child{{text-align:left;position:sticky;left:0;background:var(--paper);min-width:8.5rem}}
tbody th{{font-weight:500}}
tr.ours th,tr.ours td{{font-weight:700;background:var(--tint)}}tr.ours th{{box-shadow:inset 4px 0 var(--s3)}}
.charts{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:1.2rem;align-items:end}}
.charts.two{{grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));max-width:920px}}
.charts+.key,.charts+.charts{{margin-top:1.4rem}}
.chart{{width:100%;height:auto;display:block}}.chart text{{fill:var(--ink);font-family:inherit;font-size:14px}}
.chart .tick{{fill:var(--soft)}}
.grid{{stroke:var(--line);stroke-width:1;fill:none}}.level{{stroke:var(--soft);stroke-width:1.2;fill:none}}
.legend{{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1.2rem;margin:.5rem 0 .9rem;padding:0;font-size:.9rem}}
.legend li{{margin:0}}.legend .ours{{font-weight:700}}.legend svg,.key svg{{vertical-align:middle}}
.key{{font-size:.9rem;color:var(--soft);max-width:none}}
details{{border-bottom:1px solid var(--line);padding:.35rem 0}}summary{{cursor:pointer;font-weight:600}}
pre{{background:var(--tint);padding:.7rem;overflow-x:auto;border-radius:4px}}code{{font-size:.92em;overflow-wrap:anywhere}}
@media (max-width:480px){{main{{padding:.8rem .75rem 2rem}}th,td{{padding:.26rem .35rem}}
th:first-child{{min-width:7.5rem}}}}
@media print{{
@page{{margin:14mm}}
:root{{--ink:#000;--soft:#444;--tint:#f2f2f2;--line:#bbb}}*{{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
body{{font-size:10pt}}main{{max-width:none;padding:0}}h2{{margin-top:1.4rem}}
.wide{{overflow:visible}}table{{font-size:7.5pt}}th,td{{padding:.12rem .3rem;white-space:normal}}
th:first-child{{position:static;min-width:0}}.tables{{gap:0 1rem}}
.charts,.charts.two{{grid-template-columns:1fr 1fr;max-width:none}}
.charts figure,.verdict,tr,.tables .data,.legend{{break-inside:avoid}}h2,h2+p,.legend,.key,figcaption{{break-after:avoid}}
details,p{{break-inside:avoid}}details>*{{display:block}}
details::details-content{{content-visibility:visible;display:block;height:auto}}pre{{white-space:pre-wrap}}
}}
"""
