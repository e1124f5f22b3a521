"""The style sheet of the page: light and dark, one column on a phone."""

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --card: #f7f7f5; --ink: #222222; --faint: #666666; --grid: #e6e6e6;
  --edge: #dededa; --wrong: #c0392b; --c0: #0072B2; --c1: #E69F00; --c2: #009E73; --c3: #CC79A7;
  --c4: #56B4E9; --c5: #D55E00; --none: #9a9a9a; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --card: #1f2226; --ink: #e8e8e6; --faint: #a2a6aa;
  --grid: #33373c; --edge: #383c42; --wrong: #ff8270; --c0: #4aa8e8; --c1: #f0b43c; --c2: #2dbf94;
  --c3: #dd95bd; --c4: #7cc9f5; --c5: #f08040; --none: #80858a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Helvetica Neue", Arial, "Liberation Sans", sans-serif; overflow-wrap: break-word; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 44px 0 6px; padding-top: 14px; border-top: 1px solid var(--edge); }
p { margin: 6px 0 12px; max-width: 76ch; }
.quiet, caption { color: var(--faint); font-size: .9rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 10px 14px; }
.tile b { display: block; font-size: 1.65rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--faint); font-size: .85rem; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: .9rem; margin: 8px 0; }
.key i { display: inline-block; width: 22px; height: 0; border-top: 3px solid; vertical-align: middle;
  margin-right: 7px; }
.key i.dashed { border-top-style: dashed; border-top-width: 2px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)); gap: 22px 26px;
  margin: 14px 0; }
.maps { display: flex; flex-wrap: wrap; gap: 0 26px; }
.maps > div { max-width: 100%; }
svg { display: block; width: 100%; height: auto; max-width: 500px; color: var(--ink); }
svg.fixed { width: auto; max-width: none; }
svg text { font-size: 11px; fill: var(--ink); }
svg .head { font-size: 13px; font-weight: 600; }
svg .tick, svg .name { fill: var(--faint); }
svg .mid { text-anchor: middle; }
svg .end { text-anchor: end; }
svg .over { fill: var(--paper); pointer-events: none; }
.grid { stroke: var(--grid); stroke-width: .8; }
.axis { fill: none; stroke: var(--faint); }
.frame { fill: none; stroke: var(--edge); }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.thin { stroke-width: 1; opacity: .55; }
.line.dashed { stroke-width: 1.4; stroke-dasharray: 4 3; }
.area { fill: currentColor; opacity: .85; }
.band { fill: currentColor; opacity: .16; }
.dot { fill: currentColor; }
.ring { fill: var(--paper); stroke: currentColor; stroke-width: 1.4; }
.hit { fill: var(--c0); }
.miss { fill: var(--c5); }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); } .c3 { color: var(--c3); }
.c4 { color: var(--c4); } .c5 { color: var(--c5); } .none { color: var(--none); }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; padding-bottom: 4px; }
th, td { padding: 5px 12px; text-align: right; border-bottom: 1px solid var(--edge); white-space: nowrap; }
th { font-weight: 600; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
td small { display: block; color: var(--faint); font-size: .8em; line-height: 1.2; }
td.shade { background: color-mix(in srgb, var(--c0) calc(var(--share) * 40%), transparent); }
td.trained { font-weight: 700; box-shadow: inset 0 0 0 2px var(--ink); }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 16px;
  margin: 14px 0; }
.pair { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 12px 14px; min-width: 0; }
.pair div { display: flex; gap: 14px; }
.pair figure { margin: 0; min-width: 0; flex: var(--n) 1 0; display: flex; flex-direction: column; }
.pair figcaption { font-size: .85rem; line-height: 1.3; }
.pair figcaption b { font-weight: 600; }
.pair figure > span { display: flex; gap: 4px; margin-top: auto; padding-top: 6px; }
.pair img { flex: 1 1 0; min-width: 0; max-width: 128px; width: 100%; border-radius: 3px; }
.pair p { font-size: .9rem; margin: 10px 0 0; }
.wrong { color: var(--wrong); }
details { margin: 8px 0; } summary { cursor: pointer; padding: 4px 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; font-size: .9rem; }
dt { color: var(--faint); } dd { margin: 0; min-width: 0; }
@media (max-width: 560px) { main { padding: 18px 14px 40px; } th, td { padding: 5px 8px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 6px; } }
@media print { main { max-width: none; } .pair, svg, tr { break-inside: avoid; } }
"""
