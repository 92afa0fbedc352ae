"""How the report looks: light, dark and on paper; colours that stay apart for the colour-blind (Okabe and Ito)."""

STYLE = """
:root{color-scheme:light dark;--ink:#1a1d21;--soft:#586069;--paper:#fff;--tint:#f4f6f8;--line:#d7dce1;
--good:#0a7a52;--bad:#b3261e;--plus:#0b5cad;--minus:#c2410c;--off:#8a2b62;
--s0:#6b7280;--s1:#b35900;--s2:#7a5195;--s3:#0072b2;--s4:#009e73;--s5:#cc3311;--s6:#33a0c4;--s7:#b8860b;--s8:#c2528b;
--s9:#5a8a00;--s10:#3d4f8a;--s11:#8c564b}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a2abb5;--paper:#131619;--tint:#1d2226;--line:#363c43;
--good:#4cc38a;--bad:#ff8a80;--plus:#6cb2ff;--minus:#ff9a5c;--off:#f08fc0;
--s0:#a8b0ba;--s1:#f0a35e;--s2:#c3a1dd;--s3:#56b4ff;--s4:#3fd0a4;--s5:#ff7f66;--s6:#8adcf2;--s7:#e8c053;--s8:#f29ac6;
--s9:#a9d65c;--s10:#a3b1f0;--s11:#d0a497}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:1180px;margin:0 auto;padding:1.2rem 1rem 3rem}
h1{font-size:1.6rem;line-height:1.2;margin:.2rem 0}h2{font-size:1.2rem;margin:2.2rem 0 .4rem}
p{margin:.3rem 0 .6rem;max-width:80ch;overflow-wrap:anywhere}.soft{color:var(--soft)}li{max-width:80ch;margin:.2rem 0}
.verdict{border-left:6px solid var(--good);background:var(--tint);padding:.8rem 1rem;margin:1rem 0;border-radius:4px}
.verdict strong{font-size:1.5rem;color:var(--good)}.verdict.bad{border-color:var(--bad)}
.verdict.bad strong{color:var(--bad)}
.wide{overflow-x:auto;margin:.6rem 0 1.2rem}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--soft);padding:.2rem 0 .4rem;caption-side:top}
th,td{padding:.28rem .6rem;text-align:right;border-bottom:1px solid var(--line)}
thead th{border-bottom:2px solid var(--line);vertical-align:bottom}
th:first-child{text-align:left;font-weight:500;position:sticky;left:0;background:var(--paper)}
thead th{font-weight:600}tr.ours th,tr.ours td{font-weight:700;background:var(--tint)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:1rem 1.2rem}
figure{margin:0;min-width:0}figcaption{font-size:.9rem;font-weight:600;margin:0 0 .2rem;overflow-wrap:anywhere}
.chart{width:100%;height:auto;display:block}.chart text{fill:var(--ink);font-family:inherit}
.chart .tick{font-size:13px;fill:var(--soft)}.chart .axis{font-size:13px}
.grid{stroke:var(--line);stroke-width:1;fill:none}.level{stroke:var(--soft);stroke-width:1.2;fill:none}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;margin:.4rem 0 .8rem;padding:0;font-size:.9rem}
.legend li{white-space:nowrap;margin:0}.legend svg{vertical-align:middle}
details{border-bottom:1px solid var(--line);padding:.35rem 0}summary{cursor:pointer;font-weight:600}
pre{background:var(--tint);padding:.7rem;overflow-x:auto;border-radius:4px}code{font-size:.92em}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--paper:#fff;--tint:#f2f2f2;--line:#bbb;--good:#0a7a52;
--bad:#b3261e;--plus:#0b5cad;--minus:#c2410c;--off:#8a2b62;--s0:#6b7280;--s1:#b35900;--s2:#7a5195;--s3:#0072b2;--s4:#009e73;
--s5:#cc3311;--s6:#33a0c4;--s7:#b8860b;--s8:#c2528b;--s9:#5a8a00;--s10:#3d4f8a;--s11:#8c564b}
body{font-size:10.5pt}main{max-width:none;padding:0}.wide{overflow:visible}table{font-size:8pt}th,td{padding:.15rem .3rem}
.charts{grid-template-columns:1fr 1fr}figure,.verdict,tr,details{break-inside:avoid}h2{break-after:avoid}
details>*{display:block}details::details-content{content-visibility:visible;display:block}}
"""
